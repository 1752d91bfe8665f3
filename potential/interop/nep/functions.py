"""The radial functions of NEP and its ZBL, as functions of distance.

    f_k(r) = ½ [T_k(2(1 − r/r_c)² − 1) + 1] f_c(r),      f_c(r) = ½ [1 + cos(π r/r_c)] = sin²(π(1 − r/r_c)/2)

(Fan et al., J. Chem. Phys. 157, 114801 (2022)). With u = max(1 − r/r_c, 0) all are polynomials of u² and vanish with it: no
cosine, and nothing to mask beyond the cutoff.
"""

from __future__ import annotations

from math import factorial, pi

import jax
import jax.numpy as jnp

Array = jax.Array
COULOMB = 14.399645  # eV·Å, NEP's own
INVERSE_LENGTH = 2.134563  # 1/Å: a_ij = 1/(INVERSE_LENGTH (Z_i^0.23 + Z_j^0.23))
UNIVERSAL = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))


def rise(u: Array) -> Array:
    """sin²(πu/2) for 0 ≤ u ≤ 1: a Taylor series, to rounding."""
    square, terms = u * u, 7 if u.dtype == jnp.float32 else 11
    series = jnp.zeros_like(u)
    for n in reversed(range(terms)):
        series = series * square + (-1) ** n * (pi / 2) ** (2 * n + 1) / factorial(2 * n + 1)
    return square * series * series


def chebyshev(r: Array, inverse_cutoff: Array | float, size: int) -> list[Array]:
    """T_k f_c for k = 0 … size, each (n, k) as r. f_0 is the first, f_k half the sum of the first and number k."""
    u = jnp.maximum(1.0 - r * inverse_cutoff, 0.0)
    fc, x = rise(u), 2.0 * u * u - 1.0
    out = [fc, x * fc]
    for _ in range(2, size + 1):
        out.append(2.0 * x * out[-1] - out[-2])
    return out[: size + 1]


def folded(c: Array) -> Array:
    """Coefficients of f_k (…, k) made coefficients of T_k f_c."""
    return jnp.concatenate([c[..., :1] + 0.5 * c[..., 1:].sum(axis=-1, keepdims=True), 0.5 * c[..., 1:]], axis=-1)


def zbl(r: Array, z_i: Array, z_j: Array, inner: Array, outer: Array, terms: Array | None = None) -> Array:
    """Energy of pairs, eV, all arrays that broadcast to (n, k). terms (8, …): four factors and decays; else the universal."""
    x = r * (INVERSE_LENGTH * (z_i**0.23 + z_j**0.23))
    pairs = UNIVERSAL if terms is None else [(terms[2 * n], terms[2 * n + 1]) for n in range(4)]
    phi = jnp.zeros_like(r)
    for a, b in pairs:
        phi = phi + a * jnp.exp(-b * x)
    return COULOMB * z_i * z_j / r * phi * rise(jnp.clip((outer - r) / (outer - inner), 0.0, 1.0))
