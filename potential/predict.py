"""Energy, forces and stress of a graph: the one place that differentiates.

Every atom's energy depends on its own pair vectors D only, so one backward pass per block of atoms gives g = dE/dD, and
    F_i = Σ_k (g_ik − g_ki),      stress = (1/V) Σ_i Σ_k D_ik ⊗ g_ik      (symmetrised).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adatom.potential.geometry import distances, forces_from_pairs, pair_vectors, virials_from_pairs
from adatom.potential.graph import Graph
from adatom.potential.model import EnergyModel

Array = jax.Array


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


def predict(
    model: EnergyModel, params: Any, graph: Graph, *, e0: Array, dtype: Any, block: int | None = None
) -> Prediction:
    """Evaluate all structures of a graph.

    e0 (species,) is added in the dtype of the positions; the model itself runs in `dtype`. With `block`, atoms are worked
    on that many at a time, so that memory does not grow with the model's intermediates; groups of atoms larger than a block
    must be multiples of it (ValueError).
    """
    far = 2.0 * model.cutoff
    energies, gradients, virials, nearest = [], [], [], []
    for t, start, stop in graph.groups():

        def rows(first: Array | int, size: int, t: int = t) -> tuple[Array, Array, Array, Array]:
            cut = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=size)
            d = pair_vectors(
                jnp.asarray(graph.positions), jnp.asarray(graph.cell), cut(jnp.asarray(graph.structure)),
                first + jnp.arange(size, dtype=jnp.int32), cut(jnp.asarray(graph.neighbours)),
                cut(jnp.asarray(graph.shifts), axis=1), cut(jnp.asarray(graph.mask)), far,
            ).astype(dtype)  # fmt: skip

            def total(vectors: Array) -> tuple[Array, Array]:
                e = model.atomic_energies(params, vectors, graph.slot_capacity, t)
                return e.sum(), e

            (_, e), g = jax.value_and_grad(total, has_aux=True)(d)
            return e, g, virials_from_pairs(d, g), _nearest(distances(d), graph.slot_capacity, far)

        n = stop - start
        if block is None or n <= block:
            e, g, w, near = rows(start, n)
        elif n % block:
            raise ValueError(f"{n} atoms of species {t} are not a multiple of the block of {block}")
        else:
            e, g, w, near = lax.map(lambda first: rows(first, block), jnp.arange(start, stop, block, dtype=jnp.int32))
            e, w, near = e.reshape(n), w.reshape(n, 3, 3), near.reshape(n, -1)
            g = g.transpose(1, 0, 2, 3).reshape(3, n, -1)
        wide = graph.positions.dtype
        energies.append(e.astype(wide) + jnp.asarray(e0).astype(wide)[t])
        gradients.append(g)
        virials.append(w)
        nearest.append(near)
    mask = jnp.asarray(graph.atom_mask)
    atomic = jnp.where(mask, jnp.concatenate(energies), 0.0)
    forces = forces_from_pairs(jnp.concatenate(gradients, axis=1), jnp.asarray(graph.reverse))
    s = graph.n_structures
    energy = jax.ops.segment_sum(atomic, jnp.asarray(graph.structure), s)
    virial = jax.ops.segment_sum(jnp.concatenate(virials).astype(atomic.dtype), jnp.asarray(graph.structure), s)
    volume = jnp.abs(jnp.linalg.det(jnp.asarray(graph.cell)))
    volume = jnp.where(volume > 1e-6, volume, jnp.ones_like(volume))  # molecules have no cell, and no stress
    return Prediction(energy, atomic, forces, virial / volume[:, None, None], jnp.concatenate(nearest))


def _nearest(r: Array, slots: tuple[int, ...], far: float) -> Array:
    """Closest neighbour of each species: (b, k) -> (b, species)."""
    sections = jnp.split(r, [sum(slots[: t + 1]) for t in range(len(slots) - 1)], axis=1)
    return jnp.stack([x.min(axis=1, initial=far) for x in sections], axis=1)
