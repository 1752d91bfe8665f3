"""The neighbour list on the host: matscipy's, for any cell and any mix of periodicities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matscipy.neighbours import neighbour_list as matscipy_neighbour_list

from adatom.potential.structure import Structure

Array = np.ndarray


class Pairs(NamedTuple):
    """Full neighbour list (i→j and j→i), sorted by i.

    i, j (pairs,) atoms; shifts S (pairs, 3) integers; `positions[j] − positions[i] + S @ cell` points from i to j.
    """

    i: Array
    j: Array
    shifts: Array


def free_directions(cell: Array, pbc: Array) -> Array:
    """Orthonormal directions perpendicular to all periodic lattice vectors: (3 − periodic, 3)."""
    basis, _ = np.linalg.qr(np.concatenate([cell[pbc], np.eye(3)]).T)
    return basis.T[pbc.sum() : 3]


def close_gaps(positions: Array, directions: Array, widest: float) -> Array:
    """Positions moved along each direction so that no gap in the atoms' coordinates is wider than `widest`.

    Pairs closer than `widest` keep their vectors (no gap lies between them), all others stay farther than it. Keeps the
    bins of the neighbour search few when atoms have flown far away.
    """
    moved = positions.copy()
    for u in directions:
        x = positions @ u
        order = np.argsort(x, kind="stable")
        excess = np.concatenate([[0.0], np.maximum(np.diff(x[order]) - widest, 0.0)])
        if excess.any():
            moved[order] -= np.cumsum(excess)[:, None] * u
    return moved


def complete_cell(cell: Array, pbc: Array, positions: Array, margin: float) -> tuple[Array, Array]:
    """A cell with volume for a structure that is not periodic everywhere, and an origin that puts all atoms inside.

    Non-periodic directions get vectors perpendicular to the periodic ones, as long as the atoms reach plus `margin` Å on
    either side, whatever the cell said there: a missing, a zero or a too short vector then makes no difference.
    Returns (cell, origin): (3, 3) and (3,).
    """
    if pbc.all():
        return cell, np.zeros(3)
    full = np.zeros((3, 3))
    full[pbc] = cell[pbc]
    free = free_directions(cell, pbc)
    reach = positions @ free.T
    low, high = reach.min(axis=0) - margin, reach.max(axis=0) + margin
    full[~pbc] = free * (high - low)[:, None]
    return full, low @ free


def neighbour_pairs(structure: Structure, cutoff: float) -> Pairs:
    """All pairs of atoms, periodic images included, closer than `cutoff` Å."""
    pbc = structure.pbc
    positions = close_gaps(structure.positions, free_directions(structure.cell, pbc), 1.01 * cutoff)
    cell, origin = complete_cell(structure.cell, pbc, positions, 0.5 * cutoff)
    i, j, shifts = matscipy_neighbour_list("ijS", cutoff=float(cutoff), positions=positions - origin, cell=cell, pbc=pbc)
    return Pairs(i, j, np.where(pbc, shifts, 0))


def reverse_pairs(pairs: Pairs, n_atoms: int) -> Array:
    """For each pair i→j the index of the same pair seen from j: (pairs,)."""
    span = 2 * int(np.abs(pairs.shifts).max(initial=0)) + 1
    s = pairs.shifts.astype(np.int64)
    code = (s[:, 0] * span + s[:, 1]) * span + s[:, 2]
    i, j, top = pairs.i.astype(np.int64), pairs.j.astype(np.int64), span**3
    forward = (i * n_atoms + j) * top + code
    backward = (j * n_atoms + i) * top - code
    reverse = np.empty(len(i), dtype=np.int64)
    reverse[np.argsort(backward, kind="stable")] = np.argsort(forward, kind="stable")
    return reverse
