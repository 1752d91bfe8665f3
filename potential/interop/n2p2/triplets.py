"""Angular functions summed over explicit pairs of neighbours: narrow ones, those of compact support, and any exponent.

    Σ_j<k e_jk a_jk,     e = g(r_ij) g(r_ik) [h(r_jk) of narrow ones],     a = 2^(1−ζ) (1 + λ cos θ)^ζ or a bump of the angle

Functions of one pair of elements share distances and angles, envelopes e and angular parts a: only the products differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.geometry import distances
from adatom.potential.interop.n2p2.config import NARROW, Compact, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.cutoffs import bump
from adatom.potential.interop.n2p2.radial import radial_part

Array = jax.Array
Angular = Gaussian | Compact


def shell(f: Angular) -> tuple[float | str | bool, ...]:
    """What functions of the same radial part have in common."""
    if isinstance(f, Gaussian):
        return f.eta, f.shift, f.cutoff
    return f.inner, f.cutoff, f.core, f.asymmetric


def each_pair(first: Array, second: Array, same: bool) -> tuple[Array, Array, np.ndarray]:
    """Columns j of `first` (…, k) beside columns of `second` (…, m), and how often each pair counts: (…, 1, k), (…, s, k), (s, k).

    Of two elements all pairs. Of one element j beside j + 1 … j + ⌊k/2⌋ around the end: half as many, each once, or for
    even k half of it twice. Row s of the second is `second` turned by s + 1, and a row of repeated copies cut into lengths
    of k + 1 is that, without a gather.
    """
    k, m = first.shape[-1], second.shape[-1]
    if not same:
        return first[..., :, None], second[..., None, :], np.ones((k, m))
    s = k // 2
    copies = jnp.tile(second, (1,) * (second.ndim - 1) + (s + 2,))[..., 1 : 1 + s * (k + 1)]
    weight = np.ones((s, k))
    if k % 2 == 0:
        weight[-1] = 0.5
    return first[..., None, :], copies.reshape(*second.shape[:-1], s, k + 1)[..., :k], weight


def triplet_sums(
    vectors: Array, r: Array, columns: tuple[slice, slice], functions: Sequence[Angular], config: N2p2Config
) -> Array:
    """(3, n, k) vectors, their lengths (n, k) and the columns of two elements -> (n, functions)."""
    same = columns[0] == columns[1]
    t, u = columns
    if same and t.stop - t.start < 2:
        return jnp.zeros((r.shape[0], len(functions)), dtype=r.dtype)
    vj, vk, weight = each_pair(vectors[:, :, t], vectors[:, :, u], same)
    unit = vectors / r[None]
    uj, uk, _ = each_pair(unit[:, :, t], unit[:, :, u], same)
    cosine = (uj * uk).sum(axis=0)
    rjk = distances(vk - vj)
    envelopes: dict[tuple[object, ...], Array] = {}
    angles: dict[tuple[object, ...], Array] = {}
    sums = []
    for f in functions:
        e, a = (f.kind in NARROW, *shell(f)), _angle(f)
        if e not in envelopes:
            g = radial_part(r, f, config)
            gj, gk, _ = each_pair(g[:, t], g[:, u], same)
            envelopes[e] = gj * gk * jnp.asarray(weight, dtype=r.dtype)[None]
            if f.kind in NARROW:
                envelopes[e] = envelopes[e] * radial_part(rjk, f, config)
        if a not in angles:
            angles[a] = angular_part(cosine, f)
        sums.append((envelopes[e] * angles[a]).sum(axis=(1, 2)))
    return jnp.stack(sums, axis=1)


def _angle(f: Angular) -> tuple[object, ...]:
    return (f.sign, f.zeta) if isinstance(f, Gaussian) else (f.left, f.right, f.core)


def angular_part(cosine: Array, f: Angular) -> Array:
    """2^(1−ζ) (1 + λ cos θ)^ζ, or the bump of θ; n2p2 leaves out pairs of exactly 0 or 180 degrees, where most bumps are 0."""
    if isinstance(f, Gaussian):
        half = 0.5 + (0.5 * f.sign) * cosine
        if f.zeta == int(f.zeta):
            return 2.0 * jnp.maximum(half, 0.0) ** int(f.zeta)
        # touches zero at θ = 0 or π, where the power of a non-integer ζ has no second derivative
        return 2.0 * jnp.exp(f.zeta * jnp.log(jnp.maximum(half, 1e-12)))
    inside = jnp.abs(cosine) < 1.0 - 4.0 * float(jnp.finfo(cosine.dtype).eps)
    angle = jnp.where(inside, jnp.arccos(jnp.where(inside, cosine, jnp.zeros_like(cosine))), _end(cosine))
    return bump(angle, np.radians(f.left), np.radians(f.right), f.core)


def _end(cosine: Array) -> Array:
    return jnp.where(cosine > 0.0, jnp.zeros_like(cosine), jnp.full_like(cosine, np.pi))
