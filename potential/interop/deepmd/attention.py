"""DPA-1 (Zhang et al., npj Comput. Mater. 10, 94 (2024)): embedding of types, gated attention among an atom's neighbours.

    concat   G_j = N(s̃_j, T_j, T_i)              strip   G_j = N(s̃_j) (1 + w_j N_t(T_j, T_i))      (w only if smooth)
    each attention layer   G ← norm(G + out(A v(G))),   A_jk = softmax_k(scale q_j·k_k) · (r̂_j·r̂_k)

Smooth: exponents (scale q·k + 20) w_j w_k − 20, and A times w_j w_k; the softmax is over all `sel` slots, and an empty one adds
exp(−20). Then D = T Tᵀ_< as in se_e2_a, with the centre's T_i behind it if `concat`. `davg` must be zero (the reader sees to it):
an empty slot then has R̃ = 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.interop.deepmd.config import SeAtten
from adatom.potential.interop.deepmd.descriptors import Surroundings, environment, outer_product, pair_mask
from adatom.potential.interop.deepmd.nets import affine, layer_norm, perceptron

Array = jax.Array
SHIFT = 20.0


def se_atten(here: Surroundings, c: SeAtten, params: dict[str, Any], constants: dict[str, Array]) -> Array:
    """(n, features)."""
    if c.exclude:
        here = here._replace(listed=here.listed & ~pair_mask(here, c.exclude))
    here = here._replace(listed=here.listed & (here.r < c.cutoff))
    w, matrix = environment(here, c)
    dtype = here.r.dtype
    std = jnp.asarray(constants["dstd"]).astype(dtype)[here.row][:, 0].T[:, :, None]
    matrix = matrix / std
    types = jnp.asarray(params["type_embedding"]).astype(dtype)
    g = _embedded(here, c, params, matrix[0], w, types)
    if c.attention_layers and sum(here.slots):
        x = matrix[1:]
        norm = jnp.sqrt(jnp.where(here.listed, (x * x).sum(axis=0), 1.0))
        unit = jnp.where(here.listed[None], x / norm[None], 0.0)
        for n in range(c.attention_layers):
            layer = params[f"attention_{n}"]
            g = layer_norm(layer["norm"], g + _attention(here, c, layer, g, w, unit), c.layer_norm_eps)
    t4 = jnp.einsum("cnk,nkm->ncm", matrix, g) / float(c.sel[0])
    d = outer_product(t4, c.axis)
    return jnp.concatenate([d, types[here.row]], axis=1) if c.concat else d


def _embedded(here: Surroundings, c: SeAtten, params: dict[str, Any], s: Array, w: Array, types: Array) -> Array:
    """G (n, k, M)."""
    n, k = s.shape
    neighbour = jnp.broadcast_to(types[here.column][None], (n, k, c.tebd_dim))
    centre = jnp.broadcast_to(types[here.row][:, None], (n, k, c.tebd_dim))
    if not c.strip:
        parts = [s[..., None], neighbour] if c.one_side else [s[..., None], neighbour, centre]
        return perceptron(params["embedding"], jnp.concatenate(parts, axis=-1), c.activation)
    t = len(here.atoms)
    if c.one_side:
        table = perceptron(params["embedding_strip"], types, c.activation)[None]
        gate = jnp.broadcast_to(table[:, here.column], (n, k, c.neuron[-1]))
    else:
        two = [jnp.broadcast_to(types[None], (t, t, c.tebd_dim)), jnp.broadcast_to(types[:, None], (t, t, c.tebd_dim))]
        table = perceptron(params["embedding_strip"], jnp.concatenate(two, axis=-1), c.activation)
        gate = table[here.row[:, None], here.column[None, :]]
    own = perceptron(params["embedding"], s[..., None], c.activation)
    return own * (1.0 + (gate * w[..., None] if c.smooth else gate))


def _attention(here: Surroundings, c: SeAtten, layer: dict[str, Any], g: Array, w: Array, unit: Array) -> Array:
    """(n, k, M)."""
    q, k, v = jnp.split(affine(layer["in"], g), 3, axis=-1)
    if c.attention_normalize:
        q, k, v = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k, v))
    logits = c.attention_scale * jnp.einsum("njh,nkh->njk", q, k)
    both = w[:, :, None] * w[:, None, :]
    if c.smooth:
        logits = (logits + SHIFT) * both - SHIFT
        empty = float(c.sel[0] - logits.shape[2])
        top = jnp.maximum(logits.max(axis=-1, keepdims=True), -SHIFT)
    else:
        seen = here.listed[:, None, :]
        logits, empty = jnp.where(seen, logits, -np.inf), 0.0
        top = jnp.where(here.listed.any(axis=1)[:, None, None], logits.max(axis=-1, keepdims=True), 0.0)
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True) + empty * jnp.exp(-SHIFT - top)
    weights = weights / jnp.where(total == 0.0, 1.0, total)
    weights = jnp.where(here.listed[:, :, None], weights, 0.0)
    if c.smooth:
        weights = weights * both
    if c.attention_dotr:
        weights = weights * jnp.einsum("cnj,cnk->njk", unit, unit)
    return affine(layer["out"], jnp.einsum("njk,nkh->njh", weights, v))
