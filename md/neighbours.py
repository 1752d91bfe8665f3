"""The neighbour list on the device: O(N), any cell, any periodicity, rebuilt inside a jitted loop; equal to matscipy's.

Space is cut into bins, `grid` of them along each lattice vector (or along each free direction), and `reach` bins to either
side hold everything closer than the range = cutoff + skin. A cell smaller than the range has one bin and a reach of several
images. Bins of a structure are filled into a dense table, and every atom's candidates, bin offset after bin offset, become
one bit each: closer than the range or not. From there on all is counting bits, no sort and no scatter:

    the k-th neighbour of i is its k-th bit set, and the same pair seen from j is the bit of i in the words of j,
    at the opposite offset; its slot is the number of bits of j before it.

Distances are compared in an order of operations for which d(i→j) = −d(j→i) to the last bit, so the list is symmetric.
Capacities (atoms a bin, slots an atom) are static. What does not fit is reported in `needs`, never dropped silently: who
calls throws the steps since away and repeats them with a larger plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adatom.md.system import System
from adatom.potential.compilation import jit
from adatom.potential.device import numbers_at_once, on_cpu
from adatom.potential.graph import Graph
from adatom.potential.kernels.build import compiled

Array = jax.Array
WORD = 32


class Plan(NamedTuple):
    """Static sizes. grid, reach: bins and how many of them to look at to either side; atoms a bin; slots of every species."""

    grid: tuple[int, int, int]
    reach: tuple[int, int, int]
    bin_capacity: int
    slot_capacity: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Needs:
    """What the structures asked for: atoms () in the fullest bin, slots (t,) of the atom with most, fits (): reach is enough."""

    bin: Array
    slots: Array
    fits: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NeighbourList:
    """The table of `adatom.potential.graph.Graph`, and the state it was made for.

    neighbours (a, k), shifts (3, a, k) int8 between wrapped atoms, mask (a, k), reverse (a·k,); images (a, 3): wrapped position =
    position − images @ cell; positions (a, 3), cell (s, 3, 3) when built; overflow (): the list is incomplete, see needs.
    """

    neighbours: Array
    shifts: Array
    mask: Array
    reverse: Array
    images: Array
    positions: Array
    cell: Array
    overflow: Array
    needs: Needs
    slot_capacity: tuple[int, ...] = field(metadata={"static": True})

    def graph(self, system: System, positions: Array, cell: Array) -> Graph:
        """For `predict`, with the atoms where they are now."""
        h = cell[system.structure]  # not an einsum: three small products an atom cost more there than the rest of a step
        wrapped = positions - (self.images[:, 0:1] * h[:, 0] + self.images[:, 1:2] * h[:, 1] + self.images[:, 2:3] * h[:, 2])
        return Graph(
            wrapped, cell, system.structure, system.atom_mask, self.neighbours, self.shifts, self.mask, self.reverse,
            system.atom_capacity, self.slot_capacity,
        )  # fmt: skip


class _Bins(NamedTuple):
    """of (a,) bin of each atom, the number of all bins on padding; images (a, 3); heights (s, 3) Å of what is cut up."""

    of: Array
    images: Array
    heights: Array


def _bins(system: System, grid: Array, positions: Array, cell: Array, length: float) -> _Bins:
    pbc = system.pbc[system.structure]
    inverse = jnp.linalg.inv(jnp.where(system.pbc[:, :, None], cell, system.directions))
    fractional = jnp.einsum("ac,acd->ad", positions, inverse[system.structure], precision="highest")
    images = jnp.where(pbc, jnp.floor(fractional), 0.0)
    columns, heights, bins = [], [], grid.astype(positions.dtype)
    for c in range(3):
        x, height = fractional[:, c] - images[:, c], 1.0 / jnp.sqrt((inverse[:, :, c] ** 2).sum(axis=1))
        if system.free[c]:
            closed, extent = _closed(system, x, 1.01 * length)
            x = jnp.where(pbc[:, c], x, closed)
            height = jnp.where(system.pbc[:, c], height, extent)
        columns.append(jnp.clip(jnp.nan_to_num(jnp.floor(x * bins[c])), 0.0, bins[c] - 1.0).astype(jnp.int32))
        heights.append(height)
    index = ((system.structure * grid[0] + columns[0]) * grid[1] + columns[1]) * grid[2] + columns[2]
    index = jnp.where(system.atom_mask, index, system.n_structures * grid[0] * grid[1] * grid[2])
    return _Bins(index, jnp.where(system.atom_mask[:, None], images, 0.0), jnp.stack(heights, axis=1))


def _closed(system: System, x: Array, widest: float) -> tuple[Array, Array]:
    """Coordinates [Å] along a free direction scaled to 0…1, gaps wider than `widest` closed; and their extents (s,)."""
    order = jnp.lexsort((x, system.structure, ~system.atom_mask))
    sorted_x, owner = x[order], system.structure[order]
    gap = jnp.where(jnp.roll(owner, 1) == owner, sorted_x - jnp.roll(sorted_x, 1), 0.0)
    excess = jnp.cumsum(jnp.maximum(gap.at[0].set(0.0) - widest, 0.0))
    x = x - jnp.zeros_like(x).at[order].set(excess, unique_indices=True)
    low = -jax.ops.segment_max(jnp.where(system.atom_mask, -x, -jnp.inf), system.structure, system.n_structures)
    high = jax.ops.segment_max(jnp.where(system.atom_mask, x, -jnp.inf), system.structure, system.n_structures)
    extent = jnp.maximum(high - low, 1e-6)
    return (x - low[system.structure]) / extent[system.structure], extent


class _Table(NamedTuple):
    """Bins filled: atoms (b, m), the number of rows where empty; rank (a,) of an atom in its bin; atoms in the fullest ()."""

    bins: _Bins
    atoms: Array
    rank: Array
    fullest: Array


def _fill(system: System, plan: Plan, positions: Array, cell: Array, length: float) -> _Table:
    bins = _bins(system, jnp.asarray(plan.grid, dtype=jnp.int32), positions, cell, length)
    n_bins, n = system.n_structures * math.prod(plan.grid), system.n_rows
    order = jnp.argsort(bins.of, stable=True).astype(jnp.int32)
    start = jnp.searchsorted(bins.of[order], jnp.arange(n_bins + 1, dtype=jnp.int32)).astype(jnp.int32)
    place = jnp.zeros(n, dtype=jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32), unique_indices=True)
    slot = jnp.arange(plan.bin_capacity, dtype=jnp.int32)[None, :]
    filled = slot < (start[1:] - start[:-1])[:, None]
    atoms = jnp.where(filled, order[jnp.minimum(start[:-1, None] + slot, n - 1)], n)
    return _Table(bins, atoms, place - start[bins.of], (start[1:] - start[:-1]).max())


def _offsets(plan: Plan) -> np.ndarray:
    """All bin offsets (o, 3); the opposite of the o-th is the o-th from the end."""
    axes = [np.arange(-m, m + 1, dtype=np.int32) for m in plan.reach]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _around(system: System, plan: Plan, index: Array) -> tuple[Array, Array, Array]:
    """Of a bin (): the bins at all offsets (o,), their lattice shifts (o, 3), and whether they exist (o,)."""
    g = plan.grid
    here = jnp.stack([index // (g[1] * g[2]) % g[0], index // g[2] % g[1], index % g[2]])
    there = here[None, :] + _offsets(plan)
    grid = jnp.asarray(g, dtype=jnp.int32)[None, :]
    shift = there // grid
    inside = there - shift * grid
    structure = index // math.prod(g)
    found = ((structure * g[0] + inside[:, 0]) * g[1] + inside[:, 1]) * g[2] + inside[:, 2]
    exists = (system.pbc[jnp.minimum(structure, system.n_structures - 1)][None, :] | (shift == 0)).all(axis=1)
    return jnp.where(exists, found, 0), shift, exists


def _words(system: System, plan: Plan, table: _Table, wrapped: Array, cell: Array, length: float) -> Array:
    """Bits of every atom of every bin: (b, m, t, w), t species that the structures have."""
    n_bins, m = table.atoms.shape
    offsets, present = len(_offsets(plan)), _present(system)
    n_words = -(-offsets * m // WORD)
    empty = table.atoms == system.n_rows
    safe = jnp.minimum(table.atoms, system.n_rows - 1)
    placed = jnp.where(empty[None], jnp.nan, wrapped.T[:, safe])
    species = jnp.asarray(system.species)[safe]
    own = np.zeros((m, offsets, m), dtype=bool)
    own[np.arange(m), offsets // 2, np.arange(m)] = True

    def one(index: Array) -> Array:
        around, shift, exists = _around(system, plan, index)
        h, s = cell[index // math.prod(plan.grid)], shift.astype(cell.dtype)
        lattice = s[:, 0, None] * h[None, 0] + s[:, 1, None] * h[None, 1] + s[:, 2, None] * h[None, 2]
        d = (placed[:, around][:, None] - placed[:, index][:, :, None, None]) + lattice.T[:, None, :, None]
        near = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < length * length
        near = near & exists[None, :, None] & ~own
        words = []
        for t in present:
            bits = near if len(present) == 1 else near & (species[around] == t)[None]
            bits = jnp.pad(bits.reshape(m, -1), ((0, 0), (0, n_words * WORD - offsets * m))).reshape(m, n_words, WORD)
            power = jnp.left_shift(jnp.uint32(1), jnp.arange(WORD, dtype=jnp.uint32))
            words.append(jnp.where(bits, power[None, None, :], jnp.uint32(0)).sum(axis=-1, dtype=jnp.uint32))
        return jnp.stack(words, axis=1)

    together = max(1, numbers_at_once() // (m * m * offsets))
    return lax.map(one, jnp.arange(n_bins, dtype=jnp.int32), batch_size=min(together, n_bins))


def _present(system: System) -> list[int]:
    """The species that the structures have: a model may know many more, and these cost nothing."""
    return [t for t, n in enumerate(system.atom_capacity) if n]


def _ones(words: Array) -> Array:
    return lax.population_count(words).astype(jnp.int32)


def _bit(word: Array, k: Array) -> Array:
    """Index of the k-th bit set in a word that has more than k; 31 at most elsewhere."""
    at = jnp.zeros_like(k)
    for half in (16, 8, 4, 2, 1):
        below = _ones(word & jnp.uint32((1 << half) - 1))
        up = k >= below
        k = jnp.where(up, k - below, k)
        word = jnp.where(up, jnp.right_shift(word, jnp.uint32(half)), word)
        at = jnp.where(up, at + half, at)
    return at


def build(system: System, plan: Plan, positions: Array, cell: Array, length: float) -> NeighbourList:
    """All pairs closer than `length` Å. positions (a, 3), cell (s, 3, 3). Check `overflow` before using the list."""
    table = _fill(system, plan, positions, cell, length)
    wrapped = positions - jnp.einsum("ac,acd->ad", table.bins.images, cell[system.structure], precision="highest")
    in_cpp = positions.dtype == jnp.float64 and on_cpu() and compiled("neighbours").library is not None
    rows = (_compiled_rows if in_cpp else _rows)(system, plan, table, wrapped, cell, length)
    heights, grid = table.bins.heights, jnp.asarray(plan.grid, dtype=positions.dtype)[None, :]
    enough = jnp.asarray(plan.reach, dtype=positions.dtype)[None, :] * heights >= length * grid
    needs = Needs(table.fullest, rows.most, (enough | (~system.pbc & (grid == 1.0)) | jnp.isnan(heights)).all())
    room = jnp.asarray(plan.slot_capacity, dtype=jnp.int32)
    overflow = (needs.bin > plan.bin_capacity) | (needs.slots > room).any() | ~needs.fits
    own = jnp.arange(rows.mask.size, dtype=jnp.int32)
    reverse = jnp.where(overflow, own, rows.reverse.reshape(-1))
    return NeighbourList(
        rows.neighbours, rows.shifts, rows.mask, reverse, table.bins.images, positions, cell, overflow, needs, plan.slot_capacity
    )


class _Rows(NamedTuple):
    """neighbours (a, k), shifts (3, a, k), mask (a, k), reverse (a, k); most (t,) neighbours of every species."""

    neighbours: Array
    shifts: Array
    mask: Array
    reverse: Array
    most: Array


def _compiled_rows(system: System, plan: Plan, table: _Table, wrapped: Array, cell: Array, length: float) -> _Rows:
    """As `_rows`, by `potential/kernels/neighbours_ffi.cpp`: the same to the last bit, in a fifth of the time."""
    a, k, t = system.n_rows, sum(plan.slot_capacity), len(plan.slot_capacity)
    shapes = [((a, k), jnp.int32), ((a, k, 3), jnp.int8), ((a, k), jnp.bool_), ((a, k), jnp.int32), ((t,), jnp.int32)]
    call = jax.ffi.ffi_call("adatom_neighbours", [jax.ShapeDtypeStruct(*x) for x in shapes], vmap_method="sequential")
    static = {"grid": plan.grid, "reach": plan.reach, "room": plan.slot_capacity, "species_atoms": system.atom_capacity}
    numbers = {name: np.array(x, dtype=np.int64) for name, x in static.items()}
    neighbours, shifts, mask, reverse, most = call(wrapped, cell, system.pbc, table.atoms, **numbers, length=np.float64(length))
    return _Rows(neighbours, shifts.transpose(2, 0, 1), mask, reverse, most)


def _rows(system: System, plan: Plan, table: _Table, wrapped: Array, cell: Array, length: float) -> _Rows:
    in_bins = _words(system, plan, table, wrapped, cell, length)
    n, slots, m = system.n_rows, sum(plan.slot_capacity), plan.bin_capacity
    first = np.cumsum(plan.slot_capacity) - np.asarray(plan.slot_capacity)
    index = jnp.minimum(table.bins.of, len(table.atoms) - 1)
    words = jnp.where(system.atom_mask[:, None, None], in_bins[index, jnp.minimum(table.rank, m - 1)], jnp.uint32(0))
    ones = _ones(words)
    upto = jnp.cumsum(ones, axis=-1)
    before = upto - ones
    counts = upto[:, :, -1]
    present, n_offsets = _present(system), len(_offsets(plan))
    species = jnp.asarray((np.cumsum(np.asarray(system.atom_capacity) > 0) - 1)[system.species], dtype=jnp.int32)
    first_slot = jnp.asarray(first[present], dtype=jnp.int32)

    def row(i: Array) -> tuple[Array, Array, Array, Array]:
        around, shift, _ = _around(system, plan, index[i])
        here, parts = i * slots, []
        for s, room in enumerate(plan.slot_capacity):
            k = jnp.arange(room, dtype=jnp.int32)
            if s not in present:
                if room:
                    none = jnp.zeros(room, dtype=bool)
                    parts.append((i + 0 * k, jnp.zeros((room, 3), dtype=jnp.int8), none, here + int(first[s]) + k))
                continue
            t = present.index(s)
            word = jnp.minimum((upto[i, t][None, :] <= k[:, None]).sum(axis=1, dtype=jnp.int32), words.shape[-1] - 1)
            candidate = WORD * word + _bit(words[i, t][word], k - before[i, t][word])
            offset = jnp.minimum(candidate // m, n_offsets - 1)
            used = k < counts[i, t]
            j = jnp.where(used, jnp.minimum(table.atoms[around[offset], candidate % m], n - 1), i)
            back = (n_offsets - 1 - offset) * m + table.rank[i]
            lower = jnp.left_shift(jnp.uint32(1), (back % WORD).astype(jnp.uint32)) - jnp.uint32(1)
            at = jnp.minimum(back // WORD, words.shape[-1] - 1)
            slot = before[j, species[i], at] + _ones(words[j, species[i], at] & lower)
            flat = jnp.where(used, j * slots + first_slot[species[i]] + slot, here + int(first[s]) + k)
            parts.append((j, jnp.where(used[:, None], shift[offset], 0).astype(jnp.int8), used, flat))
        neighbours, shifts, mask, reverse = (jnp.concatenate(x) for x in zip(*parts, strict=True))
        return neighbours, shifts.T, mask, reverse

    together = max(1, numbers_at_once() // (words.shape[-1] * max(slots, 1)))
    rows = lax.map(row, jnp.arange(n, dtype=jnp.int32), batch_size=min(together, n))
    neighbours, shifts, mask, reverse = rows
    most = jnp.zeros(len(plan.slot_capacity), dtype=jnp.int32).at[np.array(present)].set(counts.max(axis=0))
    return _Rows(neighbours, shifts.transpose(1, 0, 2), mask, reverse, most)


def stale(
    system: System, neighbours: NeighbourList, positions: Array, cell: Array, *, cutoff: float, skin: float,
    moving_cell: bool = True,
) -> Array:  # fmt: skip
    """Whether a pair that is not in the list may be closer than the cutoff: ().

    The list holds while 2·max|u| ≤ σ(F)·(cutoff + skin) − cutoff, with F the deformation of the cell since it was built, u what
    atoms moved beyond F, and σ(F) its smallest singular value.
    """
    if moving_cell:
        deformation = jnp.linalg.solve(neighbours.cell, cell)
        moved = positions - jnp.einsum("ac,acd->ad", neighbours.positions, deformation[system.structure], precision="highest")
        square = jnp.einsum("scd,sce->sde", deformation, deformation, precision="highest")
        room = jnp.sqrt(jnp.linalg.eigvalsh(square)[:, 0]) * (cutoff + skin) - cutoff
    else:
        moved, room = positions - neighbours.positions, jnp.full(system.n_structures, skin, dtype=positions.dtype)
    return (2.0 * jnp.sqrt(system.highest((moved * moved).sum(axis=1))) > room).any()


@partial(jit, static_argnames=("length",))
def _bin_heights(system: System, grid: Array, positions: Array, cell: Array, length: float) -> _Bins:
    return _bins(system, grid, positions, cell, length)


def make_plan(system: System, positions: Array, cell: Array, length: float, *, slots: Sequence[int], shrink: float = 0.0) -> Plan:
    """Choose bins for these positions: the ones with fewest candidates. shrink: how much smaller the cell may become (0.05: 5 %).

    slots: neighbours of every species to make room for. Raises ValueError for more pairs than can be numbered.
    """
    pbc = np.asarray(system.pbc)
    heights = np.asarray(_bin_heights(system, jnp.ones(3, dtype=jnp.int32), positions, cell, length).heights)
    best: tuple[float, Plan] | None = None
    for finer in (1.0, 2.0, 3.0):
        for size in {tuple(heights.min(axis=0)), tuple(heights.max(axis=0))}:
            low, most = (1.0 - shrink) * heights, 3_000_000 / len(heights)
            wanted = np.minimum(np.maximum(finer * (1.0 - shrink) * np.array(size) / length, 1.0), 1000.0)
            wanted = np.floor(wanted * min(1.0, (most / wanted.prod()) ** (1.0 / 3.0))).astype(np.int64).clip(1)
            reach = np.ceil(length * wanted / low * (1.0 + 1e-9))
            reach = np.where(~pbc & (wanted == 1), 0.0, reach).max(axis=0).astype(np.int64)
            if (reach > 127).any():
                raise ValueError(f"a cell {heights.min():.3g} Å high is too thin for pairs up to {length:g} Å")
            index = np.asarray(_bin_heights(system, jnp.asarray(wanted, dtype=jnp.int32), positions, cell, length).of)
            fullest = int(np.unique(index[np.asarray(system.atom_mask)], return_counts=True)[1].max())
            room = _bin_room(fullest)
            cost = float(np.prod(2 * reach + 1)) * room * (room * float(wanted.prod()) * len(heights) + 8 * len(index))
            if best is None or cost < best[0]:
                plan = Plan(tuple(wanted.tolist()), tuple(reach.tolist()), room, tuple(slots))
                best = cost, plan
    assert best is not None
    if system.n_rows * sum(slots) >= 2**31:
        raise ValueError(f"{system.n_rows} atoms with {sum(slots)} neighbours each are more pairs than one device can number")
    return best[1]


def _bin_room(atoms: int) -> int:
    return math.ceil(1.15 * atoms) + 1


def slots_for(counts: Sequence[int]) -> tuple[int, ...]:
    """Capacities with some room for counts of neighbours; none for a species nobody has near."""
    return tuple(4 * math.ceil((1.05 * x + 1) / 4) if x else 0 for x in counts)


_build = jit(build, static_argnames=("plan", "length"))


def allocate(system: System, positions: Array, cell: Array, length: float, *, shrink: float = 0.0) -> tuple[Plan, NeighbourList]:
    """A plan with room to spare, and the list: built once with a guess to count, then with the capacities that needs."""
    guess = tuple(4 if n else 0 for n in system.atom_capacity)
    plan = make_plan(system, positions, cell, length, slots=guess, shrink=shrink)
    while True:
        found = _build(system, plan, positions, cell, length)
        if not bool(found.overflow):
            return plan, found
        plan = enlarge(plan, found.needs, system, positions, cell, length, shrink=shrink)


def enlarge(
    plan: Plan, needs: Needs, system: System, positions: Array, cell: Array, length: float, *, shrink: float = 0.0
) -> Plan:
    """The plan that has room for what was needed; with other bins where their reach was not enough. No capacity shrinks."""
    slots = tuple(max(x, y) for x, y in zip(plan.slot_capacity, slots_for(np.asarray(needs.slots).tolist()), strict=True))
    if not bool(needs.fits):
        return make_plan(system, positions, cell, length, slots=slots, shrink=shrink)
    most = int(needs.bin)
    return plan._replace(slot_capacity=slots, bin_capacity=_bin_room(most) if most > plan.bin_capacity else plan.bin_capacity)
