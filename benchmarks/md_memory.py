"""A million atoms of fcc Cu in our own molecular dynamics: peak memory and time per atom and step.

    python benchmarks/md_memory.py MODEL.adatom                            1,000,188 atoms, 100 steps: about an hour on one core
    python benchmarks/md_memory.py                                         the same with Lennard-Jones copper: minutes
    python benchmarks/md_memory.py --cells 20 --steps 10                   quick

The limit to keep is 8 GiB of resident memory, everything included. Frames and rows are written at the start, half-way and at
the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

LIMIT = 8.0


def peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a potential that knows Cu; none: Lennard-Jones")
    parser.add_argument("--cells", type=int, default=63, help="conventional cells a side: 63 is 1,000,188 atoms")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    pin(options.core)
    from ase.build import bulk

    from adatom.md import simulate
    from adatom.md.prepare import memory_needed
    from adatom.potential import load
    from adatom.potential.pairwise import LennardJones

    # Halicioglu, Pound, phys. stat. sol. (a) 30, 619 (1975)
    potential: Any = options.model or LennardJones((29,), 0.409, 2.338, 5.5)
    atoms = bulk("Cu", cubic=True, a=3.63) * (options.cells, options.cells, options.cells)
    print(f"{date.today()}; device: {cpu_name()}, core {options.core} of {os.cpu_count()}; commit {commit()}")
    cutoff = load(potential).model.cutoff if options.model else potential.cutoff
    predicted = memory_needed(atoms, cutoff + 0.5, "float32") / 2**30
    print(f"{len(atoms):,} Cu atoms, NVE from 300 K, {options.steps} steps of 1 fs, {potential}")
    print(f"predicted: {predicted:.2f} GiB", flush=True)
    marks: list[tuple[int, float]] = []

    def report(done: int, steps: int) -> None:
        marks.append((done, time.process_time()))
        if done in (1, 2, 5) or done % 10 == 0:
            print(f"  step {done} of {steps}: {marks[-1][1]:.0f} s CPU, peak {peak():.2f} GiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out = simulate(
            potential, atoms, ensemble="nve", temperature_K=300.0, steps=options.steps, interval=max(1, options.steps // 2),
            trajectory=Path(folder) / "run.h5", log=Path(folder) / "run.csv", progress=report,
        )  # fmt: skip
        written = out.trajectory.stat().st_size / 1024**2 if out.trajectory else 0.0
    first, last = out.rows[0], out.rows[-1]
    each = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0]) / len(atoms) * 1e6
    verdict = "kept" if peak() <= LIMIT else f"MISSED by {peak() - LIMIT:.2f} GiB"
    share = 1024**3 * peak() / len(atoms)
    print(f"\npeak resident memory {peak():.2f} GiB (limit {LIMIT:g}: {verdict}), {share:,.0f} bytes an atom")
    print(f"{each:.1f} µs CPU per atom and step, {last.rebuilds} list rebuilds; trajectory of three frames {written:.0f} MiB")
    change = 1e3 * (last.total_eV - first.total_eV) / len(atoms)
    print(f"total energy {change:+.4f} meV/atom in {last.time_ps:g} ps; {first.temperature_K:.0f} -> {last.temperature_K:.0f} K")


if __name__ == "__main__":
    main()
