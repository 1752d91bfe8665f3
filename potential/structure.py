"""What an atomic structure is on the host: plain NumPy float64, no labels."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Structure:
    """Atoms in a cell.

    numbers (atoms,) atomic numbers; positions (atoms, 3) Å, Cartesian, not wrapped; cell (3, 3) Å, rows are lattice
    vectors (zero rows where there is no periodicity); pbc (3,) one flag per lattice vector.
    """

    numbers: Array
    positions: Array
    cell: Array
    pbc: Array

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """Volume in Å³ of a structure periodic in three directions, else nan (stress is not defined there)."""
        return float(abs(np.linalg.det(self.cell))) if self.pbc.all() else float("nan")

    @property
    def symbols(self) -> str:
        """Chemical formula, for messages."""
        return str(ase.formula.Formula.from_list([ase.data.chemical_symbols[z] for z in self.numbers]).format("hill"))

    def to_atoms(self) -> ase.Atoms:
        """The same as ASE Atoms."""
        return ase.Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)


def from_atoms(atoms: ase.Atoms, *, name: str = "the structure") -> Structure:
    """Read a structure from ASE Atoms and check that it can be evaluated.

    Raises ValueError, naming the offending atoms, where positions or cell are not finite, an atomic number is not that of
    an element, there are no atoms, or a periodic direction has no lattice vector.
    """
    numbers = np.array(atoms.numbers, dtype=np.int64)
    positions = np.array(atoms.positions, dtype=np.float64)
    cell = np.array(atoms.cell.array, dtype=np.float64)
    pbc = np.array(atoms.pbc, dtype=bool)
    if len(numbers) == 0:
        raise ValueError(f"{name} has no atoms")
    unknown = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(unknown):
        raise ValueError(f"{name}: atom {unknown[0]} has atomic number {numbers[unknown[0]]}, which is no element")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: {len(bad)} atoms have NaN or infinite positions, the first is atom {bad[0]}")
    if not np.isfinite(cell).all():
        raise ValueError(f"{name}: the cell has NaN or infinite components")
    if pbc.any():
        lengths = np.linalg.norm(cell, axis=1)
        if (lengths[pbc] < 1e-8).any():
            raise ValueError(
                f"{name}: pbc is {pbc.tolist()} but lattice vector {int(np.argmin(np.where(pbc, lengths, np.inf)))} has no length"
            )
        if pbc.all() and abs(np.linalg.det(cell)) < 1e-8 * lengths.prod():
            raise ValueError(f"{name}: the three lattice vectors lie in one plane (volume {abs(np.linalg.det(cell)):.2e} Å³)")
        if pbc.sum() == 2 and np.linalg.norm(np.cross(*cell[pbc])) < 1e-8 * lengths[pbc].prod():
            raise ValueError(f"{name}: the two periodic lattice vectors are parallel")
    return Structure(numbers, positions, cell, pbc)
