"""How soon a fit is how good, beside others trained on the same files in the same run: wall seconds of one core, from start.

    python benchmarks/training_race.py DATA/water_dpmd [--steps 2500] [--epochs 2 69] [--reference-env DIR]
    python benchmarks/training_race.py DATA/mlearn_Si --steps 9000 --epochs 60 317 --n2p2 BIN [--n2p2-epochs 17]

DeePMD-kit has the input of its own water example (float32, one frame a step, the learning rate brought down within --steps);
for other sets sel is 80 and rcut_smth 2 Å. n2p2, where BIN has its nnp-scaling and nnp-train, has the published input of the set
(DATA/models/n2p2), Kalman filter and forces included, and its own centring and normalisation. Ours is the default fit, once for
each of --epochs. All are judged on the test file: DeePMD-kit ten times on 20 of its frames, ours up to 15 times on all, the time
for which is in the seconds; n2p2 on all, afterwards, from the weights of each epoch. Nothing is chosen by it: figures are of
the last weights, and of the first time that ours were as good as the last of a rival. Writes `results/training_race_<set>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name, reference_environment  # noqa: E402
from copper import pin  # noqa: E402

Curve = list[tuple[float, float, float]]
"""Wall seconds; force RMSE, meV/Å; energy RMSE, meV/atom."""
SEL = {"O": 46, "H": 92}
BOHR, HARTREE = 0.529177210903, 27.211386245988


def deepmd_folders(path: Path, out: Path) -> tuple[list[str], list[str]]:
    """Frames of a file as DeePMD's npy, a folder for every sequence of elements. Returns folders and elements."""
    import numpy as np
    from ase.io import read

    frames = read(path, ":")
    elements = sorted({s for x in frames for s in x.symbols}, key=lambda s: (s != "O", s))
    groups = defaultdict(list)
    for x in frames:
        groups[tuple(x.symbols)].append(x)
    for n, (symbols, some) in enumerate(groups.items()):
        folder = out / f"{n:02d}" / "set.000"
        folder.mkdir(parents=True)
        arrays = {"coord": [x.positions for x in some], "box": [x.cell.array for x in some]}
        arrays |= {"energy": [x.get_potential_energy() for x in some], "force": [x.get_forces() for x in some]}
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", np.array(values).reshape(len(some), -1))
        (folder.parent / "type.raw").write_text("".join(f"{elements.index(s)}\n" for s in symbols))
        (folder.parent / "type_map.raw").write_text("".join(f"{s}\n" for s in elements))
    return sorted(str(x) for x in out.iterdir()), elements


def deepmd_input(
    elements: list[str], systems: list[str], steps: int, *, sel: list[int], smooth: float, cutoff: float = 6.0,
    embedding: Sequence[int] = (25, 50, 100), axis: int = 16, fitting: Sequence[int] = (240, 240, 240), rate: float = 1e-3,
    decays: int = 50,
) -> dict[str, Any]:  # fmt: skip
    """Of `dp train`: se_e2_a in float32, one frame a step, loss and learning rate as in its water example, but the rate falls
    `decays` times within the steps."""
    return {
        "model": {
            "type_map": elements,
            "descriptor": {
                "type": "se_e2_a", "sel": sel, "rcut_smth": smooth, "rcut": cutoff, "neuron": list(embedding),
                "resnet_dt": False, "axis_neuron": axis, "precision": "float32", "seed": 1,
            },
            "fitting_net": {"neuron": list(fitting), "resnet_dt": True, "precision": "float32", "seed": 1},
        },
        "learning_rate": {"type": "exp", "start_lr": rate, "stop_lr": 1e-6, "decay_steps": max(1, steps // decays)},
        "loss": {
            "type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1,
            "start_pref_v": 0, "limit_pref_v": 0,
        },
        "training": {
            "training_data": {"systems": systems, "batch_size": 1}, "numb_steps": steps, "seed": 1, "disp_file": "lcurve.out",
            "disp_freq": max(1, steps // 10), "save_freq": steps,
        },
    }  # fmt: skip


def watched(command: list[str], folder: Path, read: Callable[[], Curve]) -> Curve:
    """The curve of a program, with the seconds since its start at which each point was there to be read."""
    began, seen = time.perf_counter(), []
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        running = True
        while running:
            running = process.poll() is None
            points = read()
            seen += [(time.perf_counter() - began, *x[1:]) for x in points[len(seen) :]]
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return seen


def deepmd(data: Path, folder: Path, python: Path, steps: int) -> Curve:
    """Trained on one core."""
    train, elements = deepmd_folders(data / "train.extxyz.gz", folder / "train")
    test, _ = deepmd_folders(data / "test.extxyz.gz", folder / "test")
    water = set(elements) == set(SEL)
    settings = deepmd_input(elements, train, steps, sel=[SEL[s] if water else 80 for s in elements], smooth=0.5 if water else 2.0)
    settings["training"] |= {"validation_data": {"systems": test, "batch_size": 1, "numb_btch": 20}, "seed": 10}
    (folder / "input.json").write_text(json.dumps(settings))

    def read() -> Curve:
        try:
            lines = [x.split() for x in (folder / "lcurve.out").read_text().splitlines()]
        except FileNotFoundError:
            return []
        head = lines[0][1:] if lines else []
        rows = [dict(zip(head, map(float, x), strict=True)) for x in lines if len(x) == len(head) and x[0] != "#"]
        return [(0.0, 1e3 * x["rmse_f_val"], 1e3 * x["rmse_e_val"]) for x in rows]

    return watched([str(python.with_name("dp")), "--tf", "train", "input.json"], folder, read)


def n2p2(data: Path, folder: Path, programs: Path, epochs: int) -> Curve:
    """Scaled and trained by its own programs on one core; scaling is in the seconds, reading the weights of each epoch is not."""
    import shutil

    from ase.io import read

    from adatom.fitting.dataset import read_frames
    from adatom.fitting.metrics import compare
    from adatom.potential.interop import convert

    lines = []
    for x in read(data / "train.extxyz.gz", ":"):
        rows = zip(x.symbols, x.positions / BOHR, x.get_forces() * BOHR / HARTREE, strict=True)
        lines += ["begin", *("lattice " + " ".join(f"{v:.12e}" for v in row / BOHR) for row in x.cell.array)]
        lines += [f"atom {' '.join(f'{v:.12e}' for v in r)} {s} 0 0 {' '.join(f'{v:.12e}' for v in f)}" for s, r, f in rows]
        lines += [f"energy {x.get_potential_energy() / HARTREE:.12e}", "charge 0", "end"]
    (folder / "input.data").write_text("\n".join(lines) + "\n")
    published = (data.parent / "models" / "n2p2" / data.name / "input.nn").read_text().splitlines()
    settings = [x for x in published if x.split()[:1] != ["epochs"]]
    settings += [f"epochs {epochs}", "normalize_data_set force", "center_symmetry_functions"]  # without these two it diverges
    (folder / "input.nn").write_text("\n".join(settings) + "\n")
    began = time.time()
    for command in ([programs / "nnp-scaling", "100"], [programs / "nnp-train"]):
        done = subprocess.run([str(x) for x in command], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    frames, curve = read_frames([data / "test.extxyz.gz"])[0], []
    for weights in sorted(folder.glob("weights.*.*.out"))[1:]:  # not those it began with
        model = folder / f"model-{weights.name.split('.')[2]}"
        model.mkdir()
        for name in ("input.nn", "scaling.data"):
            shutil.copy(folder / name, model)
        shutil.copy(weights, model / f"weights.{weights.name.split('.')[1]}.data")
        errors = compare(convert.read(model, "n2p2", length_unit="bohr", energy_unit="hartree"), frames).errors()
        curve.append((weights.stat().st_mtime - began, errors["forces"]["rmse"], errors["energy"]["rmse"]))
    return curve


def ours(data: Path, folder: Path, epochs: int) -> Curve:
    """The default fit."""
    test = str(data / "test.extxyz.gz")
    settings = [f"data.validation={json.dumps([test])}", "uncertainty.kind=none", f"training.epochs={epochs}"]
    settings += [f"training.evaluate_every={max(1, epochs // 15)}"]
    command = [sys.executable, "-m", "adatom.fitting.cli", "fit", "--train", str(data / "train.extxyz.gz"), "--out", "fit"]
    log = folder / "fit" / "log.jsonl"

    def read() -> Curve:
        lines = [json.loads(x) for x in log.read_text().splitlines() if x.endswith("}")] if log.exists() else []
        found = [x["validation"] for x in lines if "validation" in x]
        return [(0.0, x["forces_rmse"], x["energy_rmse"]) for x in found]

    return watched([*command, *(x for s in settings for x in ("--set", s))], folder, read)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 69])
    parser.add_argument("--n2p2", type=Path, help="folder of its programs")
    parser.add_argument("--n2p2-epochs", type=int, default=17)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--reference-env", type=Path, default=Path.home() / ".cache" / "adatom" / "deepmd-env")
    options = parser.parse_args(arguments)
    data = options.data.resolve()
    python = reference_environment(options.reference_env.absolute())
    pin(options.core)
    head = {"date": str(date.today()), "device": cpu_name(), "commit": commit(), "set": data.name}
    print("; ".join(head.values()), flush=True)
    with tempfile.TemporaryDirectory() as made:
        runs: dict[str, Curve] = {}

        def run(name: str, curve: Callable[[Path], Curve]) -> None:
            own = Path(made) / name.replace(" ", "-")
            own.mkdir()
            runs[name] = curve(own)
            print(name, " ".join(f"{t:.0f}s:{f:.0f}" for t, f, _ in runs[name]), flush=True)

        run("DeePMD-kit", lambda own: deepmd(data, own, python, options.steps))
        if options.n2p2:
            run("n2p2", lambda own: n2p2(data, own, options.n2p2.resolve(), options.n2p2_epochs))
        rivals = list(runs)
        for n in options.epochs:
            run(f"adatom, {n} epochs", lambda own, n=n: ours(data, own, n))  # type: ignore[misc]
    print("\n| | seconds | force RMSE, meV/Å | energy RMSE, meV/atom |" + "".join(f" as good as {x} after |" for x in rivals))
    print("|---" * (4 + len(rivals)) + "|")
    for name, curve in runs.items():
        cells = []
        for goal in (runs[x][-1] for x in rivals):
            first = next((t for t, f, _ in curve if f <= goal[1]), None)
            cells.append(f"{first:.1f} s, {goal[0] / first:.1f} × as soon" if first else "never")
        print(f"| {name} | {curve[-1][0]:.0f} | {curve[-1][1]:.1f} | {curve[-1][2]:.2f} | {' | '.join(cells)} |")
    path = HERE / "results" / f"training_race_{data.name}.json"
    path.write_text(json.dumps({**head, "curves": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
