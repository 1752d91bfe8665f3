"""Time per atom and step on the device that JAX finds, from 1,372 to 1,000,188 atoms of fcc Cu in float32.

    python benchmarks/device_speed.py                                  on a GPU, where JAX has one; else on all cores
    python benchmarks/device_speed.py --atoms 1372 10976 --potentials "moments 5 Å"

Wall time, without compilation, of `adatom.md`: NVE from 300 K, 1 fs, lists of neighbours rebuilt where atoms ask for it. And of
the parts of a step, each alone: the model (energy, forces, virial), and one new list. Beside them how far float32 forces are
from float64's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import copper  # noqa: E402
from md_measurement import POTENTIALS, moved_by, native, parts, potential_of  # noqa: E402

SIZES = (1372, 10976, 97556, 1000188)
ATOM_STEPS = {"cpu": 2e6, "gpu": 5e7}
"""Of one measurement, and at most and at least so many steps: weights are random, and in the end atoms fly apart."""
STEPS = 100, 20


def rounding(name: str) -> float:
    """rms of float32 forces minus float64's over rms of the latter, 864 atoms."""
    import numpy as np

    from adatom.potential import AdatomCalculator

    forces = []
    for precision in ("float32", "float64"):
        atoms = copper(864)
        atoms.calc = AdatomCalculator(potential_of(name), dtype=precision)
        forces.append(atoms.get_forces())
    return float(np.linalg.norm(forces[0] - forces[1]) / np.linalg.norm(forces[1]))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--potentials", nargs="+", default=["moments 5 Å", "moments 6 Å"], choices=list(POTENTIALS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="extrapolation")
    import jax

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0))
    name = f"{cpu_name()}, {cores} cores: JAX finds no GPU" if device.platform == "cpu" else device.device_kind
    head = {"date": str(date.today()), "device": name, "jax": jax.__version__, "commit": commit()}
    print("; ".join(str(x) for x in head.values()))
    print("| potential | atoms | a step, µs/atom | model alone | a new list | new lists a step |\n|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for potential in options.potentials:
        for n_atoms in options.atoms:
            steps = 4 * int(min(max(ATOM_STEPS.get(device.platform, 5e7) / n_atoms, STEPS[1]), STEPS[0]) // 4)
            row = native(moved_by(potential), copper(n_atoms), steps=steps, runs=1, interval=steps // 4)
            rows.append({"potential": potential, "atoms": n_atoms, **row, "parts": parts(potential, n_atoms, steps)})
            p = rows[-1]["parts"]
            print(
                f"| {potential} | {n_atoms:,} | **{row['wall']:.3f}** | {p['model']:.3f} | {p['list']:.3f} "
                f"| {row['rebuilds_per_step']:.3f} |", flush=True,
            )  # fmt: skip
        print(f"{potential}: float32 forces differ from float64's by {rounding(potential):.1e} of their rms", flush=True)
    if options.json:
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
