"""The speeds of `interop.py`: systems, models, one measurement. Run by the engines' own interpreters too, which have only ASE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from copper import copper, time_steps  # noqa: E402

BOHR, HARTREE = 0.529177210903, 27.211386245988
ENGINE = "engine (reference)"
UNEP = "Song-2024-UNEP-v1-AgAlAuCrCuMgMoNiPbPdPtTaTiVWZr.txt"
SYSTEMS = {
    "deepmd": {"Cu 108": "trained", "Cu 500": "trained"},
    "n2p2": {name: f"n2p2/{name}" for name in ("mlearn_Cu", "mlearn_Si", "mlearn_Mo", "water_cheng2019")},
    "nep": {
        "UNEP-v1, Cu 500": f"nep/{UNEP}",
        "UNEP-v1, Cu 4000": f"nep/{UNEP}",
        "five-body, Si 512": "nep/Si_2022_NEP4_5body.txt",
    },
}
"""Of each family: what is timed, and its model below DATA/models; DeePMD-kit's is trained here, by DeePMD-kit."""
OURS = {family: ("float32", "float64") for family in SYSTEMS}
OURS["n2p2"] = tuple(f"{dtype}, skin {skin} Å" for dtype in ("float32", "float64") for skin in (0.5, 0.0))
LATTICES = {"mlearn_Cu": ("Cu", "fcc", 3.62, 5), "mlearn_Si": ("Si", "diamond", 5.43, 4), "mlearn_Mo": ("Mo", "bcc", 3.17, 6)}


def atoms_of(system: str) -> Any:
    """Rattled crystals; water of 64 molecules on a lattice, at random angles. In steps at 300 K."""
    import numpy as np
    from ase import Atoms, units
    from ase.build import bulk

    rng = np.random.default_rng(0)
    if "Cu " in system:
        return copper(int(system.split()[-1]))
    if system == "water_cheng2019":
        water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        oxygen = 3.1 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
        turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in oxygen]
        positions = np.concatenate([o + water @ q for o, q in zip(oxygen, turns, strict=True)])
        return Atoms("OHH" * 64, positions, cell=[12.4] * 3, pbc=True)
    element, lattice, a, n = LATTICES.get(system, ("Si", "diamond", 5.43, 4))
    atoms = bulk(element, lattice, a=a, cubic=True) * (n, n, n)
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300.0)
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def model_of(family: str, system: str, models: Path, program: str | None, scratch: Path) -> Path:
    """The model's file; a copper model of DeePMD-kit is trained, frozen, compressed and converted to .dp by its own commands."""
    if family != "deepmd":
        return models / SYSTEMS[family][system]
    if program is None:
        raise SystemExit("DeePMD-kit itself makes the model that is timed: no --engine none here")
    if not (scratch / "model.dp").exists():
        environment = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
        subprocess.run([program, str(HERE / "deepmd_reference.py"), "prepare", str(scratch)], check=True, env=environment)
        dp = str(Path(program).with_name("dp"))
        command = [dp, "convert-backend", str(scratch / "original.pb"), str(scratch / "model.dp")]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    return scratch / "model.dp"


def calculator(family: str, subject: str, model: str) -> Any:
    """Ours in a precision, or the engine's own, in whose environment this then runs."""
    if subject != ENGINE:
        from adatom.potential import AdatomCalculator
        from adatom.potential.interop import convert

        return AdatomCalculator(convert.read(model, family), dtype=subject)  # type: ignore[arg-type]
    if family == "deepmd":
        from deepmd.calculator import DP

        return DP(model=str(Path(model).with_name("compressed.pb")))
    from calorine.calculators import CPUNEP

    return CPUNEP(model)


def measure(family: str, subject: str, system: str, model: str, steps: int, out: str) -> dict[str, Any]:
    """One subject, in this process, which is pinned already; energy per atom and forces of the first structure go to `out`."""
    import numpy as np

    atoms = atoms_of(system)
    if family == "n2p2":
        return _calls(atoms, subject, model, steps, out)
    atoms.calc = calculator(family, subject, model)
    np.savez(out, energy=atoms.get_potential_energy() / len(atoms), forces=atoms.get_forces())
    return {"time": time_steps(atoms, steps=steps, warm_up=3)["mean"], "atoms": len(atoms)}


def _calls(atoms: Any, subject: str, model: str, calls: int, out: str) -> dict[str, Any]:
    """Our evaluator in a list that is made once."""
    import numpy as np

    from adatom.potential.evaluator import Evaluator
    from adatom.potential.interop import convert
    from adatom.potential.structure import Structure

    dtype, skin = subject.split(", skin ")
    potential = convert.read(model, "n2p2", length_unit="bohr", energy_unit="hartree")
    evaluator = Evaluator(potential, precision=dtype, skin=float(skin.split()[0]))  # type: ignore[arg-type]
    structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, dtype=bool))
    first, times = evaluator(structure), []
    for _ in range(calls):
        start = time.process_time()
        evaluator(structure)
        times.append((time.process_time() - start) / len(atoms) * 1e6)
    np.savez(out, energy=first.energy / len(atoms), forces=first.forces)
    return {"time": median(times), "atoms": len(atoms)}


def by_n2p2(program: str, model: Path, system: str, calls: int, core: int, out: Path) -> dict[str, Any]:
    """n2p2's symmetry functions, networks and forces, without its list, in eV and Å."""
    import numpy as np

    atoms, folder = atoms_of(system), out.with_suffix(".n2p2")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    rows = [f"lattice {' '.join(f'{x:.17e}' for x in row)}" for row in atoms.cell.array / BOHR]
    rows += [
        f"atom {' '.join(f'{x:.17e}' for x in r)} {z} 0 0 0 0 0"
        for z, r in zip(atoms.symbols, atoms.positions / BOHR, strict=True)
    ]
    (folder / "input.data").write_text("\n".join(["begin", *rows, "energy 0", "charge 0", "end", ""]))
    command = ["taskset", "-c", str(core), program, str(calls)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    np.savez(out, energy=said["energy"] * HARTREE / len(atoms), forces=np.array(said["forces"]) * (HARTREE / BOHR))
    return {"time": said["functions"] + said["networks"] + said["derivatives"], "atoms": len(atoms)}
