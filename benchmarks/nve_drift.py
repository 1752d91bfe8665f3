"""How well a fitted potential conserves energy: NVE of 216 silicon atoms, in both precisions.

    python benchmarks/nve_drift.py MODEL.adatom                                 10 ps: 10,000 steps of 1 fs at 300 K
    python benchmarks/nve_drift.py MODEL.adatom --steps 100000 --precisions float32      100 ps
    python benchmarks/nve_drift.py MODEL.adatom --steps 500 --cells 2           quick

The diamond crystal, at the potential's own lattice constant unless one is given, is brought to temperature by Langevin
dynamics, once for both precisions, and then left alone. The reference of the run is float64: the drift it has is the
integrator's; what float32 adds is rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

GUESS = 5.43


def lattice_constant(calc: Any) -> float:
    """Minimum of a parabola through 9 energies within ±4 % of 5.43 Å; 5.43 where there is no minimum there. Å."""
    import numpy as np
    from ase.build import bulk

    lengths, energies = GUESS * np.linspace(0.96, 1.04, 9), []
    for a in lengths:
        atoms = bulk("Si", a=float(a), cubic=True)
        atoms.calc = calc
        energies.append(atoms.get_potential_energy())
    c2, c1, _ = np.polyfit(lengths - GUESS, energies, 2)
    best = GUESS - c1 / (2.0 * c2)
    return float(best) if c2 > 0.0 and lengths[0] < best < lengths[-1] else GUESS


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--precisions", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--timestep-fs", type=float, default=1.0)
    parser.add_argument("--temperature-K", type=float, default=300.0)
    parser.add_argument("--equilibration-steps", type=int, default=500)
    parser.add_argument("--cells", type=int, default=3, help="conventional cells a side: 3 is 216 atoms")
    parser.add_argument("--lattice-constant", type=float, default=None, help="Å")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    pin(options.core)
    from ase.build import bulk

    from adatom.md import simulate
    from adatom.md.velocities import without_drift
    from adatom.potential import AdatomCalculator, load
    from adatom.potential.neighbours import neighbour_pairs
    from adatom.potential.structure import from_atoms

    potential = load(options.model)
    exact = AdatomCalculator(potential, dtype="float64")
    a = options.lattice_constant or lattice_constant(exact)
    atoms = bulk("Si", a=a, cubic=True) * (options.cells, options.cells, options.cells)
    warm = simulate(
        potential, atoms, precision="float64", ensemble="nvt", temperature_K=options.temperature_K,
        timestep_fs=options.timestep_fs, steps=options.equilibration_steps, seed=0,
    ).atoms  # fmt: skip
    warm.set_velocities(without_drift(warm.get_masses()[:, None], warm.get_velocities()))
    pairs = len(neighbour_pairs(from_atoms(warm), potential.model.cutoff).i)
    print(f"{date.today()}; device: {cpu_name()}, core {options.core} of {os.cpu_count()}; commit {commit()}")
    print(f"{len(warm)} Si atoms, {pairs} pairs within {potential.model.cutoff:g} Å, a = {a:.4f} Å, {options.model}")
    print(f"NVE, {options.steps} steps of {options.timestep_fs:g} fs, started at {options.temperature_K:g} K\n")
    print("| precision | drift, meV/atom/ns | rms, meV/atom | rms ÷ the first | mean T, K | wall, s | ms/step |")
    print("|---|---|---|---|---|---|---|", flush=True)
    reference = None
    for dtype in options.precisions:
        out = simulate(
            potential, warm, precision=dtype, ensemble="nve", timestep_fs=options.timestep_fs, steps=options.steps,
            interval=max(1, min(10, options.steps // 20)),
        )  # fmt: skip
        assert out.drift is not None
        reference = reference or out.drift.rms
        drift = f"{1e3 * out.drift.slope:+.2g} ± {1e3 * out.drift.error:.1g}"
        each = 1e3 * out.wall_s / options.steps
        print(
            f"| {dtype} | {drift} | {1e3 * out.drift.rms:.2g} | {out.drift.rms / reference:.2f} | "
            f"{out.temperature_mean:.0f} | {out.wall_s:.0f} | {each:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
