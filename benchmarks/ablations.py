"""What each setting of the default fit is worth, judged on held-out training frames: test files are never read.

    python benchmarks/ablations.py DATA/mlearn_Si [--visits 2e6] [--only NAME …]

Of the training frames 30 % are held out, the same ones for all; every variant sees as many atoms (--visits). One core. Prints the
table and writes `results/ablations_<set>.json`.
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

BEFORE = ("model.fitting_net.widths=[192,192]", "training.batch_atoms=256", "loss.energy_end=200")
VARIANTS: dict[str, tuple[str, ...]] = {
    "the default": (),
    "as it was: 192-192, 256 atoms a batch, energy 200": BEFORE,
    "192-192": BEFORE[:1],
    "256 atoms a batch": BEFORE[1:2],
    "energy 200": BEFORE[2:],
    "energy 20": ("loss.energy_end=20",),
    "learning rate 8e-3": ("training.learning_rate=8e-3",),
    "weight decay 0.1": ("training.weight_decay=0.1",),
    "14 Gaussians": ("model.descriptor.n_radial=14",),
    "40 channels": ("model.descriptor.n_channels=40",),
    "order 3": ("model.descriptor.order=3",),
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
        }  # fmt: skip
        f, e = held["forces"], held["energy"]
        errors = f"{f['mae']:.1f} / {f['rmse']:.1f} | {e['mae']:.2f} / {e['rmse']:.2f}"
        print(f"| {name} | {errors} | {rows[name]['cpu_seconds']:.0f} |", flush=True)
    report = {
        "date": date.today().isoformat(), "cpu": cpu_name(), "commit": commit(), "set": a.data.name, "seed": a.seed,
        "visits": a.visits, "units": {"force": "meV/Å", "energy": "meV/atom"}, "held_out": rows,
    }  # fmt: skip
    path = HERE / "results" / f"ablations_{a.data.name}.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
