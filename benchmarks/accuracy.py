"""Accuracy of the default fit on open DFT data, beside the errors others published on the same test files.

    python benchmarks/accuracy.py DATA/mlearn_Si [--seed 1] [--out DIR] [--cores 1] [--set section.key=value …]
    python benchmarks/accuracy.py --summary

DATA/<set> holds train.extxyz.gz and test.extxyz.gz. The configuration is the default one; the seed is its only argument.
Prints the table (MAE and RMSE, in total and per config_type, with bootstrap errors over test frames) and writes it to
`benchmarks/results/accuracy_<set>_seed<seed>.json`. --summary: a line a set of all that is written there, means over seeds ± half
of what lies between the largest and the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MLEARN = "Zuo et al., J. Phys. Chem. A 124, 731 (2020), recomputed with the authors' files; GAP as ACEpotentials.jl quotes it"
# force MAE meV/Å, energy MAE meV/atom (ethanol: meV per molecule is published for energies, not compared here)
PUBLISHED = {
    "mlearn_Si": {
        "source": MLEARN,
        "MTP": (56.0, 2.31), "GAP": (70.0, 2.91), "NNP (n2p2)": (108.6, 5.63), "qSNAP": (115.7, 3.81), "SNAP": (132.7, 6.44),
    },
    "mlearn_Cu": {
        "source": MLEARN,
        "MTP": (6.9, 0.411), "GAP": (10.0, 0.46), "qSNAP": (24.1, 0.562), "NNP (n2p2)": (26.3, 1.154), "SNAP": (37.1, 0.530),
    },
    "mlearn_Mo": {
        "source": MLEARN,
        "MTP": (90.1, 2.94), "GAP": (90.0, 2.24), "NNP (n2p2)": (125.1, 3.65), "qSNAP": (183.8, 2.77), "SNAP": (206.5, 5.49),
    },
    "ethanol_rmd17": {
        "source": "Batatia et al., arXiv:2206.07697, Table 1 (another draw of 1000 frames of the same trajectory)",
        "FCHL": (6.2, None), "ACE": (7.3, None), "PaiNN": (10.0, None), "ANI": (13.4, None), "GAP": (18.1, None),
    },
    "nbmotaw": {
        "source": "recomputed with the authors' files (Yin et al., Nat. Commun. 12, 4873 (2021)), trained on more",
        "MTP": (101.1, 5.17), "SNAP": (124.7, 5.06),
    },
    "tio2_aenetpt1000": {
        "source": "aenet-PyTorch's example, recomputed from its tables, forces of 527 atoms", "aenet-PyTorch": (152.0, 5.42),
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    a = parser.parse_args()
    if a.summary:
        return print(summary())
    if not a.data:
        parser.error("which DATA/<set>?")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if a.cores == 1 else ""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[: a.cores])
    from adatom.fitting.cli import _set_up_jax

    _set_up_jax()
    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-accuracy-"))
    import numpy as np

    from adatom.fitting.config import load_config
    from adatom.fitting.dataset import read_frames
    from adatom.fitting.fit import fit
    from adatom.fitting.metrics import compare, table

    overrides = {"data.train": [str(a.data / "train.extxyz.gz")], "data.test": [str(a.data / "test.extxyz.gz")]}
    config = load_config(None, [f"training.seed={a.seed}", *a.settings], overrides)
    began, cpu = time.monotonic(), time.process_time()
    result = fit(config, out)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    frames, _ = read_frames([a.data / "test.extxyz.gz"])
    errors = result.errors["test"]
    print(f"\n{a.data.name}, seed {a.seed}, {a.cores} core(s): {wall / 60:.1f} min wall, {cpu / 60:.1f} min CPU")
    print(table(errors))
    rng = np.random.default_rng(0)
    comparison = compare(result.potential, frames)
    force = np.zeros((len(frames), 2))
    label, predicted, frame = comparison.forces
    np.add.at(force, frame, np.stack([1e3 * np.abs(predicted - label), np.ones(len(label))], axis=1))
    energy = 1e3 * np.abs(comparison.energy[1] - comparison.energy[0])
    picks = rng.integers(len(frames), size=(500, len(frames)))
    force_error = float(np.std(force[picks, 0].sum(1) / force[picks, 1].sum(1)))
    energy_error = float(np.std(energy[picks].mean(1)))
    print(f"bootstrap over {len(frames)} test frames: force MAE ± {force_error:.1f}, energy MAE ± {energy_error:.2f}")
    published = PUBLISHED.get(a.data.name, {})
    rows = sorted((v[0], k, v[1]) for k, v in published.items() if isinstance(v, tuple))
    rows.append((errors["forces"]["mae"], "adatom, default", errors["energy"]["mae"]))
    print(f"\n{'model':<18} force MAE meV/Å  energy MAE meV/atom")
    for f, name, e in sorted(rows):
        print(f"{name:<18} {f:>15.1f}  {'–' if e is None else format(e, '.2f'):>19}")
    print(f"published: {published.get('source', 'none known here')}")
    report = {
        "set": a.data.name, "seed": a.seed, "cores": a.cores, "settings": a.settings, "wall_minutes": round(wall / 60, 2),
        "cpu_minutes": round(cpu / 60, 2), "commit": _commit(), "errors": errors,
        "bootstrap": {"forces": force_error, "energy": energy_error},
        "training": result.potential.info["training"],
    }  # fmt: skip
    path = RESULTS / f"accuracy_{a.data.name}_seed{a.seed}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path} and {out}")


def summary() -> str:
    """A table of all results."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("accuracy_*.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(one["set"], []).append(one)
    lines = ["| set | seeds | force, meV/Å | energy, meV/atom | stress, GPa | CPU minutes |", "|---" * 6 + "|"]
    for name, runs in found.items():
        errors = " | ".join(_over_seeds(runs, what, digits) for what, digits in (("forces", 1), ("energy", 2), ("stress", 3)))
        minutes = " ".join(f"{r['cpu_minutes']:.1f}" for r in runs)
        lines.append(f"| {name} | {len(runs)} | {errors} | {minutes} |")
    return "\n".join(lines)


def _over_seeds(runs: list[dict[str, Any]], what: str, digits: int) -> str:
    values = [v for r in runs if (v := r["errors"][what]["mae"]) is not None]
    if not values:
        return "–"
    spread = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.{digits}f}{spread}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
