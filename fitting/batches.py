"""Frames as stacked, padded arrays on the device: neighbours found once, batches gathered by index inside the train step.

Frames are sorted into few buckets of similar size, each with fixed capacities, so that the number of compilations is the
number of buckets; numbers of frames and slots are of few sizes (`sizes`), so that a little more data compiles nothing. A batch of
frames `index` becomes one Graph by adding frame offsets to rows: no host work per step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.dataset import Frame
from adatom.fitting.sizes import eighths, few
from adatom.potential.graph import Graph, Neighbourhood, batch, neighbourhood

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """Labels of a batch, kept apart from the graph. A label that a frame lacks is zero and its weight is zero.

    energy (s,) eV; forces (a, 3) eV/Å in the rows of the graph; stress (s, 3, 3) eV/Å³; n_atoms (s,);
    energy_weight, forces_weight, stress_weight (s,).
    """

    energy: Array
    forces: Array
    stress: Array
    n_atoms: Array
    energy_weight: Array
    forces_weight: Array
    stress_weight: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bucket:
    """Frames of similar size. f frames, n rows a frame (species groups), k slots; the first axis of every array is f.

    frame (f,): number of each; the last rows may be filled with copies that are nobody's, −1. len(bucket) counts the others.
    """

    positions: Array
    cell: Array
    atom_mask: Array
    neighbours: Array
    shifts: Array
    mask: Array
    reverse_slot: Array
    targets: Targets
    frame: Array
    atom_capacity: tuple[int, ...] = field(metadata={"static": True})
    slot_capacity: tuple[int, ...] = field(metadata={"static": True})

    def __len__(self) -> int:
        return int((np.asarray(self.frame) >= 0).sum())


def neighbourhoods(frames: Sequence[Frame], elements: Sequence[int], cutoff: float) -> list[Neighbourhood]:
    """Neighbours of every frame, once. Raises ValueError naming the frame that has an element outside `elements`."""
    return [neighbourhood(f.structure, elements, cutoff, name=f.source) for f in frames]


ONCE = 3e6
"""Atoms × slots that take about as long to evaluate as one more size to compile."""


def make_buckets(
    frames: Sequence[Frame], items: Sequence[Neighbourhood], max_buckets: int = 4, *, worth: float = 0.0
) -> list[Bucket]:  # fmt: skip
    """Cut the frames, sorted by padded cost, into at most `max_buckets` groups with the least padding.

    worth: atoms × slots that one more group must save. `ONCE` for what is evaluated once.
    """
    cost = np.array([x.atom_counts.sum() * max(sum(_slots([x])), 1) for x in items], dtype=float)
    order = np.argsort(cost, kind="stable")
    cuts = _cuts(cost[order], max_buckets, worth)
    return [_stack([frames[i] for i in part], [items[i] for i in part], part) for part in np.split(order, cuts)]


def _cuts(cost: np.ndarray, max_buckets: int, worth: float = 0.0) -> list[int]:
    """Cut positions of a sorted list that minimise Σ (len(group)·max(group) + worth), by dynamic programming over at most 64
    candidates."""
    n = len(cost)
    edges = sorted({0, n, *(np.flatnonzero(np.diff(cost)) + 1).tolist()})
    if len(edges) > 65:
        edges = sorted({0, n, *(edges[int(q)] for q in np.linspace(0, len(edges) - 1, 65))})
    best: list[dict[int, tuple[float, list[int]]]] = [{0: (0.0, [])}]
    for _ in range(max_buckets):
        row: dict[int, tuple[float, list[int]]] = {}
        for stop in edges[1:]:
            options = [(c + (stop - a) * cost[stop - 1], [*cuts, a]) for a, (c, cuts) in best[-1].items() if a < stop]
            if options:
                row[stop] = min(options)
        best.append(row)
    totals = [(row[n][0] * (1.0 + 0.02 * g) + worth * g, row[n][1]) for g, row in enumerate(best) if n in row]
    return min(totals)[1][1:]


def _slots(items: Sequence[Neighbourhood]) -> tuple[int, ...]:
    """Room for neighbours of each species."""
    return tuple(eighths(int(n)) for n in np.max([x.slot_counts for x in items], axis=0))


def _stack(frames: Sequence[Frame], items: Sequence[Neighbourhood], index: np.ndarray) -> Bucket:
    atoms = tuple(np.max([x.atom_counts for x in items], axis=0).tolist())
    slots = _slots(items)
    k = sum(slots)
    rows = np.arange(few(len(frames)))
    filled, rows = rows < len(frames), np.minimum(rows, len(frames) - 1)
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("positions", "cell", "atom_mask", "neighbours", "shifts", "mask", "reverse", "forces")
    }
    for frame, x in zip(frames, items, strict=True):
        graph, atom_rows = batch([x], atom_capacity=atoms, slot_capacity=slots)
        forces = np.zeros_like(graph.positions)
        if frame.labels.forces is not None:
            forces[atom_rows] = frame.labels.forces
        reverse = (np.asarray(graph.reverse) % max(k, 1)).astype(np.int16).reshape(graph.mask.shape)
        values = (
            graph.positions,
            graph.cell[0],
            graph.atom_mask,
            graph.neighbours,
            graph.shifts,
            graph.mask,
            reverse,
            forces,
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(np.asarray(value))
    energies = [f.labels.energy for f in frames]
    stresses = [f.labels.stress for f in frames]
    targets = Targets(
        energy=np.array([0.0 if e is None else e for e in energies]),
        forces=np.stack(columns.pop("forces")),
        stress=np.array([np.zeros((3, 3)) if s is None else s for s in stresses]),
        n_atoms=np.array([len(f.structure) for f in frames], dtype=np.int32),
        energy_weight=np.array([0.0 if f.labels.energy is None else f.weight * f.energy_weight for f in frames]),
        forces_weight=np.array([0.0 if f.labels.forces is None else f.weight * f.forces_weight for f in frames]),
        stress_weight=np.array([0.0 if f.labels.stress is None else f.weight * f.stress_weight for f in frames]),
    )
    a = {name: np.stack([value[k] for k in rows]) for name, value in columns.items()}
    return Bucket(
        a["positions"], a["cell"], a["atom_mask"], a["neighbours"], a["shifts"], a["mask"], a["reverse"],
        jax.tree.map(lambda x: x[rows], targets),
        np.where(filled, np.asarray(index)[rows], -1), atoms, slots,
    )  # fmt: skip


def chunks(index: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of n: (frames, present), the last filled up with frame 0, absent."""
    for start in range(0, len(index), n):
        part = index[start : start + n]
        yield np.pad(part, (0, n - len(part))).astype(np.int32), np.arange(n) < len(part)


def portions(bucket: Bucket, atoms: int) -> Iterator[tuple[Bucket, np.ndarray, np.ndarray]]:
    """The bucket in parts of about so many atoms: (part, numbers of its frames, present). Their shape does not depend on how many
    frames there are, where these are more than a part."""
    size = min(few(len(bucket)), max(1, atoms // sum(bucket.atom_capacity)))
    for rows, present in chunks(np.arange(len(bucket)), size):
        yield jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], bucket), np.asarray(bucket.frame)[rows[present]], present


def assemble(bucket: Bucket, index: Array, present: Array) -> tuple[Graph, Targets]:
    """One graph of the frames `index` (b,); where `present` is False a frame only fills the batch and has no weight."""
    b, caps = index.shape[0], bucket.atom_capacity
    starts = np.cumsum(caps) - caps
    k = sum(bucket.slot_capacity)
    stride_of_slot = np.repeat(caps, bucket.slot_capacity)
    first_of_slot = np.repeat(starts, bucket.slot_capacity)
    frame = jnp.arange(b, dtype=jnp.int32)

    def merge(x: Array) -> Array:
        """(b, n, …) frame by frame -> (b·n, …) species by species."""
        parts = [x[:, s : s + c].reshape(b * c, *x.shape[2:]) for s, c in zip(starts, caps, strict=True)]
        return jnp.concatenate(parts)

    mask = merge(bucket.mask[index])
    stride = jnp.asarray(stride_of_slot, dtype=jnp.int32)[None, None]
    first = jnp.asarray(first_of_slot, dtype=jnp.int32)[None, None]
    group_start = jnp.asarray(first_of_slot * b, dtype=jnp.int32)[None, None]
    local = bucket.neighbours[index].astype(jnp.int32)
    real = merge(local - first + group_start + frame[:, None, None] * stride)
    own = jnp.arange(b * sum(caps), dtype=jnp.int32)[:, None]
    neighbours = jnp.where(mask, real, jnp.broadcast_to(own, real.shape))
    reverse = neighbours * k + merge(bucket.reverse_slot[index]).astype(jnp.int32)
    shifts = jnp.stack([merge(bucket.shifts[index][:, d]) for d in range(3)])
    graph = Graph(
        merge(bucket.positions[index]), bucket.cell[index], merge(jnp.broadcast_to(frame[:, None], (b, sum(caps)))),
        merge(bucket.atom_mask[index]), neighbours, shifts, mask, reverse.reshape(-1),
        tuple(b * c for c in caps), bucket.slot_capacity,
    )  # fmt: skip
    t = jax.tree.map(lambda x: jnp.asarray(x)[index], bucket.targets)
    on = present.astype(t.energy_weight.dtype)
    targets = Targets(
        t.energy, merge(t.forces), t.stress, t.n_atoms, t.energy_weight * on, t.forces_weight * on, t.stress_weight * on
    )
    return graph, targets
