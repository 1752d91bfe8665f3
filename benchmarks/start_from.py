"""Does another program's model continued on new data beat the same form from nothing after the same time? One core, minutes.

    python benchmarks/start_from.py deepmd DATA [--before 60] [--epochs 30]
    python benchmarks/start_from.py nep DATA [--model FILE --set mlearn_Cu] [--frames 40] [--epochs 40]

deepmd: the even training frames of DATA/mlearn_Si make a DeepPot-SE (`--before` epochs), written as `.dp` and read back with
`adatom convert`: what a user of DeePMD-kit has. Then the odd ones, the new data: with `adatom fit --start-from`, and with the
same sizes from nothing.

nep: a published model, by default UNEP-v1 (DATA/models/nep), on some of the training frames of DATA/mlearn_Cu, of other DFT.
As it is, only the energy zero moved to that of the new data, which changes no force; continued; and the same network with
random parameters, the scales of its descriptors kept. The continued model is written as nep.txt and read again.

The same number of epochs of the same form is the same time; CPU seconds of each whole fit are printed, compilation and test
included. Errors are MAE on the published test frames.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

FORM = [
    "model.descriptor.type=deep_potential", "model.descriptor.cutoff=5.0", "model.descriptor.embedding_net=[8, 16, 32]",
    "model.descriptor.axis=4", "model.fitting_net.widths=[64, 64]", "model.repulsion=false",
]  # fmt: skip
COMMON = ["uncertainty.kind=none", "data.audit=off", "training.max_buckets=1"]
UNEP = "Song-2024-UNEP-v1-AgAlAuCrCuMgMoNiPbPdPtTaTiVWZr.txt"
Row = tuple[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["deepmd", "nep"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=int, default=60, help="epochs on the old half (deepmd)")
    parser.add_argument("--epochs", type=int, help="default 30 (deepmd), 40 (nep)")
    parser.add_argument("--model", default=UNEP, help="file in DATA/models/nep (nep)")
    parser.add_argument("--set", default="mlearn_Cu", help="folder of DATA with new frames (nep)")
    parser.add_argument("--frames", type=int, default=40, help="new frames (nep)")
    parser.add_argument("--rate", help="of continued training; default 5e-4 (deepmd), 1e-3 (nep)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-start-"))
    out.mkdir(parents=True, exist_ok=True)
    print(f"\n{'':<30}{'CPU s':>8}{'energy, meV/atom':>20}{'force, meV/Å':>16}")
    rows = {}
    for name, row in of_deepmd(a, out) if a.family == "deepmd" else of_nep(a, out):
        rows[name] = row
        print(f"{name:<30}{row['seconds']:>8.0f}{row['energy']:>20.2f}{row['forces']:>16.1f}", flush=True)
    print(json.dumps(rows))


def of_deepmd(a: argparse.Namespace, out: Path) -> Any:
    """Three rows."""
    import ase.io

    data = a.data / "mlearn_Si"
    frames = ase.io.read(data / "train.extxyz.gz", index=":")
    for name, part in (("old", frames[::2]), ("new", frames[1::2])):
        ase.io.write(out / f"{name}.extxyz", part)
    test, epochs = str(data / "test.extxyz.gz"), f"training.epochs={a.epochs or 30}"
    common = [*COMMON, "training.batch_atoms=256", f"training.seed={a.seed}"]
    yield "old half of the data", fit(out / "before", out / "old.extxyz", test, [*common, *FORM, f"training.epochs={a.before}"])
    adatom("convert", str(out / "before" / "model.adatom"), "--to", "deepmd", "-o", str(out / "model.dp"))
    adatom("convert", str(out / "model.dp"), "-o", str(out / "imported.adatom"))
    slower = f"training.learning_rate={a.rate or '5e-4'}"
    new = out / "new.extxyz"
    yield "continued on the new half", fit(out / "continued", new, test, [*common, epochs, slower], out / "imported.adatom")
    yield "new half, from nothing", fit(out / "fresh", new, test, [*common, epochs, *FORM])


def of_nep(a: argparse.Namespace, out: Path) -> Any:
    """Three rows."""
    import ase.io
    import jax
    import numpy as np

    from adatom.potential import save
    from adatom.potential.interop import convert
    from adatom.potential.interop.nep.model import NepModel

    frames = ase.io.read(a.data / a.set / "train.extxyz.gz", index=":")
    chosen = np.linspace(0, len(frames) - 1, a.frames).round().astype(int)
    ase.io.write(out / "new.extxyz", [frames[n] for n in chosen])
    source = convert.read(a.data / "models" / "nep" / a.model)
    save(source, out / "published.adatom")
    assert isinstance(source.model, NepModel)
    network = jax.tree.map(np.asarray, source.model.init(jax.random.key(a.seed)))
    network["constants"] = source.params["network"]["constants"]
    save(replace(source, params={**source.params, "network": network}, golden=None), out / "random.adatom")
    test, common = str(a.data / a.set / "test.extxyz.gz"), [*COMMON, "training.batch_atoms=128", f"training.seed={a.seed}"]
    epochs, rate = a.epochs or 40, a.rate or "1e-3"
    for name, model, own, n in (
        ("as it is", "published", "1e-12", 1), ("continued", "published", rate, epochs),
        ("from nothing", "random", "5e-3", epochs),
    ):  # fmt: skip
        settings = [f"training.epochs={n}", f"training.learning_rate={own}", f"training.final_learning_rate={float(own) / 100:g}"]
        folder = out / name.replace(" ", "_")
        yield name, fit(folder, out / "new.extxyz", test, [*common, *settings], out / f"{model}.adatom")
    adatom("convert", str(out / "continued" / "model.adatom"), "--to", "nep", "-o", str(out / "nep.txt"))
    adatom("convert", str(out / "nep.txt"), "-o", str(out / "again.adatom"))


def fit(folder: Path, train: Path, test: str, settings: list[str], start: Path | None = None) -> dict[str, float]:
    """CPU seconds of a fit, and its errors on the test frames."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    flags = [x for s in settings for x in ("--set", s)] + (["--start-from", str(start)] if start else [])
    adatom("fit", "--train", str(train), "--test", test, "--out", str(folder), *flags)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
    return {"seconds": seconds, **{k: metrics["test"][k]["mae"] for k in ("energy", "forces")}}


def adatom(*arguments: str) -> None:
    """In a process of its own, on one core; what it prints goes to standard error."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {**os.environ, "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-m", "adatom.fitting.cli", *arguments], env=environment, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"adatom {' '.join(arguments)} failed")


if __name__ == "__main__":
    main()
