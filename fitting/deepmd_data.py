"""DeePMD's folders of frames (`npy`, `raw`, mixed types), read through dpdata.

A system is a folder with `type.raw` and `type_map.raw`, and `set.*/coord.npy, box.npy, energy.npy, force.npy,
virial.npy` (npy) or `coord.raw …` (raw); mixed: the sets also hold `real_atom_types.npy`. Units there: Å, eV, eV/Å,
virial W in eV (σ = −W/V).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np

from adatom.fitting.labels import DataError


def find_systems(folder: Path) -> list[Path]:
    """Folders at or below `folder` that hold one DeePMD system each, sorted."""
    return sorted(path.parent for path in folder.rglob("type.raw"))


def read_systems(folder: Path) -> Iterator[tuple[ase.Atoms, str]]:
    """Every frame at or below `folder` with its place, "data/water:17".

    energy, forces and virial stand in info and arrays of the Atoms, where the search for labels finds them. Raises
    DataError where dpdata is not installed, the element names are missing, or a system cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dpdata = importlib.import_module("dpdata")
    except ImportError as error:
        raise DataError(
            f"{folder}: DeePMD folders are read with dpdata, which is not installed: pip install 'adatom[data]'"
        ) from error
    for system in find_systems(folder):
        if not (system / "type_map.raw").is_file():
            raise DataError(f"{system}: type_map.raw is missing; write the element symbols into it, one per line")
        for data in _load(dpdata, system):
            yield from _frames(data, system)


def _load(dpdata: Any, system: Path) -> list[Any]:
    sets = sorted(system.glob("set.*"))
    mixed = any((s / "real_atom_types.npy").is_file() for s in sets)
    kind = "deepmd/npy/mixed" if mixed else "deepmd/npy" if sets else "deepmd/raw"
    files = [s / "energy.npy" for s in sets] if sets else [system / "energy.raw"]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: missing; a DeePMD system for training needs an energy for every frame")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if mixed:
                systems = dpdata.MultiSystems()
                systems.load_systems_from_file(str(system), fmt=kind)
                return list(systems)
            return [dpdata.LabeledSystem(str(system), fmt=kind)]
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(f"{system}: dpdata cannot read this as {kind} ({type(error).__name__}: {said})") from error


def _frames(data: Any, system: Path) -> Iterator[tuple[ase.Atoms, str]]:
    names = [data["atom_names"][t] for t in data["atom_types"]]
    unknown = sorted(set(names) - set(ase.data.chemical_symbols[1:]))
    if unknown:
        raise DataError(f"{system}: type_map.raw names {unknown[0]!r}, which is no element; write element symbols into it")
    periodic = not data.data.get("nopbc", False)
    formula = f" ({data.formula})" if (system / "set.000" / "real_atom_types.npy").is_file() else ""
    for k in range(len(data["energies"])):
        cell = np.array(data["cells"][k], dtype=np.float64)
        atoms = ase.Atoms(names, np.array(data["coords"][k]), cell=cell if periodic else None, pbc=periodic)
        atoms.info["energy"] = float(data["energies"][k])
        for name, store, key in (("forces", atoms.arrays, "forces"), ("virials", atoms.info, "virial")):
            if name in data.data:
                store[key] = np.array(data.data[name][k], dtype=np.float64)
        yield atoms, f"{system}{formula}:{k}"
