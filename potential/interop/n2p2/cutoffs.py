"""n2p2's cutoff functions and the bumps of its compact symmetry functions, without a sine or cosine.

With x = (r − α r_c)/((1 − α) r_c), 1 below x = 0 and 0 beyond x = 1:

    cos    ½ (cos πx + 1)              poly1  (2x − 3) x² + 1
    poly2  ((15 − 6x) x − 10) x³ + 1   poly3  (x (x (20x − 70) + 84) − 35) x⁴ + 1
    exp    exp(1 − 1/(1 − x²))         poly4  (x (x ((315 − 70x) x − 540) + 420) − 126) x⁵ + 1
    tanhu  tanh³(1 − r/r_c)            tanh   the same divided by its value at 0        hard   1 (it jumps at r_c)

(Singraber, Behler, Dellago, J. Chem. Theory Comput. 15, 1827 (2019), and the source of n2p2 2.3 for exp and tanh.)
"""

from __future__ import annotations

from math import comb, factorial, pi, tanh

import jax
import jax.numpy as jnp

from adatom.potential.interop.n2p2.config import CutoffType

Array = jax.Array
POLYNOMIALS = {"poly1": 2, "poly2": 3, "poly3": 4, "poly4": 5}
SINE = [(-1.0) ** k * (0.5 * pi) ** (2 * k + 1) / factorial(2 * k + 1) for k in range(11)]
TERMS = {4: 7, 8: 11}


def cutoff_function(r: Array, cutoff: float, kind: CutoffType, alpha: float) -> Array:
    """f_c of distances (…) Å; exactly 0 at and beyond the cutoff, where its derivatives are 0 too."""
    inside = r < cutoff
    if kind == "hard":
        return inside.astype(r.dtype)
    if kind in ("tanhu", "tanh"):
        t = jnp.tanh(1.0 - jnp.where(inside, r, jnp.full_like(r, cutoff)) / cutoff)
        return t * t * t * (tanh(1.0) ** -3 if kind == "tanh" else 1.0)
    x = (r - alpha * cutoff) / ((1.0 - alpha) * cutoff)
    return core(jnp.where(inside, jnp.maximum(x, 0.0), jnp.ones_like(x)), kind)


def bump(a: Array, left: float, right: float, kind: CutoffType, *, asymmetric: bool = False) -> Array:
    """The core function falling to both sides of the middle of (left, right), 0 outside; `asymmetric` takes it at (2 − x) x."""
    half = 0.5 * (right - left)
    x = jnp.abs(a - 0.5 * (left + right)) / half
    x = jnp.where((a > left) & (a < right), x, jnp.ones_like(x))
    return core((2.0 - x) * x if asymmetric else x, kind)


def core(x: Array, kind: CutoffType) -> Array:
    """The function of x in [0, 1] from 1 to 0; 1 and beyond give 0."""
    if kind == "cos":  # ½ (cos πx + 1) = sin²(π (1 − x)/2), as a power series: exact to the last bits, and 0 at x = 1
        y = 1.0 - x
        s, z = jnp.zeros_like(x), y * y
        for c in reversed(SINE[: TERMS[x.dtype.itemsize]]):
            s = s * z + c
        return z * s * s
    if kind == "exp":
        inside = x * x < 1.0 - 1e-3
        return jnp.where(inside, jnp.exp(1.0 - 1.0 / (1.0 - jnp.where(inside, x * x, jnp.zeros_like(x)))), jnp.zeros_like(x))
    k, p = POLYNOMIALS[kind], jnp.zeros_like(x)  # (1 − x)^k Σ_j<k C(k − 1 + j, j) x^j: the same polynomials, and 0 at x = 1
    for j in reversed(range(k)):
        p = p * x + float(comb(k - 1 + j, j))
    return p * (1.0 - x) ** k
