"""The radial part that all symmetry functions have: a Gaussian times a cutoff function, or a bump."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from adatom.potential.interop.n2p2.config import Compact, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.cutoffs import bump, cutoff_function

Array = jax.Array


def radial_part(r: Array, f: Gaussian | Compact, config: N2p2Config, steps: dict[float, Array] | None = None) -> Array:
    """exp(−η (r − r_s)²) f_c(r), or the bump between two radii; (…) Å -> (…), exactly 0 beyond the function's cutoff.

    steps: f_c of the same distances by cutoff, filled as they are needed; XLA would compute them again for every function.
    """
    if isinstance(f, Compact):
        return bump(r, f.inner, f.cutoff, f.core, asymmetric=f.asymmetric)
    steps = {} if steps is None else steps
    if f.cutoff not in steps:
        steps[f.cutoff] = cutoff_function(r, f.cutoff, config.cutoff_type, config.cutoff_alpha)
    x = r - f.shift if f.shift else r
    return jnp.exp(-f.eta * x * x) * steps[f.cutoff]
