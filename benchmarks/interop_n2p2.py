"""n2p2's models here and in n2p2: differences, and CPU time per atom and force call on one core.

    NNP_ROOT=N2P2 python benchmarks/interop_n2p2.py DATA/models/n2p2 [--nnp-root N2P2] [--systems mlearn_Cu …] [--core 0]

N2P2 is a folder with n2p2's `include` and `lib/libnnp.a`; without one only our own times are measured. `n2p2_reference.cpp` is
linked to it here (g++; --eigen FOLDER where Eigen's headers are elsewhere). Neighbour lists are not timed: n2p2's own is
quadratic in the number of atoms, and LAMMPS gives it another. Ours is made with the calculator's skin, and without: neighbours
between cutoff and skin cost us as much as others, n2p2 leaves them out. Every measurement is a process of its own on one core.
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
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import child, commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

BOHR, HARTREE = 0.529177210903, 27.211386245988
SYSTEMS = {
    "mlearn_Cu": ("Cu", "fcc", 3.62, 5),
    "mlearn_Si": ("Si", "diamond", 5.43, 4),
    "mlearn_Mo": ("Mo", "bcc", 3.17, 6),
    "water_cheng2019": ("H2O", "", 0.0, 0),
}
OURS = tuple(f"{dtype}, skin {skin} Å" for dtype in ("float32", "float64") for skin in (0.5, 0.0))


def system(name: str) -> Any:
    """Some hundred atoms, displaced at random from their lattice; water of 64 molecules on one, at random angles."""
    import numpy as np
    from ase import Atoms
    from ase.build import bulk

    element, lattice, a, n = SYSTEMS[name]
    rng = np.random.default_rng(0)
    if lattice:
        atoms = bulk(element, lattice, a=a, cubic=True) * (n, n, n)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        return atoms
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    oxygen = 3.1 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in oxygen]
    positions = np.concatenate([o + water @ q for o, q in zip(oxygen, turns, strict=True)])
    return Atoms("OHH" * 64, positions, cell=[12.4] * 3, pbc=True)


def measure(models: Path, name: str, subject: str, calls: int) -> dict[str, Any]:
    """Ours, in this process, which is pinned already."""
    import numpy as np

    from adatom.potential.evaluator import Evaluator
    from adatom.potential.interop import convert
    from adatom.potential.structure import Structure

    dtype, skin = subject.split(", skin ")
    potential = convert.read(models / name, "n2p2", length_unit="bohr", energy_unit="hartree")
    evaluator = Evaluator(potential, precision=dtype, skin=float(skin.split()[0]))  # type: ignore[arg-type]
    atoms = system(name)
    structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, dtype=bool))
    first, times = evaluator(structure), []
    for _ in range(calls):
        start = time.process_time()
        evaluator(structure)
        times.append((time.process_time() - start) / len(atoms) * 1e6)
    return {"time": median(times), "energy": first.energy, "forces": first.forces.tolist()}


def reference(program: Path, models: Path, name: str, calls: int, core: int, folder: Path) -> dict[str, Any]:
    """n2p2, in eV and Å."""
    import numpy as np

    atoms = system(name)
    for p in (models / name).glob("*.*"):
        (folder / p.name).write_bytes(p.read_bytes())
    rows = [f"lattice {' '.join(f'{x:.17e}' for x in row)}" for row in atoms.cell.array / BOHR]
    rows += [
        f"atom {' '.join(f'{x:.17e}' for x in r)} {z} 0 0 0 0 0"
        for z, r in zip(atoms.symbols, atoms.positions / BOHR, strict=True)
    ]
    (folder / "input.data").write_text("\n".join(["begin", *rows, "energy 0", "charge 0", "end", ""]))
    command = ["taskset", "-c", str(core), str(program), str(calls)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    out = json.loads(done.stdout.strip().splitlines()[-1])
    forces = np.array(out["forces"]) * (HARTREE / BOHR)
    time = out["functions"] + out["networks"] + out["derivatives"]
    return {"time": time, "energy": out["energy"] * HARTREE, "forces": forces.tolist()}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder with the published models")
    parser.add_argument("--nnp-root", type=Path, default=os.environ.get("NNP_ROOT"), help="default: NNP_ROOT")
    parser.add_argument("--eigen", type=Path, default=Path("/usr/include/eigen3"))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", type=int, default=9)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--worker", nargs=2, metavar=("SUBJECT", "SYSTEM"), help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    if a.worker:
        pin(a.core)
        subject, name = a.worker
        print("\n" + json.dumps(measure(a.models, name, subject, a.calls)))
        return
    print(f"{date.today()}; device: {cpu_name()}, core {a.core} of {os.cpu_count()}; commit {commit()}", flush=True)
    if a.nnp_root is None:
        print("no build of n2p2 given (NNP_ROOT or --nnp-root): our own times only")
    print("| model, atoms | engine | µs CPU/atom/call | × as fast | ΔE eV/atom | ΔF eV/Å |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder, program = Path(scratch), Path(scratch) / "n2p2_reference"
        if a.nnp_root is not None:
            flags = ["-O2", "-std=c++11", "-DN2P2_NO_MPI", f"-I{a.nnp_root / 'include'}", f"-I{a.eigen}"]
            library = str(a.nnp_root / "lib" / "libnnp.a")
            subprocess.run(["g++", *flags, str(HERE / "n2p2_reference.cpp"), library, "-o", str(program)], check=True)
        for name in a.systems:
            found: dict[str, list[dict[str, Any]]] = {}
            for _ in range(a.rounds):
                for subject in OURS:
                    own = [sys.executable, str(Path(__file__).resolve()), str(a.models), "--calls", str(a.calls)]
                    worker = ["--core", str(a.core), "--worker", subject, name]
                    found.setdefault(f"adatom {subject}", []).append(child([*own, *worker]))
                if a.nnp_root is not None:
                    (folder / name).mkdir(exist_ok=True)
                    run = reference(program, a.models, name, a.calls, a.core, folder / name)
                    found.setdefault("n2p2 (reference)", []).append(run)
            against = found.get("n2p2 (reference)")
            for subject, runs in found.items():
                cost, n = median(x["time"] for x in runs), len(runs[0]["forces"])
                row = [f"{name}, {n}", subject, f"{cost:.1f}"]
                if against:
                    row.append(f"{median(x['time'] for x in against) / cost:.2f}")
                    row.append(f"{abs(runs[0]['energy'] - against[0]['energy']) / n:.1e}")
                    row.append(f"{np.abs(np.array(runs[0]['forces']) - np.array(against[0]['forces'])).max():.1e}")
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
