"""Pair vectors from positions and cells, and the way back: forces and virials from gradients with respect to vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from adatom.potential.device import atoms_at_once

Array = jax.Array


def pair_vectors(
    positions: Array,
    cell: Array,
    structure: Array,
    centre: Array,
    neighbours: Array,
    shifts: Array,
    mask: Array,
    far: float,
) -> Array:
    """D = r[j] − r[i] + S @ cell for a block of b atoms: (3, b, k), in the dtype of positions.

    positions (atoms, 3); cell (structures, 3, 3); structure (b,); centre (b,) rows of the block's atoms; neighbours (b, k);
    shifts (3, b, k); mask (b, k). Empty slots become the vector (far, 0, 0): masked before any function sees them.
    """
    h = cell[structure]
    s = shifts.astype(positions.dtype)
    r = positions.T
    lattice = jnp.einsum("cbk,bcd->dbk", s, h, precision="highest")
    vectors = r[:, neighbours] - r[:, centre][:, :, None] + lattice
    empty = jnp.asarray([far, 0.0, 0.0], dtype=positions.dtype)[:, None, None]
    return jnp.where(mask[None], vectors, empty)


@jax.custom_vjp
def swap_pairs(values: Array, reverse: Array) -> Array:
    """values (c, pairs) read from the other side of every pair; `reverse` is its own inverse, so the transpose is a gather."""
    return values[:, reverse]


def _swap_forward(values: Array, reverse: Array) -> tuple[Array, Array]:
    return swap_pairs(values, reverse), reverse


def _swap_backward(reverse: Array, cotangent: Array) -> tuple[Array, None]:
    return swap_pairs(cotangent, reverse), None


swap_pairs.defvjp(_swap_forward, _swap_backward)


def forces_from_pairs(gradient: Array, reverse: Array) -> Array:
    """F_i = Σ_k (g_ik − g_ki) with g = dE/dD: no scatter, one gather. gradient (3, a, k) -> (a, 3)."""
    other = swap_pairs(gradient.reshape(3, -1), reverse).reshape(gradient.shape)
    return (gradient - other).sum(axis=-1).T


def forces_from_rows(gradient: Array, reverse: Array) -> Array:
    """The same for gradient (a, 3, k), some rows at a time: no array of all pairs but the one given. Not for training."""
    a, _, k = gradient.shape
    flat, back = gradient.reshape(-1), reverse.reshape(a, k)

    def one(own: tuple[Array, Array]) -> Array:
        g, r = own
        other = flat[(r // k * (3 * k) + r % k)[None, :] + jnp.arange(0, 3 * k, k, dtype=r.dtype)[:, None]]
        return (g - other).sum(axis=-1)

    return lax.map(one, (gradient, back), batch_size=min(a, 4 * atoms_at_once()))


def virials_from_pairs(vectors: Array, gradient: Array) -> Array:
    """dE/dε of each atom's pairs, D ⊗ g, symmetrised: two (3, b, k) -> (b, 3, 3)."""
    w = jnp.einsum("cbk,dbk->bcd", vectors, gradient, precision="highest")
    return 0.5 * (w + w.transpose(0, 2, 1))


@jax.custom_jvp
def distances(vectors: Array) -> Array:
    """Lengths (b, k) of vectors (3, b, k); safe to differentiate at zero, where the length is 1e-6 Å and its derivative zero.

    dr = (D · dD)/r is spelt out so that the division comes last on the way back: XLA then finds (dE/dr)/r once for a pair, where
    it would else repeat the model's whole derivative for each of the three components.
    """
    squared = jnp.sum(vectors * vectors, axis=0)
    safe = jnp.where(squared > 1e-12, squared, jnp.ones_like(squared))
    return jnp.where(squared > 1e-12, jnp.sqrt(safe), jnp.full_like(squared, 1e-6))


@distances.defjvp
def _distances_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (vectors,), (change,) = primals, tangents
    r = distances(vectors)
    along = jnp.sum(vectors * change, axis=0)
    return r, jnp.where(r > 1e-6, along, jnp.zeros_like(along)) / r
