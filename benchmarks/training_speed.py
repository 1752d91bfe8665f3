"""Time of a training step: the compiled kernel beside pure JAX, and how soon a fit to silicon is how good.

    python benchmarks/training_speed.py DATA/mlearn_Si [--cores 1] [--minutes 0.5]

Both paths train the default configuration for a few epochs on the same frames in turn; wall seconds come from log.jsonl. Then a
whole fit of as many epochs as take about --minutes is judged on the test file. Writes `results/training_speed_<cores>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402

PATHS = {"compiled kernel": {}, "pure JAX": {"ADATOM_CXX": "none"}}
EPOCHS = 8
"""The first two have compilation in them, of the step and of what evaluates it."""


def fit(data: Path, out: Path, epochs: int, cores: int, environment: dict[str, str], *, every: int) -> dict[str, Any]:
    """One `adatom fit` with its log, CPU and wall seconds."""
    settings = ["uncertainty.kind=none", "data.audit=off", f"training.epochs={epochs}", f"training.evaluate_every={every}"]
    command = [sys.executable, "-m", "adatom.fitting.cli", "fit", "--train", str(data / "train.extxyz.gz"), "--out", str(out)]
    command += ["--test", str(data / "test.extxyz.gz"), *(x for s in settings for x in ("--set", s))]
    threads = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if cores == 1 else ""
    began = time.monotonic()
    environment = os.environ | {"XLA_FLAGS": threads} | environment
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall = time.monotonic() - began
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"log": lines, "wall": wall, "errors": json.loads((out / "metrics.json").read_text(encoding="utf-8"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=2)
    a = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.cores])
    folder = Path(tempfile.mkdtemp(prefix="adatom-training-"))
    best: dict[str, float] = {}
    for n in range(a.rounds):
        for name, environment in PATHS.items():
            log = fit(a.data, folder / f"{name}-{n}", EPOCHS, a.cores, environment, every=1)["log"]
            epoch = (log[-1]["seconds"] - log[1]["seconds"]) / (log[-1]["epoch"] - log[1]["epoch"])
            best[name] = min(best.get(name, epoch), epoch)
            print(f"{name}: first epoch {log[0]['seconds']:.1f} s with compilation, then {epoch:.2f} s an epoch", flush=True)
    ratio = best["pure JAX"] / best["compiled kernel"]
    epochs = max(2, int(60.0 * a.minutes / best["compiled kernel"]))
    whole = fit(a.data, folder / "whole", epochs, a.cores, {}, every=epochs)
    test = whole["errors"]["test"]
    print(f"ratio {ratio:.2f}; {epochs} epochs in {whole['log'][-1]['seconds']:.0f} s of training, {whole['wall']:.0f} s in all:")
    print(f"test force RMSE {test['forces']['rmse']:.1f} meV/Å, energy RMSE {test['energy']['rmse']:.2f} meV/atom")
    report = {
        "date": date.today().isoformat(), "cpu": cpu_name(), "commit": commit(), "set": a.data.name, "cores": a.cores,
        "seconds_an_epoch": best, "ratio": ratio, "epochs": epochs, "training_seconds": whole["log"][-1]["seconds"],
        "wall_seconds": whole["wall"], "test": {k: test[k] for k in ("forces", "energy")},
    }  # fmt: skip
    path = HERE / "results" / f"training_speed_{a.cores}.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
