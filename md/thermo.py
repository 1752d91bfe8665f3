"""What is read off a configuration while it moves: one row of the thermodynamic table."""

from __future__ import annotations

from typing import NamedTuple

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError

from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import Structure


class Thermo(NamedTuple):
    """One row of the log; nan where a quantity is not defined (volume, stress, nothing conserved, no neighbours)."""

    step: int
    time_ps: float
    temperature_K: float
    potential_eV: float
    kinetic_eV: float
    total_eV: float
    conserved_eV: float
    pressure_GPa: float
    volume_A3: float
    min_distance_A: float


def measure(
    atoms: ase.Atoms, *, step: int, time_ps: float, degrees_of_freedom: int, conserved: float | None, reach: float
) -> Thermo:
    """Of atoms whose calculator has its results ready; `reach` [Å] is where the search for the closest pair begins."""
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    volume = float(atoms.get_volume()) if atoms.pbc.all() else np.nan
    temperature = 2.0 * kinetic / (units.kB * degrees_of_freedom) if degrees_of_freedom else 0.0
    return Thermo(
        step, time_ps, temperature, potential, kinetic, potential + kinetic, np.nan if conserved is None else conserved,
        pressure(atoms), volume, min_distance(atoms, reach),
    )  # fmt: skip


def pressure(atoms: ase.Atoms) -> float:
    """−tr(stress)/3 with the kinetic part, GPa; nan without a 3-D cell or where the calculator has no stress."""
    if not atoms.pbc.all():
        return np.nan
    try:
        return float(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)
    except (PropertyNotImplementedError, NotImplementedError):
        return np.nan


def min_distance(atoms: ase.Atoms, reach: float, *, limit: float = 12.0) -> float:
    """Closest pair of atoms, periodic images included, Å; nan where there is none within `limit`."""
    structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    while True:
        reach = min(reach, limit)
        i, j, shifts = neighbour_pairs(structure, reach)
        if len(i):
            d = structure.positions[j] - structure.positions[i] + shifts @ structure.cell
            return float(np.sqrt((d * d).sum(axis=1).min()))
        if reach == limit:
            return np.nan
        reach *= 1.6
