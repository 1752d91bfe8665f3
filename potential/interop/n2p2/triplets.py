"""Angular functions summed over explicit pairs of neighbours: narrow ones, those of compact support, and any exponent.

    Σ_j<k e_jk a_jk,     e = g(r_ij) g(r_ik) [h(r_jk) of narrow ones],     a = 2^(1−ζ) (1 + λ cos θ)^ζ or a bump of the angle

Functions of one pair of elements share distances and angles, envelopes e and angular parts a: only the products differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import radians

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.geometry import distances
from adatom.potential.interop.n2p2.config import NARROW, Compact, Gaussian, N2p2Config
from adatom.potential.interop.n2p2.cutoffs import bump
from adatom.potential.interop.n2p2.radial import radial_part

Array = jax.Array
Angular = Gaussian | Compact
WASTE = 4
"""Products that nobody asked for, as a multiple of those wanted, that a matrix product may compute."""


def shell(f: Angular) -> tuple[float | str | bool, ...]:
    """What functions of the same radial part have in common."""
    if isinstance(f, Gaussian):
        return f.eta, f.shift, f.cutoff
    return f.inner, f.cutoff, f.core, f.asymmetric


def triplet_sums(
    vectors: Array, r: Array, columns: tuple[slice, slice], functions: Sequence[Angular], config: N2p2Config
) -> Array:
    """(3, n, k) vectors, their lengths (n, k) and the columns of two elements -> (n, functions).

    Pairs of one element stand in the table twice, with half the weight: half of it costs more in index arithmetic than it
    saves (measured on XLA's CPU backend).
    """
    t, u = columns
    n, k, m = r.shape[0], t.stop - t.start, u.stop - u.start
    weight = 0.5 * (1.0 - np.eye(k)) if t == u else np.ones((k, m))
    unit = vectors / r[None]
    cosine = (unit[:, :, t][..., None] * unit[:, :, u][:, :, None, :]).sum(axis=0)
    rjk = distances(vectors[:, :, u][:, :, None, :] - vectors[:, :, t][..., None])
    envelopes: dict[tuple[object, ...], Array] = {}
    angles: dict[tuple[object, ...], Array] = {}
    near: dict[float, Array] = {}
    far: dict[float, Array] = {}
    for f in functions:
        e, a = _envelope(f), _angle(f)
        if e not in envelopes:
            g = radial_part(r, f, config, near)
            envelope = g[:, t][:, :, None] * g[:, u][:, None, :] * jnp.asarray(weight, dtype=r.dtype)[None]
            if f.kind in NARROW:
                envelope = envelope * radial_part(rjk, f, config, far)
            envelopes[e] = envelope
        if a not in angles:
            angles[a] = angular_part(cosine, f)
    if len(envelopes) * len(angles) > WASTE * len(functions):
        return jnp.stack([(envelopes[_envelope(f)] * angles[_angle(f)]).sum(axis=(1, 2)) for f in functions], axis=1)
    # all envelopes with all angular parts, as a matrix product: they are computed once, not again for every sum
    x, y = (jnp.moveaxis(jnp.stack(list(d.values())), 0, 1).reshape(n, len(d), k * m) for d in (envelopes, angles))
    table = jnp.einsum("nep,nap->nea", x, y, precision="highest")
    rows, angular = ([list(d).index(of(f)) for f in functions] for d, of in ((envelopes, _envelope), (angles, _angle)))
    return table[:, np.array(rows), np.array(angular)]


def _envelope(f: Angular) -> tuple[object, ...]:
    return (f.kind in NARROW, *shell(f))


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
    return bump(angle, radians(f.left), radians(f.right), f.core)


def _end(cosine: Array) -> Array:
    return jnp.where(cosine > 0.0, jnp.zeros_like(cosine), jnp.full_like(cosine, np.pi))
