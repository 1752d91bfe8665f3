"""Other programs' models here and in their own engines: differences in both precisions and both directions, and speed.

    python benchmarks/interop.py deepmd DATA/models --engine DEEPMD/bin/python     deepmd-kit[cpu]==3.2.0 and ase
    python benchmarks/interop.py n2p2 DATA/models --engine N2P2                    a folder with n2p2's include and lib/libnnp.a
    python benchmarks/interop.py nep DATA/models --engine CALORINE/bin/python      calorine==4.1

Without --engine DeePMD-kit and calorine are installed on first use, in ~/.cache/adatom; with `--engine none` only our own
precisions are compared and timed.

First table (`--only equality`): every form that is read and the published models of DATA/models, each on the same structures in
float64 and float32 against the engine: largest differences of energy per atom, force and virial. Then our own models of each
form, written by us and evaluated by the engine. Where the engine evaluates what we wrote of a model that we had read, its
difference from the engine on the original file stands under "written back". Compiled with few optimisations, for most of the
time of this table is compilation: which order sums have differs, not how well they are rounded.

Second table (`--only speed`): CPU time per atom of a step of ASE's velocity Verlet, lists included, or of a force call for n2p2,
whose own list is quadratic. Every measurement is a process of its own on one core, single-threaded; the processes take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import interop_speed as speed  # noqa: E402
from calculator_speed import child, commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

INSTALLED = {"deepmd": ["deepmd-kit[cpu]==3.2.0", "ase"], "nep": ["calorine==4.1"]}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(speed.SYSTEMS))
    parser.add_argument("models", type=Path, help="folder with deepmd, n2p2 and nep of published models")
    parser.add_argument("--engine", help="interpreter with the engine, or n2p2's folder; 'none' for none")
    parser.add_argument("--eigen", type=Path, default=Path("/usr/include/eigen3"), help="of n2p2: where Eigen's headers are")
    parser.add_argument("--only", choices=["equality", "speed"])
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="of the first table; default all")
    parser.add_argument("--subjects", nargs="+", help="of the second table, e.g. float32; default both precisions and the engine")
    parser.add_argument("--systems", nargs="+", choices=speed.SYSTEMS["n2p2"] | speed.SYSTEMS["nep"] | speed.SYSTEMS["deepmd"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--worker", nargs=4, metavar=("SUBJECT", "SYSTEM", "MODEL", "OUT"), help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    pin(a.core)
    if a.worker:
        subject, system, model, out = a.worker
        print("\n" + json.dumps(speed.measure(a.family, subject, system, model, a.steps, out)))
        return
    print(f"{date.today()}; device: {cpu_name()}, core {a.core} of {os.cpu_count()}; commit {commit()}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        program = engine_of(a.family, a.engine, a.eigen, Path(scratch))
        if a.only != "speed":
            equality(a.family, program, a.models, a.cases, Path(scratch))
        if a.only != "equality":
            speeds(a, program, Path(scratch))


def engine_of(family: str, given: str | None, eigen: Path, scratch: Path) -> str | None:
    """The engine's interpreter, or n2p2's program linked here; None for none."""
    if given == "none":
        return None
    if family == "n2p2":
        root = given or os.environ.get("NNP_ROOT")
        if root is None:
            raise SystemExit("n2p2 must be built: name its folder with --engine or NNP_ROOT, or say --engine none")
        program = scratch / "n2p2_reference"
        flags = ["-O2", "-std=c++11", "-DN2P2_NO_MPI", f"-I{root}/include", f"-I{eigen}"]
        subprocess.run(["g++", *flags, str(HERE / "n2p2_reference.cpp"), f"{root}/lib/libnnp.a", "-o", str(program)], check=True)
        return str(program)
    python = Path(given) if given else Path.home() / ".cache" / "adatom" / f"{family}-env" / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(INSTALLED[family])} into {python.parents[1]} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *INSTALLED[family]], check=True)
    return str(python)


def equality(family: str, program: str | None, models: Path, names: list[str] | None, scratch: Path) -> None:
    """One row a model."""
    import interop_cases as cases
    import jax

    jax.config.update("jax_enable_x64", True)
    print(f"\nagainst {'our float64' if program is None else 'the engine'}: ΔE eV/atom, ΔF eV/Å, ΔW eV (virial)")
    print("| model | atoms | max F | float64 ΔE | ΔF | ΔW | float32 ΔE | ΔF | ΔW | written back ΔE | ΔF | ΔW |")
    print("|---" * 12 + "|")
    for case in cases.of(family, models, scratch, names):
        exact = cases.ours(case, "float64")
        said = cases.engine(family, program, case, case.path) if program else exact
        cells = [cases.differences(case, got, said) for got in (exact, cases.ours(case, "float32"))]
        if program and case.written:
            cells.append(cases.differences(case, cases.engine(family, program, case, case.written), said, written=True))
        row = [f"{x:.0e}" if x == x else "–" for cell in cells for x in cell] + ["–"] * (9 - 3 * len(cells))
        size = max(abs(x.forces).max() for x in said)
        print(f"| {case.name} | {sum(map(len, case.structures))} | {size:.2g} | {' | '.join(row)} |", flush=True)


def speeds(a: argparse.Namespace, program: str | None, scratch: Path) -> None:
    """One row a system and engine: µs per atom, × as fast, and differences from the engine."""
    import numpy as np

    print("\n| model, system | engine | µs CPU per atom | × as fast | ΔE eV/atom | ΔF eV/Å |\n|---|---|---|---|---|---|")
    for system in a.systems or speed.SYSTEMS[a.family]:
        if system not in speed.SYSTEMS[a.family]:
            raise SystemExit(f"{system} is no system of {a.family}; known are {', '.join(speed.SYSTEMS[a.family])}")
        model = speed.model_of(a.family, system, a.models, program, scratch)
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(a.rounds):
            for subject in (*(a.subjects or speed.OURS[a.family]), *([speed.ENGINE] if program else [])):
                out = scratch / f"{subject}.npz"
                if subject == speed.ENGINE and a.family == "n2p2":
                    run = speed.by_n2p2(str(program), Path(model), system, a.steps, a.core, out)
                else:
                    python = str(program) if subject == speed.ENGINE else sys.executable
                    command = [python, str(HERE / "interop.py"), a.family, str(a.models), "--core", str(a.core)]
                    command += ["--steps", str(a.steps), "--worker", subject, system, str(model), str(out)]
                    run = child(command)
                found.setdefault(subject, []).append(run)
        against = found.get(speed.ENGINE)
        for subject, runs in found.items():
            cost = median(x["time"] for x in runs)
            row = [f"{system}, {runs[0]['atoms']}", subject, f"{cost:.1f}"]
            if against:
                row.append(f"{median(x['time'] for x in against) / cost:.2f}")
                with np.load(scratch / f"{subject}.npz") as x, np.load(scratch / f"{speed.ENGINE}.npz") as y:
                    row += [f"{np.abs(x[k] - y[k]).max():.1e}" for k in ("energy", "forces")]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
