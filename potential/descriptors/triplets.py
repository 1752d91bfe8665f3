"""Angular symmetry functions summed over explicit pairs of neighbours: G4, and G5 of any exponent.

Quadratic in the number of neighbours; the reference that the linear path of `symmetry_functions.py` is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from adatom.potential.cutoffs import cosine_cutoff, smooth_step_down
from adatom.potential.geometry import distances

if TYPE_CHECKING:
    from adatom.potential.descriptors.symmetry_functions import Angular, SymmetryFunctionsConfig

Array = jax.Array


def triplet_sums(
    vectors: Array,
    r: Array,
    fc: Array,
    sections: Sequence[slice],
    functions: Sequence[Angular],
    config: SymmetryFunctionsConfig,
) -> list[Array]:
    """2^(1−ζ) Σ_{j<k} (1 + λ cos θ)^ζ g_j g_k [× exp(−η r_jk²) f_c(r_jk) for G4]: one (n, functions) per pair of elements."""
    unit = vectors / r[None]
    features = []
    for t, first in enumerate(sections):
        for u in range(t, len(sections)):
            second = sections[u]
            n, k, m = r.shape[0], first.stop - first.start, second.stop - second.start
            cosine = jnp.einsum("dnk,dnm->nkm", unit[:, :, first], unit[:, :, second], precision="highest")
            pair = fc[:, first][:, :, None] * fc[:, second][:, None, :]
            if t == u:  # each pair once; the diagonal is masked before a power is taken of it
                once = jnp.broadcast_to(jnp.triu(jnp.ones((k, m), dtype=bool), 1)[None], (n, k, m))
                pair = jnp.where(once, pair, jnp.zeros_like(pair))
            else:
                once = jnp.ones((n, k, m), dtype=bool)
            rj, rk = r[:, first][:, :, None], r[:, second][:, None, :]
            if config.angular_kind == "narrow":
                d = vectors[:, :, first][:, :, :, None] - vectors[:, :, second][:, :, None, :]
                away = jnp.asarray([2.0 * config.cutoff, 0.0, 0.0], dtype=r.dtype)[:, None, None, None]
                rjk = distances(jnp.where(once[None], d, away))
                step = (
                    cosine_cutoff(rjk, config.cutoff)
                    if config.cutoff_function == "cosine"
                    else smooth_step_down(rjk, 0.0, config.cutoff)
                )
                pair = pair * step
                squares = rj * rj + rk * rk + rjk * rjk
            columns = []
            for f in functions:
                # 1 + λ cos θ touches zero at θ = π or 0, where the power of a non-integer ζ has no second derivative
                base = jnp.clip(1.0 + f.sign * cosine, 1e-12, None)
                base = jnp.where(once, base, jnp.ones_like(base))
                if config.angular_kind == "narrow":
                    radial = jnp.exp(-f.eta * squares)
                else:
                    radial = jnp.exp(-f.eta * ((rj - f.shift) ** 2 + (rk - f.shift) ** 2))
                columns.append((2.0 ** (1.0 - f.zeta) * base**f.zeta * radial * pair).sum(axis=(1, 2)))
            features.append(jnp.stack(columns, axis=1))
    return features
