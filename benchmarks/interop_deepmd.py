"""DeePMD-kit's models here and in DeePMD-kit: equality, errors in float32, speed beside its own engine.

    python benchmarks/interop_deepmd.py --python DEEPMD/bin/python [--atoms 500] [--steps 40] [--core 0] [--out FOLDER]

DEEPMD is an environment with `pip install "deepmd-kit[cpu]==3.2.0" ase`. Three tables:
models of the tests (each form that is read), written back and evaluated by DeePMD-kit, against what it says of its own file, and
our errors in both precisions; a model trained, frozen and compressed by DeePMD-kit for copper (`deepmd_reference.py`), turned
into `.dp` by its `dp convert-backend` and read here: energies and forces beside its own; and CPU time per atom and step of both
through ASE, in turns, one core each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from copper import copper, pin, time_steps  # noqa: E402

if TYPE_CHECKING:
    from adatom.potential.structure import Structure

TESTS = HERE.parent / "tests" / "potential" / "interop"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="DeePMD-kit's interpreter")
    parser.add_argument("--atoms", type=int, default=500)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    a = parser.parse_args()
    pin(a.core)
    if a.measure:
        print(json.dumps(measure(a.measure, a.out, a.atoms, a.steps)))
        return
    out = a.out or Path(tempfile.mkdtemp(prefix="adatom-interop-"))
    forms(a.python, out)
    trained(a.python, out)
    times: dict[str, list[float]] = {}
    for _ in range(a.rounds):
        for name in ("adatom float32", "adatom float64", "deepmd-kit"):
            command = [sys.executable, __file__, "--python", a.python, "--measure", name, "--out", str(out)]
            if name == "deepmd-kit":
                command = [a.python, str(HERE / "deepmd_reference.py"), "time", str(out)]
                command += [str(a.atoms), str(a.steps), str(a.core)]
            else:
                command += ["--atoms", str(a.atoms), "--steps", str(a.steps), "--core", str(a.core)]
            times.setdefault(name, []).append(json.loads(run(command).splitlines()[-1])["median"])
    own = median(times["deepmd-kit"])
    print(f"\n{a.atoms} atoms of copper, µs of CPU time per atom and step (÷ DeePMD-kit, compressed, float32)")
    for name, values in times.items():
        print(f"{name:<16}{median(values):>8.1f}  {median(values) / own:.2f}")


def forms(python: str, out: Path) -> None:
    """Each form of the tests: DeePMD-kit on what we wrote back, and our float32."""
    import jax
    import numpy as np

    from adatom.potential.evaluator import Evaluator
    from adatom.potential.interop.deepmd import read, write

    jax.config.update("jax_enable_x64", True)
    references = json.loads((TESTS / "deepmd" / "references.json").read_text(encoding="utf-8"))["models"]
    print(f"{'largest differences':<26}{'written back, DeePMD-kit':>30}{'float64':>22}{'float32':>22}")
    print(f"{'':<26}{'meV':>15}{'meV/Å':>15}{'meV':>11}{'meV/Å':>11}{'meV':>11}{'meV/Å':>11}")
    for name, items in references.items():
        potential, path = read(TESTS / "deepmd" / name), out / f"again_{Path(name).stem}.dp"
        write(potential, path)
        again = json.loads(run([python, str(TESTS / "deepmd_reference.py"), str(path)], json.dumps(items)))
        rows = [difference(x["energies"], x["forces"], y["energies"], y["forces"]) for x, y in zip(again, items, strict=True)]
        cells = [*np.max(rows, axis=0)]
        for precision in ("float64", "float32"):
            evaluator = Evaluator(potential, precision=precision)
            got = [evaluator(structure(potential.symbols, x)) for x in items]
            rows = [difference(r.energies, r.forces, x["energies"], x["forces"]) for r, x in zip(got, items, strict=True)]
            cells += [*np.max(rows, axis=0)]
        print(f"{name:<26}{cells[0]:>15.1e}{cells[1]:>15.1e}" + "".join(f"{x:>11.1e}" for x in cells[2:]))


def structure(symbols: Sequence[str], item: dict[str, Any]) -> Structure:
    import numpy as np
    from ase.data import atomic_numbers

    from adatom.potential.structure import Structure

    box = item["box"]
    numbers = np.array([atomic_numbers[symbols[t]] for t in item["types"]])
    cell = np.zeros((3, 3)) if box is None else np.array(box)
    return Structure(numbers, np.array(item["coord"]), cell, np.full(3, box is not None))


def difference(e: Any, f: Any, e0: Any, f0: Any) -> tuple[float, float]:
    """meV and meV/Å."""
    import numpy as np

    return 1e3 * float(np.abs(np.subtract(e, e0)).max()), 1e3 * float(np.abs(np.subtract(f, f0)).max())


def trained(python: str, out: Path) -> None:
    """A model made by DeePMD-kit from beginning to end."""
    run([python, str(HERE / "deepmd_reference.py"), "prepare", str(out)])
    environment = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    dp = str(Path(python).with_name("dp"))
    run([dp, "convert-backend", str(out / "original.pb"), str(out / "model.dp")], environment=environment)
    from adatom.potential.interop.convert import describe, read
    from adatom.potential.model_file import save

    potential = read(out / "model.dp")
    save(potential, out / "model.adatom")
    print(f"\ntrained by DeePMD-kit (float32): {describe(potential)}")
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from copper import copper; from deepmd.calculator import DP; "
        "a = copper(108); a.calc = DP(model=sys.argv[2]); print(json.dumps([a.get_potential_energy(), a.get_forces().tolist()]))"
    )
    from adatom.potential import AdatomCalculator

    atoms = copper(108)
    for model in ("original.pb", "compressed.pb"):
        e0, f0 = json.loads(run([python, "-c", code, str(HERE), str(out / model)]).splitlines()[-1])
        for dtype in ("float64", "float32"):
            atoms.calc = AdatomCalculator(potential, dtype=dtype)
            e, f = difference(atoms.get_potential_energy(), atoms.get_forces(), e0, f0)
            print(f"adatom {dtype} − DeePMD-kit {model}: {e / 108:.1e} meV/atom, {f:.1e} meV/Å")


def measure(name: str, out: Path, n_atoms: int, steps: int) -> dict[str, Any]:
    from adatom.potential import AdatomCalculator

    atoms = copper(n_atoms)
    atoms.calc = AdatomCalculator(out / "model.adatom", dtype="float64" if name.endswith("64") else "float32")
    return time_steps(atoms, steps=steps, warm_up=3)


def run(command: list[str], given: str | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
