"""Functions that go smoothly to zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def smooth_step_down(r: Array, inner: float | Array, outer: float | Array) -> Array:
    """1 below `inner`, 0 above `outer`, u³(−6u² + 15u − 10) + 1 between, with u = (r − inner)/(outer − inner).

    Twice continuously differentiable. The switch of DeepPot-SE (Zhang et al., NeurIPS 31 (2018), eq. 3, in DeePMD-kit's
    polynomial form) and the polynomial cutoff of n2p2 (type 6).
    """
    u = jnp.clip((r - inner) / (outer - inner), 0.0, 1.0)
    return u * u * u * (u * (15.0 - 6.0 * u) - 10.0) + 1.0


def cosine_cutoff(r: Array, cutoff: float) -> Array:
    """½(cos(πr/r_c) + 1) below the cutoff (Behler and Parrinello, PRL 98, 146401 (2007)); its second derivative jumps at r_c."""
    inside = r < cutoff
    x = jnp.where(inside, r / cutoff, jnp.ones_like(r))
    return jnp.where(inside, 0.5 * (jnp.cos(jnp.pi * x) + 1.0), jnp.zeros_like(r))
