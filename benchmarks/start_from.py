"""Does another program's model continued on new data beat the same form from nothing after the same time? One core, minutes.

    python benchmarks/start_from.py deepmd DATA [--epochs 10 40] [--steps 15000] [--reference-env DIR]
    python benchmarks/start_from.py nep DATA [--epochs 10 40] [--model FILE --set mlearn_Cu] [--frames 24]

deepmd: DeePMD-kit trains a se_e2_a of small sizes on the even training frames of DATA/mlearn_Si, the old data, and freezes it;
`dp convert-backend` makes it a `.dp`, `adatom convert` reads that. The odd frames are the new data. "Nothing" is our own
DeepPot-SE of the same sizes, and for comparison our default form.

nep: a published model, by default UNEP-v1 (DATA/models/nep), on some of the training frames of DATA/mlearn_Cu, of other DFT.
As it is, only the energy zero moved to that of the new data, which changes no force; continued; and the same network with
random parameters, the scales of its descriptors kept. The continued model is written as nep.txt and read again.

Every fit has the default settings but for its epochs, no committee, no audit and one size of batch to compile; each number of
epochs is a fit with a schedule of its own. From nothing there is one of four times as many epochs besides. Seconds are CPU time
of the whole fit, compilation and test included; the last table reads both curves at the same times, errors between two fits
interpolated in the logarithm of both. Errors are MAE on the published test frames.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from calculator_speed import commit, cpu_name, reference_environment  # noqa: E402
from copper import pin  # noqa: E402
from training_race import deepmd_folders, deepmd_input  # noqa: E402

SIZES = {"cutoff": 5.0, "smooth": 0.5, "embedding": [8, 16, 32], "axis": 4, "fitting": [64, 64]}
FORM = [
    "model.descriptor.type=deep_potential", f"model.descriptor.cutoff={SIZES['cutoff']}",
    f"model.descriptor.smooth_cutoff={SIZES['smooth']}", f"model.descriptor.embedding_net={SIZES['embedding']}",
    f"model.descriptor.axis={SIZES['axis']}", f"model.fitting_net.widths={SIZES['fitting']}", "model.repulsion=false",
]  # fmt: skip
UNEP = "Song-2024-UNEP-v1-AgAlAuCrCuMgMoNiPbPdPtTaTiVWZr.txt"
Errors = dict[str, float]
CONTINUED, NOTHING = "continued", "from nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["deepmd", "nep"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--steps", type=int, default=15000, help="of DeePMD-kit on the old half (deepmd)")
    parser.add_argument("--reference-env", type=Path, default=Path.home() / ".cache" / "adatom" / "deepmd-env")
    parser.add_argument("--model", default=UNEP, help="file in DATA/models/nep (nep)")
    parser.add_argument("--set", default="mlearn_Cu", help="folder of DATA with new frames (nep)")
    parser.add_argument("--frames", type=int, default=24, help="new frames (nep)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    pin(a.core)
    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-start-"))
    out.mkdir(parents=True, exist_ok=True)
    print(f"{date.today()}; device: {cpu_name()}, core {a.core} of {os.cpu_count()}; commit {commit()}", flush=True)
    print("\n| | epochs | CPU s | energy, meV/atom | force, meV/Å |\n|---|---|---|---|---|")
    curves: dict[str, list[Errors]] = {}
    for name, epochs, row in of_deepmd(a, out) if a.family == "deepmd" else of_nep(a, out):
        curves.setdefault(name, []).append(row)
        errors = f"{row['energy']:.2f} | {row['forces']:.1f}"
        print(f"| {name} | {epochs or '–'} | {row['seconds']:.0f} | {errors} |", flush=True)
    print(f"\n| CPU s | force, meV/Å, {CONTINUED} | {NOTHING} |\n|---|---|---|")
    for row in curves[CONTINUED]:
        other = at(row["seconds"], curves[NOTHING])
        print(f"| {row['seconds']:.0f} | {row['forces']:.1f} | {f'{other:.1f}' if other else 'not yet trained'} |")


def at(seconds: float, curve: list[Errors]) -> float | None:
    """The force error of a curve after some seconds; None before its first fit was done."""
    import numpy as np

    times, errors = (np.log([x[k] for x in curve]) for k in ("seconds", "forces"))
    return float(np.exp(np.interp(np.log(seconds), times, errors))) if np.log(seconds) >= times.min() else None


def of_deepmd(a: argparse.Namespace, out: Path) -> Iterator[tuple[str, int, Errors]]:
    """(row, epochs, errors); 0 epochs where none of ours are meant."""
    import ase.io

    data = a.data / "mlearn_Si"
    frames = ase.io.read(data / "train.extxyz.gz", index=":")
    for name, part in (("old", frames[::2]), ("new", frames[1::2])):
        ase.io.write(out / f"{name}.extxyz", part)
    test, new, seed = str(data / "test.extxyz.gz"), out / "new.extxyz", f"training.seed={a.seed}"
    begin = children()
    by_deepmd(out, reference_environment(a.reference_env.absolute()), a.steps)
    seconds = children() - begin
    adatom("convert", str(out / "model.dp"), "-o", str(out / "imported.adatom"))
    yield "DeePMD-kit's, of the old data", 0, {"seconds": seconds, **tested(out / "imported.adatom", test)}
    for n in a.epochs:
        yield CONTINUED, n, fit(out / f"continued_{n}", new, test, [seed, f"training.epochs={n}"], out / "imported.adatom")
    for n in (*a.epochs, 4 * max(a.epochs)):
        yield NOTHING, n, fit(out / f"fresh_{n}", new, test, [seed, f"training.epochs={n}", *FORM])
    n = max(a.epochs)
    yield f"{NOTHING}, our default form", n, fit(out / "default", new, test, [seed, f"training.epochs={n}"])


def by_deepmd(out: Path, python: Path, steps: int) -> None:
    """`dp train`, `dp freeze`, `dp convert-backend` -> out/model.dp. Nothing to do if it is done."""
    if (out / "model.dp").exists():
        return
    folders, elements = deepmd_folders(out / "old.extxyz", out / "deepmd")
    settings = deepmd_input(elements, folders, steps, sel=[60], rate=3e-3, decays=75, **SIZES)
    (out / "input.json").write_text(json.dumps(settings))
    for command in (["train", "input.json"], ["freeze", "-o", "model.pb"], ["convert-backend", "model.pb", "model.dp"]):
        done = subprocess.run([str(python.with_name("dp")), "--tf", *command], cwd=out, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"dp {' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def of_nep(a: argparse.Namespace, out: Path) -> Iterator[tuple[str, int, Errors]]:
    """As `of_deepmd`."""
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
    test, new, seed = str(a.data / a.set / "test.extxyz.gz"), out / "new.extxyz", f"training.seed={a.seed}"
    as_it_is = [seed, "training.epochs=1", "training.learning_rate=1e-12", "training.final_learning_rate=1e-14"]
    yield "as it is", 0, fit(out / "as_it_is", new, test, as_it_is, out / "published.adatom")
    for n in a.epochs:
        yield CONTINUED, n, fit(out / f"continued_{n}", new, test, [seed, f"training.epochs={n}"], out / "published.adatom")
    for n in (*a.epochs, 4 * max(a.epochs)):
        yield NOTHING, n, fit(out / f"fresh_{n}", new, test, [seed, f"training.epochs={n}"], out / "random.adatom")
    adatom("convert", str(out / f"continued_{max(a.epochs)}" / "model.adatom"), "--to", "nep", "-o", str(out / "nep.txt"))
    adatom("convert", str(out / "nep.txt"), "-o", str(out / "again.adatom"))


def tested(model: Path, test: str) -> Errors:
    """Of a model as it is."""
    from adatom.fitting.dataset import read_frames
    from adatom.fitting.metrics import compare
    from adatom.potential import load

    frames, _ = read_frames([test])
    errors = compare(load(model), frames, precision="float32").errors()
    return {k: errors[k]["mae"] for k in ("energy", "forces")}


def children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fit(folder: Path, train: Path, test: str, settings: list[str], start: Path | None = None) -> Errors:
    """CPU seconds of a fit, and its errors on the test frames."""
    begin = children()
    settings = ["uncertainty.kind=none", "data.audit=off", "training.max_buckets=1", *settings]
    flags = [x for s in settings for x in ("--set", s)] + (["--start-from", str(start)] if start else [])
    adatom("fit", "--train", str(train), "--test", test, "--out", str(folder), *flags)
    seconds = children() - begin
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
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
