"""Tabulated pair energies, and the switch between them and a network (DeePMD-kit's `pairtab` and `zbl` models).

    E_i = ½ Σ_j a₃u³ + a₂u² + a₁u + a₀,   u the fraction of a grid step;       E = (1 − c_i) E_network + c_i E_table
    σ_i = Σ_j r e^(−r/α) / Σ_j e^(−r/α),  c_i from 1 at sw_rmin to 0 at sw_rmax        (Wang et al., APL 114, 244101 (2019))
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.interop.deepmd.config import Switch, Table
from adatom.potential.interop.deepmd.descriptors import Surroundings

Array = jax.Array


def table_energies(here: Surroundings, c: Table, splines: Array) -> Array:
    """(n,) eV from coefficients (species, species, splines, 4). Below the first point the first polynomial goes on."""
    inside = here.listed & (here.r < min(c.cutoff, c.start + c.splines * c.step))
    u = (jnp.where(inside, here.r, jnp.full_like(here.r, c.start)) - c.start) / c.step
    index = jnp.clip(jax.lax.stop_gradient(jnp.floor(u)), 0, c.splines - 1)
    u = u - index
    pairs = jnp.asarray(splines)[here.row[:, None], here.column[None, :], index.astype(jnp.int32)].astype(u.dtype)
    a3, a2, a1, a0 = (pairs[..., n] for n in range(4))
    e = ((a3 * u + a2) * u + a1) * u + a0
    return 0.5 * jnp.where(inside, e, jnp.zeros_like(e)).sum(axis=-1)


def table_share(here: Surroundings, c: Switch, cutoff: float) -> Array:
    """c_i (n,), from the neighbours closer than `cutoff`; 0 for an atom without any."""
    near = here.listed & (here.r < cutoff)
    r = jnp.where(near, here.r, jnp.full_like(here.r, cutoff))
    weight = jnp.where(near, jnp.exp((jax.lax.stop_gradient(r.min(axis=1, keepdims=True, initial=cutoff)) - r) / c.alpha), 0.0)
    total, some = weight.sum(axis=1), near.any(axis=1)
    sigma = jnp.where(some, (weight * r).sum(axis=1) / jnp.where(some, total, 1.0), c.outer)
    return smooth_step_down(sigma, c.inner, c.outer)
