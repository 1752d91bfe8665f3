"""Does a DeePMD-kit model continued on new data beat a fresh one after the same time? On silicon, one core, minutes.

    python benchmarks/start_from.py DATA/mlearn_Si [--before 60] [--epochs 20] [--seed 1]

DATA/mlearn_Si holds train.extxyz.gz and test.extxyz.gz. The even training frames make a DeepPot-SE (`--before` epochs), which is
written as `.dp` and read back with `adatom convert`: what a user of DeePMD-kit has. Then the odd ones, the new data: once with
`adatom fit --start-from`, once with the same sizes from nothing, for the same number of epochs, the same time within a few
per cent (printed). Errors are those on the published test frames.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FORM = [
    "model.descriptor.type=deep_potential", "model.descriptor.cutoff=5.0", "model.descriptor.embedding_net=[8, 16, 32]",
    "model.descriptor.axis=4", "model.fitting_net.widths=[64, 64]", "model.repulsion=false",
]  # fmt: skip
COMMON = ["uncertainty.kind=none", "data.audit=off", "training.max_buckets=1", "training.batch_atoms=256"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    import ase.io

    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-start-"))
    out.mkdir(parents=True, exist_ok=True)
    frames = ase.io.read(a.data / "train.extxyz.gz", index=":")
    for name, part in (("old", frames[::2]), ("new", frames[1::2])):
        ase.io.write(out / f"{name}.extxyz", part)
    test = str(a.data / "test.extxyz.gz")
    common = [x for s in [*COMMON, f"training.seed={a.seed}"] for x in ("--set", s)]
    form = [x for s in FORM for x in ("--set", s)]
    old, new = str(out / "old.extxyz"), str(out / "new.extxyz")
    before = ["--set", f"training.epochs={a.before}"]
    adatom("fit", "--train", old, "--test", test, "--out", str(out / "before"), *common, *form, *before)
    adatom("convert", str(out / "before" / "model.adatom"), "--to", "deepmd", "-o", str(out / "model.dp"))
    adatom("convert", str(out / "model.dp"), "-o", str(out / "imported.adatom"))
    epochs = ["--set", f"training.epochs={a.epochs}"]
    start = ["--start-from", str(out / "imported.adatom"), "--set", "training.learning_rate=5e-4"]
    adatom("fit", "--train", new, "--test", test, "--out", str(out / "continued"), *common, *epochs, *start)
    adatom("fit", "--train", new, "--test", test, "--out", str(out / "fresh"), *common, *epochs, *form)
    rows = {}
    print(f"\n{'':<28}{'seconds':>8}{'energy MAE meV/atom':>22}{'force MAE meV/Å':>18}")
    names = {"before": "old half of the data", "continued": "continued on the new half", "fresh": "new half, from nothing"}
    for name, text in names.items():
        metrics = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        energy, force = (metrics["test"][k]["mae"] for k in ("energy", "forces"))
        seconds = metrics["training"]["seconds"]
        rows[name] = {"seconds": seconds, "energy": energy, "forces": force}
        print(f"{text:<28}{seconds:>8.0f}{energy:>22.2f}{force:>18.1f}")
    print(json.dumps(rows))


def adatom(*arguments: str) -> None:
    """In a process of its own, on one core."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    done = subprocess.run(
        [sys.executable, "-m", "adatom.fitting.cli", *arguments], env={**os.environ, "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"adatom {' '.join(arguments)} failed")


if __name__ == "__main__":
    main()
