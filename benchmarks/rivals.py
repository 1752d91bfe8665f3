"""Force error against time per atom and step on one data set, everybody in one run on one core: a table and a picture.

    python benchmarks/rivals.py DATA/mlearn_Cu [--sizes small medium large] [--out DIR]      or mlearn_Si, mlearn_Mo
                                [--n2p2 FOLDER] [--calorine PYTHON] [--deepmd-env DIR]

Ours: fits of the named sizes, all else default, made in --out where they are not there yet; errors on the published test
frames; NVE in our own molecular dynamics with the fitted model. SNAP and quadratic SNAP: the potentials of Zuo et al. in LAMMPS,
which brings their files. n2p2: their network, a force call without its list. NEP: calorine, a published model of other data, a
step through ASE. DeePMD-kit: compressed, float32, in LAMMPS, weights of no accuracy, copper only. Others' errors, also of
potentials that are not timed here, are the published ones of `accuracy.py`. LAMMPS, calorine and DeePMD-kit are installed on
first use; n2p2 must be built (`interop.py` says how) and is left out without --n2p2.

CPU time per atom and step at some 500 atoms (the crystal at 300 K), processes in turn (A B C … A B C …), medians over rounds.
Writes `results/rivals_<set>.json` and `.svg`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import interop  # noqa: E402
import interop_speed  # noqa: E402
from accuracy import PUBLISHED  # noqa: E402
from calculator_speed import child, commit, cpu_name, reference_environment  # noqa: E402
from copper import pin  # noqa: E402
from deepmd_reference import LOOP  # noqa: E402
from validation.against_lammps import lammps_environment  # noqa: E402

ELEMENTS = {"mlearn_Cu": "Cu", "mlearn_Si": "Si", "mlearn_Mo": "Mo"}
NEP = {"mlearn_Si": "Si_2022_NEP4_5body.txt"}
STEPS = 20
SNAP = """units metal
atom_style atomic
read_data {data}
mass 1 {mass}
include {potential}
neighbor 1.0 bin
timestep 0.001
fix 1 all nve
thermo 1000000
run 5
run {steps}
"""
Job = dict[str, Any]


def fitted(data: Path, size: str, out: Path) -> tuple[Path, dict[str, float]]:
    """The model of a default fit, and its MAE on the test frames."""
    folder = out / f"{data.name}-{size}"
    if not (folder / "model.adatom").exists():
        files = ["--train", str(data / "train.extxyz.gz"), "--test", str(data / "test.extxyz.gz"), "--out", str(folder)]
        command = [sys.executable, "-m", "adatom.fitting.cli", "fit", *files, "--set", f"model.size={size}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    errors = json.loads((folder / "metrics.json").read_text())["test"]
    return folder / "model.adatom", {"forces": errors["forces"]["mae"], "energy": errors["energy"]["mae"]}


def ours(model: str, system: str) -> float:
    """µs per atom and step of `adatom.md`, in this process, which is pinned already."""
    from md_measurement import native

    from adatom.potential import load

    warnings.filterwarnings("ignore", message="extrapolation")
    return float(native(load(model), interop_speed.atoms_of(system), steps=100, runs=3, interval=25)["cpu"])


def snap(python: Path, element: str, quadratic: bool, system: str, scratch: Path, core: int) -> float:
    """The loop time that LAMMPS states, times its own percentage of CPU use."""
    from ase.io import write

    atoms = interop_speed.atoms_of(system)
    (potentials,) = python.parents[1].glob("lib/python3*/site-packages/lammps/share/lammps/potentials")
    name = f"{element}_Zuo_JPCA2020{'.quadratic' if quadratic else ''}.snap"
    data, script = scratch / "atoms.data", scratch / "snap.in"
    write(data, atoms, format="lammps-data", velocities=True, units="metal", specorder=[element])
    script.write_text(SNAP.format(data=data, mass=atoms.get_masses()[0], potential=name, steps=STEPS))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(python.parents[1] / "lib"), "OMP_NUM_THREADS": "1"}
    command = ["taskset", "-c", str(core), str(python.with_name("lmp")), "-in", str(script), "-log", "none"]
    done = subprocess.run(command, cwd=potentials, env=environment, capture_output=True, text=True)
    loops = LOOP.findall(done.stdout)
    if done.returncode or len(loops) != 2:
        raise SystemExit(f"LAMMPS failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return float(loops[1][0]) * float(loops[1][2]) / 100.0 / STEPS / len(atoms) * 1e6


def timings(o: argparse.Namespace, models: dict[str, Path], scratch: Path) -> dict[str, list[float]]:
    """µs per atom and step of everybody who is there, a number a round."""
    system, element, published = o.data.name, ELEMENTS[o.data.name], o.data.parent / "models"
    lammps, found = lammps_environment(o.lammps_env), {}
    nep = interop.engine_of("nep", str(o.calorine) if o.calorine else None, o.eigen, scratch)
    n2p2 = interop.engine_of("n2p2", str(o.n2p2), o.eigen, scratch) if o.n2p2 else None
    deepmd = o.deepmd_env / "adatom-benchmark"
    if element == "Cu":
        python = reference_environment(o.deepmd_env)
        deepmd.mkdir(exist_ok=True)
        subprocess.run([str(python), str(HERE / "deepmd_reference.py"), "prepare", str(deepmd)], check=True)

    def once() -> dict[str, float]:
        own = [sys.executable, str(HERE / "rivals.py"), str(o.data), "--core", str(o.core)]
        out = {f"adatom, {k}": child([*own, "--worker", str(v)])["cpu"] for k, v in models.items()}
        for name, quadratic in (("SNAP", False), ("qSNAP", True)):
            out[name] = snap(lammps, element, quadratic, system, scratch, o.core)
        if n2p2:
            run = interop_speed.by_n2p2(n2p2, published / "n2p2" / system, system, 9, o.core, scratch / "n2p2.npz")
            out["NNP (n2p2)"] = run["time"]
        model = published / "nep" / NEP.get(system, interop_speed.UNEP)
        worker = ["--worker", interop_speed.ENGINE, system, str(model), str(scratch / "nep.npz")]
        command = [str(nep), str(HERE / "interop.py"), "nep", str(published), "--core", str(o.core), "--steps", str(STEPS)]
        out["NEP"] = child([*command, *worker])["time"]
        if element == "Cu":
            command = [str(python), str(HERE / "deepmd_reference.py"), "lammps", str(deepmd), "500", str(STEPS), str(o.core)]
            out["DeePMD-kit"] = child(command)["cpu"]
        return out

    for turn in range(o.rounds):
        for name, value in once().items():
            found.setdefault(name, []).append(value)
            print(f"  round {turn + 1}, {name}: {value:.1f} µs", flush=True)
    return found


def picture(rows: dict[str, Job], title: str, path: Path) -> None:
    """Force MAE against time, both logarithmic; at the upper edge those whose error on these data is not known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.set(xscale="log", yscale="log", xlabel="µs of one core per atom and step", ylabel="force MAE, meV/Å", title=title)
    known = {k: r for k, r in rows.items() if r["forces"] and r["time"]}
    top = 1.6 * max(r["forces"] for r in known.values())
    for name, r in rows.items():
        mine = name.startswith("adatom")
        if not r["time"]:
            axes.axhline(r["forces"], color="0.75", linewidth=0.8, zorder=0)
            axes.annotate(f"{name}, not timed", (1.0, r["forces"]), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          color="0.5", fontsize=8)  # fmt: skip
            continue
        axes.plot(r["time"], r["forces"] or top, "o" if r["forces"] else "|", color="tab:red" if mine else "tab:blue")
        axes.annotate(name, (r["time"], r["forces"] or top), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.set_xlim(right=2.0 * max(r["time"] for r in rows.values() if r["time"]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    cache = Path.home() / ".cache" / "adatom"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="DATA/mlearn_Cu, mlearn_Si or mlearn_Mo, beside DATA/models")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium", "large"])
    parser.add_argument("--out", type=Path, default=Path("rivals"), help="for the fits")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--n2p2", type=Path)
    parser.add_argument("--eigen", type=Path, default=Path("/usr/include/eigen3"))
    parser.add_argument("--calorine", type=Path)
    parser.add_argument("--lammps-env", type=Path, default=cache / "lammps-env")
    parser.add_argument("--deepmd-env", type=Path, default=cache / "deepmd-env")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    o = parser.parse_args(arguments)
    if o.data.name not in ELEMENTS:
        raise SystemExit(f"{o.data.name}: known are {', '.join(ELEMENTS)}, which others have published potentials for")
    pin(o.core)
    if o.worker:
        return print(json.dumps({"cpu": ours(o.worker, o.data.name)}))
    head = {"date": str(date.today()), "device": cpu_name(), "commit": commit(), "set": o.data.name}
    print("; ".join(head.values()), flush=True)
    fits = {size: fitted(o.data, size, o.out) for size in o.sizes}
    with tempfile.TemporaryDirectory() as scratch:
        found = timings(o, {size: model for size, (model, _) in fits.items()}, Path(scratch))
    errors: dict[str, Any] = {f"adatom, {size}": e for size, (_, e) in fits.items()}
    errors |= {k: {"forces": v[0], "energy": v[1]} for k, v in PUBLISHED[o.data.name].items() if isinstance(v, tuple)}
    empty = {"forces": None, "energy": None}
    rows = {k: {"time": median(found[k]) if k in found else None, **errors.get(k, empty)} for k in [*errors, *found]}
    default = rows.get("adatom, medium", rows[f"adatom, {o.sizes[0]}"])
    print("\n| | force MAE, meV/Å | energy MAE, meV/atom | µs an atom and step | ÷ the default's |\n|---|---|---|---|---|")
    for name, r in rows.items():
        cells = [("–" if r[k] is None else f"{r[k]:.{n}f}") for k, n in (("forces", 1), ("energy", 2), ("time", 1))]
        print(f"| {name} | {' | '.join(cells)} | {'–' if r['time'] is None else format(r['time'] / default['time'], '.1f')} |")
    path = HERE / "results" / f"rivals_{o.data.name}"
    path.with_suffix(".json").write_text(json.dumps({**head, "rows": rows, "rounds": found}, indent=1, ensure_ascii=False) + "\n")
    picture(rows, f"{o.data.name}, one core", path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
