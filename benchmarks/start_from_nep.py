"""Does a published NEP model continued on new data beat the same form from nothing after the same time? Silicon, one core.

    python benchmarks/start_from_nep.py DATA [--frames 60] [--epochs 12] [--seed 1]

DATA holds models/nep/Si_2022_NEP4_5body.txt (fitted to other DFT data of silicon) and mlearn_Si. Three rows: the model as it is,
with only the energy zero moved to that of the new data (which changes no force); continued on some of the training frames
(`adatom fit --start-from`); and the same network with random parameters, its scales of the descriptor kept, trained in the same
way for as many epochs, which is the same time (printed). Errors are those on the published test frames. At last the continued
model is written as nep.txt and read again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", default="1e-3")
    parser.add_argument("--fresh-rate", default="5e-3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    import ase.io
    import jax
    import numpy as np

    from adatom.potential import save
    from adatom.potential.interop import convert
    from adatom.potential.interop.nep.model import NepModel

    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-start-nep-"))
    out.mkdir(parents=True, exist_ok=True)
    frames = ase.io.read(a.data / "mlearn_Si" / "train.extxyz.gz", index=":")
    ase.io.write(out / "new.extxyz", [frames[n] for n in np.linspace(0, len(frames) - 1, a.frames).round().astype(int)])
    source = convert.read(a.data / "models" / "nep" / "Si_2022_NEP4_5body.txt")
    save(source, out / "published.adatom")
    assert isinstance(source.model, NepModel)
    network = jax.tree.map(np.asarray, source.model.init(jax.random.key(a.seed)))
    network["constants"] = source.params["network"]["constants"]
    save(replace(source, params={**source.params, "network": network}, golden=None), out / "random.adatom")

    test = str(a.data / "mlearn_Si" / "test.extxyz.gz")
    settings = ["uncertainty.kind=none", "data.audit=off", "training.max_buckets=1", "training.batch_atoms=128"]
    rows = {}
    for name, model, rate, epochs in (
        ("published, not trained", "published", "1e-12", 1),
        ("continued on the new frames", "published", a.rate, a.epochs),
        ("from nothing", "random", a.fresh_rate, a.epochs),
    ):
        folder = out / name.split(",")[0].replace(" ", "_")
        own = [f"training.seed={a.seed}", f"training.epochs={epochs}", f"training.learning_rate={rate}"]
        own += [f"training.final_learning_rate={float(rate) / 100:g}"]
        flags = [x for s in [*settings, *own] for x in ("--set", s)]
        start = ["--start-from", str(out / f"{model}.adatom")]
        adatom("fit", "--train", str(out / "new.extxyz"), "--test", test, "--out", str(folder), *flags, *start)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        errors = {k: metrics["test"][k]["mae"] for k in ("energy", "forces")}
        rows[name] = {"seconds": metrics["training"]["seconds"], **errors}
    last = out / "continued_on_the_new_frames" / "model.adatom"
    adatom("convert", str(last), "--to", "nep", "-o", str(out / "nep.txt"))
    adatom("convert", str(out / "nep.txt"), "-o", str(out / "again.adatom"))
    print(f"\n{'':<30}{'seconds':>8}{'energy MAE meV/atom':>22}{'force MAE meV/Å':>18}")
    for name, row in rows.items():
        print(f"{name:<30}{row['seconds']:>8.0f}{row['energy']:>22.2f}{row['forces']:>18.1f}")
    print(json.dumps(rows))


def adatom(*arguments: str) -> None:
    """In a process of its own, on one core."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {**os.environ, "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "adatom.fitting.cli", *arguments], env=environment)
    if done.returncode:
        raise SystemExit(f"adatom {' '.join(arguments)} failed")


if __name__ == "__main__":
    main()
