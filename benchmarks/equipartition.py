"""Do directions and halves of the atoms have the temperature asked for? Several long runs, where md_validation.py has one.

    python benchmarks/equipartition.py [--runs 6] [--steps 40000]

Solid argon at 60 K, Nosé–Hoover chains with the isotropic barostat. Directions of a crystal exchange energy slowly, so that the
error of a single run is easily estimated too small; here it is that of the mean over the runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from copper import pin  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    a = parser.parse_args()
    pin(a.core)
    import numpy as np
    from validation.argon import PRESSURES_GPA, TEMPERATURES, argon, run_of
    from validation.ensembles import equipartition

    means: dict[str, list[float]] = {}
    settings = {"temperature_K": TEMPERATURES[0], "pressure_GPa": PRESSURES_GPA[0], "steps": a.steps, "seed": a.seed}
    with tempfile.TemporaryDirectory() as folder:
        found, velocities = run_of("nose-hoover", "isotropic", a.runs, Path(folder), settings)
    share = found[0].degrees_of_freedom / (3.0 * len(argon()))
    for v in velocities:
        for label, (mean, _) in equipartition(v, argon().get_masses(), share).items():
            means.setdefault(label, []).append(mean)
    print(f"| {a.runs} runs of {a.steps} steps | K, for {TEMPERATURES[0]:g} |\n|---|---|")
    for label, each in means.items():
        print(f"| {label} | {np.mean(each):.2f} ± {np.std(each, ddof=1) / np.sqrt(len(each)):.2f} |")


if __name__ == "__main__":
    main()
