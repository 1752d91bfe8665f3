"""What each setting of the default fit is worth, judged on held-out training frames: test files are never read.

    python benchmarks/ablations.py DATA/mlearn_Si [--visits 2e6] [--only NAME …]

Of the training frames 30 % are held out, the same ones for all; every variant sees as many atoms (--visits). One core. Prints the
table and writes `results/ablations_<set>.json`, where rows of the same seed and visits stay that are not made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402

D = "model.descriptor"
FEW = f"{D}.contractions=[[1,1,2],[2,2,2]]"
SOME = f"{D}.contractions=[[1,1,2],[2,2,2],[1,2,3],[2,2,4],[2,3,3]]"
BEFORE = (
    "training.optimiser=adam", "model.fitting_net.widths=[64,64]", "training.batch_atoms=64", f"{D}.n_radial=10",
    f"{D}.inner=0.6", f"{D}.n_channels=24", FEW,
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "the default": (),
    "as it was until 2026-11-26": BEFORE,
    "Adam": BEFORE[:1],
    "size small": ("model.size=small",),
    "size large": ("model.size=large",),
    "64-64": BEFORE[1:2],
    "64 atoms a batch": BEFORE[2:3],
    "10 Gaussians": BEFORE[3:4],
    "6 Gaussians": (f"{D}.n_radial=6",),
    "first Gaussian at 0.6 Å": BEFORE[4:5],
    "2 contractions": (FEW,),
    "5 contractions": (SOME,),
    "24 channels": (f"{D}.n_channels=24",),
    "5 contractions, 24 channels": (SOME, f"{D}.n_channels=24"),
    "tensors to degree 3": (f"{D}.order=3",),
    "energy weight 20 at the end": ("loss.energy_end=20",),
    "learning rate 8e-3": ("training.learning_rate=8e-3",),
    "weight decay 0.05": ("training.weight_decay=0.05",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--visits", type=float, default=2e6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    a = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    from adatom.fitting.cli import _set_up_jax

    _set_up_jax()
    from adatom.fitting.config import load_config
    from adatom.fitting.dataset import read_frames
    from adatom.fitting.fit import fit

    train = a.data / "train.extxyz.gz"
    atoms = 0.7 * sum(len(f.structure) for f in read_frames([train])[0])
    shared = [
        "uncertainty.kind=none", "data.audit=off", "data.validation_fraction=0.3", "training.evaluate_every=100000",
        f"training.epochs={max(1, round(a.visits / atoms))}", f"training.seed={a.seed}",
    ]  # fmt: skip
    rows = {}
    for name in a.only:
        began = time.process_time()
        config = load_config(None, [*shared, *VARIANTS[name]], {"data.train": [str(train)]})
        with tempfile.TemporaryDirectory() as out:
            held = fit(config, Path(out), say=lambda _: None).errors["validation"]
        rows[name] = {
            "force": held["forces"], "energy": held["energy"], "cpu_seconds": round(time.process_time() - began, 1),
            "commit": commit(),
        }  # fmt: skip
        f, e = held["forces"], held["energy"]
        errors = f"{f['mae']:.1f} / {f['rmse']:.1f} | {e['mae']:.2f} / {e['rmse']:.2f}"
        print(f"| {name} | {errors} | {rows[name]['cpu_seconds']:.0f} |", flush=True)
    report = {
        "date": date.today().isoformat(), "cpu": cpu_name(), "commit": commit(), "set": a.data.name, "seed": a.seed,
        "visits": a.visits, "units": {"force": "meV/Å", "energy": "meV/atom"}, "held_out": rows,
    }  # fmt: skip
    path = HERE / "results" / f"ablations_{a.data.name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if (before.get("seed"), before.get("visits")) == (a.seed, a.visits):
        report["held_out"] = {**before["held_out"], **rows}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
