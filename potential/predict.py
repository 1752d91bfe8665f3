"""Energy, forces and stress of a graph: the one place that differentiates.

Every atom's energy depends on its own pair vectors D only, so one backward pass per block of atoms gives g = dE/dD, and
    F_i = Σ_k (g_ik − g_ki),      stress = (1/V) Σ_i Σ_k D_ik ⊗ g_ik      (symmetrised).

A compiled kernel (`adatom.potential.kernels`) brings its own backward pass, and no second one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adatom.potential.geometry import distances, forces_from_pairs, forces_from_rows, pair_vectors, virials_from_pairs
from adatom.potential.graph import Graph
from adatom.potential.kernels import KernelMoments
from adatom.potential.model import EnergyModel

Array = jax.Array
Rows = Callable[[Array | int, tuple[int, ...]], tuple[Array, Array, Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """energy (s,) eV; atomic_energies (a,) eV; forces (a, 3) eV/Å; stress (s, 3, 3) eV/Å³; nearest (a, species) Å, the
    closest neighbour of each species, at most twice the cutoff.

    Energies are in the dtype of the positions, the widest in use; rows of padding are zero. Stress means something only where
    a structure is periodic in three directions; it is the virial [eV] where the cell has no volume.
    """

    energy: Array
    atomic_energies: Array
    forces: Array
    stress: Array
    nearest: Array


def predict(model: EnergyModel, params: Any, graph: Graph, *, e0: Array, dtype: Any, block: int | None = None) -> Prediction:
    """Evaluate all structures of a graph.

    e0 (species,) is added in the dtype of the positions; the model itself runs in `dtype`. With `block`, graphs of more
    atoms are worked on that many at a time, so that memory does not grow with the model's intermediates; groups of atoms
    larger than a block must be multiples of it (ValueError). A kernel has the dtype of its parameters and blocks of its own.
    """
    wide = graph.positions.dtype
    cell, structure = jnp.asarray(graph.cell), jnp.asarray(graph.structure)

    def total_of(values: Array) -> Array:
        """Sums over the atoms of each structure."""
        if graph.n_structures == 1:
            return values.sum(axis=0, keepdims=True)
        return jax.ops.segment_sum(values, structure, graph.n_structures)

    with jax.default_matmul_precision("highest"):  # where float32 has few bits by default: on GPUs
        if isinstance(model, KernelMoments):
            energies, forces, virials, nearest = model.rows(params, graph)
        else:
            energies, forces, virials, nearest = _by_gradient(model, params, graph, dtype, block)
    each = zip(jnp.asarray(e0).astype(wide), graph.atom_capacity, strict=True)
    alone = jnp.concatenate([jnp.broadcast_to(x, n) for x, n in each])
    atomic = jnp.where(jnp.asarray(graph.atom_mask), energies.astype(wide) + alone, 0.0)
    volume = jnp.abs(jnp.linalg.det(cell))
    volume = jnp.where(volume > 1e-6, volume, jnp.ones_like(volume))  # molecules have no cell, and no stress
    virial = total_of(virials.astype(wide))
    return Prediction(total_of(atomic), atomic, forces, virial / volume[:, None, None], nearest)


def _by_gradient(
    model: EnergyModel, params: Any, graph: Graph, dtype: Any, block: int | None
) -> tuple[Array, Array, Array, Array]:
    """Energies (a,), forces (a, 3), virials (a, 3, 3) and nearest neighbours (a, species) of all rows, in `dtype`."""
    far = 2.0 * model.cutoff
    positions, cell, structure = (jnp.asarray(x) for x in (graph.positions, graph.cell, graph.structure))
    neighbours, shifts, mask = (jnp.asarray(x) for x in (graph.neighbours, graph.shifts, graph.mask))

    def rows(first: Array | int, atoms: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
        """Energies, gradients, virials and nearest neighbours of the rows from `first`, grouped by species as `atoms`."""
        size = sum(atoms)
        cut = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=size)
        centre = first + jnp.arange(size, dtype=jnp.int32)
        d = pair_vectors(positions, cell, cut(structure), centre, cut(neighbours), cut(shifts, axis=1), cut(mask), far)
        d = d.astype(dtype)

        def total(vectors: Array) -> tuple[Array, Array]:
            e = model.atomic_energies(params, vectors, graph.slot_capacity, atoms)
            return e.sum(), e

        (_, e), g = jax.value_and_grad(total, has_aux=True)(d)
        return e, g, virials_from_pairs(d, g), _nearest(distances(d), graph.slot_capacity, far)

    reverse = jnp.asarray(graph.reverse)
    if block is None or len(graph.structure) <= block:
        energies, gradients, virials, nearest = rows(0, graph.atom_capacity)
        return energies, forces_from_pairs(gradients, reverse), virials, nearest
    parts = [_in_blocks(rows, t, start, stop, len(graph.atom_capacity), block) for t, start, stop in graph.groups()]
    energies, gradients, virials, nearest = (jnp.concatenate(x) for x in zip(*parts, strict=True))
    return energies, forces_from_rows(gradients, reverse), virials, nearest


def energies(model: EnergyModel, params: Any, graph: Graph, *, positions: Array, dtype: Any) -> Array:
    """Of the atoms (a,) eV without E0, as a function of positions (a, 3) and parameters to be differentiated either way."""
    cell, structure, neighbours, shifts, mask = (
        jnp.asarray(x) for x in (graph.cell, graph.structure, graph.neighbours, graph.shifts, graph.mask)
    )
    rows = jnp.arange(len(structure), dtype=jnp.int32)
    d = pair_vectors(positions, cell, structure, rows, neighbours, shifts, mask, 2.0 * model.cutoff).astype(dtype)
    with jax.default_matmul_precision("highest"):
        e = model.atomic_energies(params, d, graph.slot_capacity, graph.atom_capacity)
    return jnp.where(jnp.asarray(graph.atom_mask), e, jnp.zeros_like(e))


def _in_blocks(rows: Rows, t: int, start: int, stop: int, species: int, block: int) -> tuple[Array, Array, Array, Array]:
    """`rows` over the atoms of species t, `block` at a time; gradients as (n, 3, k)."""
    n = stop - start

    def some(first: Array | int, size: int) -> tuple[Array, Array, Array, Array]:
        e, g, w, near = rows(first, tuple(size if u == t else 0 for u in range(species)))
        return e, g.transpose(1, 0, 2), w, near

    if n <= block:
        return some(start, n)
    if n % block:
        raise ValueError(f"{n} atoms of species {t} are not a multiple of the block of {block}")
    e, g, w, near = lax.map(lambda first: some(first, block), jnp.arange(start, stop, block, dtype=jnp.int32))
    return e.reshape(n), g.reshape(n, 3, -1), w.reshape(n, 3, 3), near.reshape(n, -1)


def _nearest(r: Array, slots: tuple[int, ...], far: float) -> Array:
    """Closest neighbour of each species: (b, k) -> (b, species)."""
    sections = jnp.split(r, [sum(slots[: t + 1]) for t in range(len(slots) - 1)], axis=1)
    return jnp.stack([x.min(axis=1, initial=far) for x in sections], axis=1)
