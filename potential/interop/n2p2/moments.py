"""Wide angular functions of integer ζ in time linear in the number of neighbours: squares of moment tensors.

    Σ_j<k g_j g_k (1 + λ cos θ_jk)^ζ,     cos^p θ_jk = Σ_{a+b+c=p} p!/(a! b! c!) (x^a y^b z^c)_j (x^a y^b z^c)_k

of unit vectors, so that sums over j and over k are taken before they are multiplied (see `descriptors.symmetry_functions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial, prod

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.descriptors.symmetry_functions import monomials, unit_monomials
from adatom.potential.interop.n2p2.config import Gaussian

Array = jax.Array
MAX_ZETA = 6


def by_moments(f: Gaussian) -> bool:
    """Whether a function is worth it: of order 6 there are 84 monomials already."""
    return f.kind == 9 and f.zeta <= MAX_ZETA and f.zeta == int(f.zeta)


def wide_sums(unit: Array, g: Array, shells: Sequence[int], functions: Sequence[Gaussian], parts: Sequence[slice]) -> list[Array]:
    """2^(1−ζ) Σ_j<k (1 + λ cos θ)^ζ g_j g_k of all functions: one (n, functions) per pair of elements t ≤ u.

    unit (3, n, k); g (s, n, k) distinct radial parts; shells which of them each function has; parts the columns per element.
    """
    order = int(max(f.zeta for f in functions))
    powers = monomials(order)
    weight = np.zeros((len(g), len(powers), len(functions)))
    own = np.zeros((len(g), len(functions)))
    for q, (f, s) in enumerate(zip(functions, shells, strict=True)):
        zeta = int(f.zeta)
        own[s, q] = 2.0 ** (1 - zeta) * (1.0 + f.sign) ** zeta
        for m, abc in enumerate(powers):
            p = sum(abc)
            weight[s, m, q] = 2.0 ** (1 - zeta) * comb(zeta, p) * f.sign**p * factorial(p) / prod(map(factorial, abc))
    w, w_own = jnp.asarray(weight, dtype=g.dtype), jnp.asarray(own, dtype=g.dtype)
    y = unit_monomials(unit, order)
    moments = [jnp.einsum("snk,mnk->nsm", g[:, :, t], y[:, :, t], precision="highest") for t in parts]
    sums = []
    for t in range(len(parts)):
        for u in range(t, len(parts)):
            value = jnp.einsum("nsm,smq->nq", moments[t] * moments[u], w, precision="highest")
            if t == u:  # without j = k, and every pair once
                squares = g[:, :, parts[t]]
                value = 0.5 * (value - jnp.einsum("sn,sq->nq", (squares * squares).sum(axis=-1), w_own, precision="highest"))
            sums.append(value)
    return sums
