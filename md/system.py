"""Structures packed for the device: what does not change while atoms move.

Atoms of all structures stand in one row of arrays, grouped by species as in `adatom.potential.graph`, each group padded to
its capacity. Within a group they are ordered along the cell, so that neighbours are near in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.graph import species_of
from adatom.potential.neighbours import free_directions
from adatom.potential.structure import from_atoms

Array = jax.Array
REGION = 6.0
"""Å, edge of the boxes atoms are ordered by."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """a atoms (with padding), s structures.

    structure (a,) which one an atom belongs to; rank (a,) its index there; atom_mask (a,) False on padding; masses (a,) u, 1 on
    padding; movable (a, 3) 0 for coordinates that are held, else 1; pbc (s, 3); directions (s, 3, 3): for a direction that is
    not periodic a unit vector perpendicular to the periodic ones and to each other, else zero. Static: atom_capacity of every
    species, `largest` number of atoms of a structure, and which directions are not periodic in some structure.
    """

    structure: Array
    rank: Array
    atom_mask: Array
    masses: Array
    movable: Array
    pbc: Array
    directions: Array
    atom_capacity: tuple[int, ...] = field(metadata={"static": True})
    largest: int = field(metadata={"static": True})
    free: tuple[bool, bool, bool] = field(metadata={"static": True})

    @property
    def n_structures(self) -> int:
        return int(self.pbc.shape[0])

    @property
    def n_rows(self) -> int:
        return sum(self.atom_capacity)

    @property
    def species(self) -> np.ndarray:
        """(a,) index into the elements; the layout fixes it."""
        return np.repeat(np.arange(len(self.atom_capacity), dtype=np.int32), self.atom_capacity)

    def total(self, values: Array) -> Array:
        """Sums over the atoms of each structure: (a, …) -> (s, …)."""
        if self.n_structures == 1:
            return values.sum(axis=0, keepdims=True)
        return jax.ops.segment_sum(values, self.structure, self.n_structures)

    def highest(self, values: Array) -> Array:
        """The largest value among the atoms of each structure: (a,) -> (s,)."""
        values = jnp.where(self.atom_mask, values, -jnp.inf)
        if self.n_structures == 1:
            return values.max(keepdims=True)
        return jax.ops.segment_max(values, self.structure, self.n_structures)


@dataclass(frozen=True)
class Packed:
    """`system` with the starting positions (a, 3) and cells (s, 3, 3) in Å; rows[s] are where the atoms of structure s stand."""

    system: System
    positions: np.ndarray
    cell: np.ndarray
    rows: tuple[np.ndarray, ...]

    def spread(self, values: Sequence[np.ndarray], fill: float = 0.0) -> np.ndarray:
        """Arrays per structure in its own order -> one array in the order of the device."""
        out = np.full((self.system.n_rows, *np.shape(values[0])[1:]), fill, dtype=np.asarray(values[0]).dtype)
        for rows, value in zip(self.rows, values, strict=True):
            out[rows] = value
        return out


def pack(structures: Sequence[ase.Atoms], elements: Sequence[int], *, movable: Sequence[np.ndarray], block: int | None) -> Packed:
    """Check and pack structures. movable: (atoms, 3) each; block: groups of more atoms are padded to a multiple of it.

    Raises ValueError for structures that cannot be evaluated and for elements the model does not know.
    """
    many = len(structures) > 1
    checked = [from_atoms(x, name=f"structure {s}" if many else "the structure") for s, x in enumerate(structures)]
    species = [species_of(x.numbers, elements, name=f"structure {s}" if many else "the structure") for s, x in enumerate(checked)]
    counts = np.sum([np.bincount(x, minlength=len(elements)) for x in species], axis=0)
    if block is not None:
        counts = np.where(counts > block, block * -(-counts // block), counts)
    n = int(counts.sum())
    free, rows = np.cumsum(counts) - counts, []
    pbc = np.array([x.pbc for x in checked])
    directions = np.zeros((len(checked), 3, 3))
    structure, rank = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)
    atom_mask, masses, moves = np.zeros(n, dtype=bool), np.ones(n), np.ones((n, 3))
    positions, cell = np.zeros((n, 3)), np.tile(np.eye(3), (len(checked), 1, 1))
    for s, x in enumerate(checked):
        directions[s, ~x.pbc] = free_directions(x.cell, x.pbc)
        cell[s] = np.where(x.pbc[:, None], x.cell, directions[s])
        order = _along_the_cell(x.positions, np.linalg.inv(cell[s]), np.linalg.norm(cell[s], axis=1), x.pbc)
        row = np.empty(len(x), dtype=np.int64)
        for t in range(len(elements)):
            own = order[species[s][order] == t]
            row[own] = free[t] + np.arange(len(own))
            free[t] += len(own)
        structure[row], rank[row], atom_mask[row] = s, np.arange(len(x)), True
        masses[row], moves[row], positions[row] = structures[s].get_masses(), movable[s], x.positions
        rows.append(row)
    arrays: dict[str, Any] = {
        "structure": structure, "rank": rank, "atom_mask": atom_mask, "masses": masses, "movable": moves, "pbc": pbc,
        "directions": directions,
    }  # fmt: skip
    a, b, c = (bool(not column.all()) for column in pbc.T)
    largest = max(len(x) for x in checked)
    system = System(**arrays, atom_capacity=tuple(counts.tolist()), largest=largest, free=(a, b, c))
    return Packed(system, positions, cell, tuple(rows))


def _along_the_cell(positions: np.ndarray, inverse: np.ndarray, lengths: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """An order of the atoms, box after box."""
    fractional = positions @ inverse
    fractional = np.where(pbc, fractional % 1.0, fractional - fractional.min(axis=0))
    box = np.floor(fractional * np.maximum(lengths // REGION, 1.0)).astype(np.int64)
    return np.lexsort((box[:, 2], box[:, 1], box[:, 0]))
