"""The radial part that all symmetry functions have: a Gaussian times a cutoff function, or a bump."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adatom.potential.interop.n2p2.config import Compact, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.cutoffs import bump, cutoff_function

Array = jax.Array


def radial_part(r: Array, f: Gaussian | Compact, config: N2p2Config) -> Array:
    """exp(−η (r − r_s)²) f_c(r), or the bump between two radii; (…) Å -> (…), exactly 0 beyond the function's cutoff."""
    if isinstance(f, Compact):
        return bump(r, f.inner, f.cutoff, f.core, asymmetric=f.asymmetric)
    x = r - f.shift
    return jnp.exp(-f.eta * x * x) * cutoff_function(r, f.cutoff, config.cutoff_type, config.cutoff_alpha)
