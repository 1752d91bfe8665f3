"""Other programs' models in our calculator beside their own engines: CPU time per atom and MD step, one core, and differences.

    python benchmarks/interop.py nep DATA/models/nep        calorine's CPUNEP, installed on first use (needs a C++ compiler)

Cases are published models. Every measurement is a process of its own, pinned to one core, single-threaded, and the processes take
turns, so that ratios mean something on a shared machine. Steps include ASE's integrator (1 fs, from 300 K) and neighbour lists.
Differences are those of energies per atom and of forces at the first structure, from the other engine.
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
from calculator_speed import child, commit, cpu_name  # noqa: E402
from copper import copper, pin, time_steps  # noqa: E402

ENGINES = {"nep": "calorine==4.1"}
CASES = {
    "nep": {
        "UNEP-v1 (16 elements), Cu": ("Song-2024-UNEP-v1-AgAlAuCrCuMgMoNiPbPdPtTaTiVWZr.txt", ("Cu 500", "Cu 4000")),
        "Si_2022 5-body, Si": ("Si_2022_NEP4_5body.txt", ("Si 512",)),
    },
}
STEPS = {"Cu 500": 40, "Cu 4000": 8, "Si 512": 40, "Cu 108": 20}
OURS = ("float32", "float64")


def system(name: str) -> Any:
    """fcc Cu as everywhere, or diamond Si made in the same way."""
    import numpy as np
    from ase import units
    from ase.build import bulk

    element, size = name.split()
    if element == "Cu":
        return copper(int(size))
    rng = np.random.default_rng(0)
    n = round((int(size) / 8) ** (1 / 3))
    atoms = bulk("Si", cubic=True, a=5.43) * (n, n, n)
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300.0)
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def calculator(family: str, subject: str, model: Path) -> Any:
    """Ours in a precision, or the engine's own, in whose environment this then runs."""
    if subject in OURS:
        from adatom.potential import AdatomCalculator
        from adatom.potential.interop import convert

        return AdatomCalculator(convert.read(model, family), dtype=subject)  # type: ignore[arg-type]
    from calorine.calculators import CPUNEP

    return CPUNEP(str(model))


def measure(family: str, subject: str, model: Path, name: str, steps: int, out: Path) -> dict[str, Any]:
    """One subject, in this process, which is pinned already."""
    import numpy as np

    atoms = system(name)
    atoms.calc = calculator(family, subject, model)
    np.savez(out, energy=atoms.get_potential_energy() / len(atoms), forces=atoms.get_forces())
    return time_steps(atoms, steps=steps, warm_up=3)


def engine_environment(family: str, folder: Path) -> Path:
    """The engine's interpreter, installed on first use."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {ENGINES[family]} into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", ENGINES[family]], check=True)
    return python


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(ENGINES))
    parser.add_argument("models", type=Path, help="folder with the published models")
    parser.add_argument("--engine-env", type=Path, help="default ~/.cache/adatom/FAMILY-env")
    parser.add_argument("--systems", nargs="+", help="default all, e.g. 'Cu 500'")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--worker", nargs=4, metavar=("SUBJECT", "SYSTEM", "STEPS", "OUT"), help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    if a.worker:
        pin(a.core)
        subject, name, steps, out = a.worker
        print("\n" + json.dumps(measure(a.family, subject, a.models, name, int(steps), Path(out))))
        return
    engine = ENGINES[a.family].split("==")[0]
    python = engine_environment(a.family, a.engine_env or Path.home() / ".cache" / "adatom" / f"{a.family}-env")
    print(f"{date.today()}; device: {cpu_name()}, core {a.core} of {os.cpu_count()}; commit {commit()}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for title, (file, systems) in CASES[a.family].items():
            for name in a.systems or systems:
                if name not in systems and not name.startswith(systems[0].split()[0]):
                    continue
                found: dict[str, list[dict[str, Any]]] = {}
                for _ in range(a.rounds):
                    for subject in (*OURS, engine):
                        own = [str(python) if subject == engine else sys.executable, str(Path(__file__).resolve())]
                        steps, out = str(a.steps or STEPS[name]), f"{folder}/{subject}.npz"
                        worker = ["--core", str(a.core), "--worker", subject, name, steps, out]
                        found.setdefault(subject, []).append(child([*own, a.family, str(a.models / file), *worker]))
                first = {s: np.load(f"{folder}/{s}.npz") for s in found}
                for subject, runs in found.items():
                    time = median(x["mean"] for x in runs)
                    ratio = median(x["mean"] for x in found[engine]) / time
                    de, df = (float(np.abs(first[subject][k] - first[engine][k]).max()) for k in ("energy", "forces"))
                    what = f"{ENGINES[a.family]} (reference)" if subject == engine else f"adatom {subject}"
                    rows.append(f"| {title} | {name} | {what} | {time:.1f} | {ratio:.2f} | {de:.1e} | {df:.1e} |")
                    print(rows[-1], flush=True)
    print("\n| model | system | engine | µs CPU/atom/step | × as fast | ΔE eV/atom | ΔF eV/Å |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
