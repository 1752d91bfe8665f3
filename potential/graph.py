"""The padded pytree that crosses `jit`: positions, cells and a dense neighbour table grouped by species.

Layout (`potential/README.md` says why): atoms of one species are contiguous, group t has room for `atom_capacity[t]`
atoms; each atom's row of the table has room for `slot_capacity[t]` neighbours of species t, groups in the same order.
An empty slot has `mask` False and is presented to the model as a neighbour at twice the cutoff, where everything vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from adatom.potential.neighbours import Pairs, neighbour_pairs, reverse_pairs
from adatom.potential.structure import Structure

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Graph:
    """One or more structures, ready for the device. a atoms (with padding), k slots, s structures.

    positions (a, 3) Å; cell (s, 3, 3) Å; structure (a,) which structure an atom belongs to; atom_mask (a,);
    neighbours (a, k) indices of atoms; shifts (3, a, k) integers; mask (a, k); reverse (a·k,) flat index of the same pair
    seen from the other side (an empty slot points to itself).
    """

    positions: Array
    cell: Array
    structure: Array
    atom_mask: Array
    neighbours: Array
    shifts: Array
    mask: Array
    reverse: Array
    atom_capacity: tuple[int, ...] = field(metadata={"static": True})
    slot_capacity: tuple[int, ...] = field(metadata={"static": True})

    @property
    def n_structures(self) -> int:
        return int(self.cell.shape[0])

    def groups(self) -> list[tuple[int, int, int]]:
        """(species, start, stop) of every group of atoms that has room for any."""
        stops = np.cumsum(self.atom_capacity)
        return [(t, int(b) - n, int(b)) for t, (n, b) in enumerate(zip(self.atom_capacity, stops, strict=True)) if n]


@dataclass(frozen=True)
class Neighbourhood:
    """A structure with its pairs and what a batch must make room for. species (atoms,) index into the element list."""

    structure: Structure
    species: np.ndarray
    pairs: Pairs
    reverse: np.ndarray
    rank: np.ndarray
    atom_counts: np.ndarray
    slot_counts: np.ndarray


def species_of(numbers: np.ndarray, elements: Sequence[int], *, name: str = "the structure") -> np.ndarray:
    """Index of each atom's element in `elements`. Raises ValueError naming the elements the model does not know."""
    from ase.data import chemical_symbols

    table = np.full(119, -1, dtype=np.int32)
    table[list(elements)] = np.arange(len(elements))
    species = table[numbers]
    if (species < 0).any():
        missing = ", ".join(chemical_symbols[z] for z in sorted(set(numbers[species < 0].tolist())))
        known = ", ".join(chemical_symbols[z] for z in elements)
        raise ValueError(f"the model knows {known}; {name} has {missing}")
    return species


def neighbourhood(structure: Structure, elements: Sequence[int], cutoff: float, *, name: str = "the structure") -> Neighbourhood:
    """Find the pairs of a structure closer than `cutoff` and number each atom's neighbours within their species."""
    species = species_of(structure.numbers, elements, name=name)
    pairs = neighbour_pairs(structure, cutoff)
    n, n_species = len(structure), len(elements)
    row = pairs.i.astype(np.int64) * n_species + species[pairs.j]
    counts = np.bincount(row, minlength=n * n_species)
    if n_species == 1:
        rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    else:
        order = np.argsort(row, kind="stable")
        rank = np.empty(len(row), dtype=np.int64)
        rank[order] = np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
    return Neighbourhood(
        structure,
        species,
        pairs,
        reverse_pairs(pairs, n),
        rank,
        np.bincount(species, minlength=n_species),
        counts.reshape(n, n_species).max(axis=0),
    )


def batch(
    items: Sequence[Neighbourhood],
    *,
    atom_capacity: Sequence[int] | None = None,
    slot_capacity: Sequence[int] | None = None,
    n_structures: int | None = None,
) -> tuple[Graph, np.ndarray]:
    """Pack structures into one graph; capacities default to what is needed.

    Returns the graph and `rows` (atoms,): where each atom, structure after structure in its own order, stands in the graph.
    Raises ValueError where a capacity is too small: nothing is ever truncated.
    """
    need_atoms = np.sum([x.atom_counts for x in items], axis=0)
    need_slots = np.max([x.slot_counts for x in items], axis=0)
    atoms = np.asarray(need_atoms if atom_capacity is None else atom_capacity, dtype=np.int64)
    slots = np.asarray(need_slots if slot_capacity is None else slot_capacity, dtype=np.int64)
    n_structures = len(items) if n_structures is None else n_structures
    if (atoms < need_atoms).any() or (slots < need_slots).any() or n_structures < len(items):
        raise ValueError(
            f"capacity too small: atoms {atoms.tolist()} for {need_atoms.tolist()}, slots {slots.tolist()} for "
            f"{need_slots.tolist()}, structures {n_structures} for {len(items)}"
        )
    n, k = int(atoms.sum()), int(slots.sum())
    positions, structure_of = np.zeros((n, 3)), np.full(n, n_structures - 1, dtype=np.int32)
    atom_mask, mask = np.zeros(n, dtype=bool), np.zeros((n, k), dtype=bool)
    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    shifts = np.zeros((3, n * k), dtype=np.int8 if _small(items) else np.int32)
    reverse = np.arange(n * k, dtype=np.int32)
    cell = np.tile(np.eye(3), (n_structures, 1, 1))
    free, first_slot, rows = np.cumsum(atoms) - atoms, np.cumsum(slots) - slots, []
    for s, x in enumerate(items):
        row = free[x.species] + _rank_within(x.species)
        free = free + x.atom_counts
        i, j, _ = x.pairs
        flat = row[i] * k + first_slot[x.species[j]] + x.rank
        positions[row], structure_of[row], atom_mask[row], cell[s] = x.structure.positions, s, True, x.structure.cell
        neighbours.reshape(-1)[flat], mask.reshape(-1)[flat] = row[j], True
        shifts[:, flat], reverse[flat] = x.pairs.shifts.T, flat[x.reverse]
        rows.append(row)
    graph = Graph(
        positions, cell, structure_of, atom_mask, neighbours, shifts.reshape(3, n, k), mask, reverse,
        tuple(atoms.tolist()), tuple(slots.tolist()),
    )  # fmt: skip
    return graph, np.concatenate(rows)


def _rank_within(species: np.ndarray) -> np.ndarray:
    rank = np.empty(len(species), dtype=np.int64)
    for t in np.unique(species):
        rank[species == t] = np.arange((species == t).sum())
    return rank


def _small(items: Sequence[Neighbourhood]) -> bool:
    return all(np.abs(x.pairs.shifts).max(initial=0) < 128 for x in items)
