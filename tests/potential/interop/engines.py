"""Other programs evaluating a model file: what DeePMD-kit, n2p2 and calorine themselves say about structures, in eV and Å.

Each function takes the program, the model's file or folder and structures, and returns per structure the energy, the forces
(atoms, 3) and dE/dε (3, 3), None without a cell. `PROGRAMS` names them by environment variables:

    ADATOM_DEEPMD_PYTHON     an interpreter with deepmd-kit
    ADATOM_N2P2_PROGRAM      benchmarks/n2p2_reference.cpp linked to a build of n2p2
    ADATOM_CALORINE_PYTHON   an interpreter with calorine
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import n2p2_reference
import numpy as np
from ase.data import chemical_symbols

from adatom.potential.interop.deepmd import read
from adatom.potential.structure import Structure

HERE = Path(__file__).resolve().parent
PROGRAMS = {"deepmd": "ADATOM_DEEPMD_PYTHON", "n2p2": "ADATOM_N2P2_PROGRAM", "nep": "ADATOM_CALORINE_PYTHON"}


class Numbers(NamedTuple):
    """What a program says about a structure."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None


def run(family: str, program: str, path: Path, structures: list[Structure]) -> list[Numbers]:
    """By the family's own program; n2p2's files in Å and eV, as we write them."""
    return {"deepmd": deepmd, "n2p2": n2p2, "nep": nep}[family](program, path, structures)


def deepmd(python: str, path: Path, structures: list[Structure]) -> list[Numbers]:
    """DeePMD-kit's NumPy backend; forces and virials by differences of its energies, good to 1e-11."""
    symbols = read(path).symbols
    items = [
        {
            "coord": s.positions.tolist(), "box": s.cell.tolist() if s.pbc.all() else None,
            "types": [symbols.index(chemical_symbols[z]) for z in s.numbers],
        } for s in structures
    ]  # fmt: skip
    found = _by_script(python, "deepmd_reference.py", path, items)
    return [
        Numbers(sum(x["energies"]), np.array(x["forces"]), -np.array(x["virial"]) if s.pbc.all() else None)
        for x, s in zip(found, structures, strict=True)
    ]


def nep(python: str, path: Path, structures: list[Structure]) -> list[Numbers]:
    """calorine's NEP_CPU, double precision."""
    items = [
        {"symbols": [chemical_symbols[z] for z in s.numbers], "positions": s.positions.tolist(), "cell": s.cell.tolist()}
        for s in structures
    ]
    found = _by_script(python, "nep_reference.py", path, items)
    return [Numbers(sum(x["energies"]), np.array(x["forces"]), np.array(x["virial"])) for x in found]


def n2p2(program: str, folder: Path, structures: list[Structure], length: float = 1.0, energy: float = 1.0) -> list[Numbers]:
    """n2p2; units of its files in Å and eV. Its forces are right only where the cell is longer than the cutoff
    (`potential/interop/README.md`)."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for p in folder.glob("*.*"):
            shutil.copy(p, scratch)
        for s in structures:
            symbols, box = [chemical_symbols[z] for z in s.numbers], s.cell / length if s.pbc.all() else None
            out = n2p2_reference.run(program, Path(scratch), symbols, s.positions / length, box)
            virial = energy * np.array(out["virial"]).reshape(3, 3) if s.pbc.all() else None
            found.append(Numbers(energy * out["energy"], np.array(out["forces"]) * energy / length, virial))
    return found


def _by_script(python: str, script: str, path: Path, items: list[dict]) -> list[dict]:
    command = [python, str(HERE / script), str(path)]
    done = subprocess.run(command, input=json.dumps(items), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
