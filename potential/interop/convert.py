"""Other programs' model files to potentials and back: `read`, `write`; a file's family is recognised by its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ase.data import chemical_symbols, covalent_radii

from adatom.potential.committee import Committee
from adatom.potential.evaluator import Evaluator
from adatom.potential.families import family_of
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import Golden, Potential, flatten
from adatom.potential.structure import Structure

Family = Literal["deepmd", "n2p2", "nep"]
PROGRAMS: dict[str, str] = {"deepmd": "DeePMD-kit", "n2p2": "n2p2", "nep": "GPUMD"}
GOLDEN_ELEMENTS = 6


def recognise(path: str | Path) -> str:
    """The family of a file or folder. Raises FileNotFoundError, or ModelFileError where it is of none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    for family in PROGRAMS:
        if _module(family).recognise(path):
            return family
    raise ModelFileError(
        f"{path}: not recognised as a model of {', '.join(PROGRAMS.values())}; name the family with --from {'|'.join(PROGRAMS)}"
    )


def read(
    paths: str | Path | Sequence[str | Path],
    family: str | None = None,
    *,
    length_unit: str | None = None,
    energy_unit: str | None = None,
) -> Potential:
    """One model, or several of one family as a committee (the first moves the atoms), with its self-test.

    length_unit, energy_unit: of n2p2's files, which do not say it ("angstrom" or "bohr", "eV" or "hartree"); no other family's.
    Raises FileNotFoundError, or ModelFileError with one line: what is damaged, or which key asks for something unsupported.
    """
    listed = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not listed:
        raise ValueError("no model given")
    if family is not None and family not in PROGRAMS:
        raise ValueError(f"unknown family {family!r}; known are {', '.join(PROGRAMS)}")
    found = {family or recognise(p) for p in listed}
    for p in listed:
        if not p.exists():
            raise FileNotFoundError(f"{p}: no such file or folder")
    if len(found) > 1:
        raise ModelFileError(f"a committee needs models of one family, these are of {', '.join(sorted(found))}")
    name = found.pop()
    reader = _module(name)
    if name == "n2p2":
        models = [reader.read(p, length_unit=length_unit, energy_unit=energy_unit) for p in listed]
    elif length_unit or energy_unit:
        raise ValueError(f"files of {PROGRAMS[name]} have units of their own: leave length_unit and energy_unit out")
    else:
        models = [reader.read(p) for p in listed]
    potential = together(models, [str(p) for p in listed])
    info = {**potential.info, "source": [p.name for p in listed]}
    return replace(potential, info=info, golden=golden(potential))


def write(potential: Potential, family: str, path: str | Path) -> None:
    """Write a potential for another program. ValueError in one line where it has not that program's form, or is not finite."""
    if family not in PROGRAMS:
        raise ValueError(f"unknown family {family!r}; known are {', '.join(PROGRAMS)}")
    for key, x in flatten(potential.params["network"]).items():
        bad = np.size(x) - int(np.isfinite(x).sum())
        if bad:
            raise ValueError(f"{bad} numbers of {key} in the potential are not finite: not written")
    _module(family).write(potential, Path(path))


def together(potentials: Sequence[Potential], names: Sequence[str]) -> Potential:
    """The first, with all as the members of its committee. They must differ in their arrays only.

    E0 of members may differ where the family adds `constants/offset` (species,) eV to every atom's energy.
    """
    first = potentials[0]
    if len(potentials) == 1:
        return first
    for other, name in zip(potentials[1:], names[1:], strict=True):
        if other.model != first.model:
            raise ModelFileError(f"{name}: elements, cutoff or network sizes differ from those of {names[0]}: no committee")
    networks = []
    for p, name in zip(potentials, names, strict=True):
        network, away = p.params["network"], np.asarray(p.statistics.e0) - np.asarray(first.statistics.e0)
        if "offset" in network.get("constants", {}):
            network = {**network, "constants": {**network["constants"], "offset": network["constants"]["offset"] + away}}
        elif np.abs(away).max() > 1e-9:
            raise ModelFileError(f"{name}: its energies of free atoms differ from those of {names[0]} by {away.tolist()} eV")
        networks.append(network)
    members = jax.tree.map(lambda *x: np.stack(x), *networks)
    return replace(first, committee=Committee("deep", members))


def golden(potential: Potential) -> Golden:
    """Two atoms of each of the first elements in a row that is not straight, half a bond too far apart."""
    numbers = np.array([z for z in potential.model.elements[:GOLDEN_ELEMENTS] for _ in range(2)])
    step = np.concatenate([[0.0], np.cumsum(1.2 * (covalent_radii[numbers[1:]] + covalent_radii[numbers[:-1]]))])
    k = np.arange(len(numbers))
    positions = np.stack([step, 0.7 * np.sin(2.0 * k), 0.5 * np.cos(3.0 * k)], axis=1)
    structure = Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
    out = Evaluator(potential, precision="float64", skin=0.0, compressed=False, test=False)(structure)
    return Golden(structure, out.energy, out.forces)


def describe(potential: Potential) -> str:
    """One line."""
    model, c = potential.model, potential.committee
    elements = ", ".join(chemical_symbols[z] for z in model.elements)
    return (
        f"{family_of(model)} model for {elements}, cutoff {model.cutoff:g} Å, {potential.n_parameters} parameters"
        + (f", a committee of {c.size}" if c else "")
    )  # fmt: skip


def _module(family: str) -> Any:
    return import_module(f"adatom.potential.interop.{family}")
