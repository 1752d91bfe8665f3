"""The multi-layer perceptron of DeePMD-kit: y = δ·φ(x W + b), plus x where the width stays, plus (x, x) where it doubles.

φ and whether there are time steps δ are the same in all hidden layers; layers without bias have no array of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
PLAIN: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "gelu_tf": jax.nn.gelu,
    "none": lambda x: x,
    "linear": lambda x: x,
}


def threshold_of(name: str) -> float | None:
    """Of `silut`, `silut:3.0` and `custom_silu`, else None. Raises ValueError for a threshold that is no number."""
    kind, colon, text = name.partition(":")
    if kind not in ("silut", "custom_silu"):
        return None
    return float(text) if colon else 3.0


def activation(name: str) -> Callable[[Array], Array]:
    """Raises ValueError for names that DeePMD-kit does not know either."""
    name = name.lower()
    if name in PLAIN:
        return PLAIN[name]
    x0 = threshold_of(name)
    if x0 is None:
        raise ValueError(f"unknown activation_function {name!r}")
    sigmoid = 1.0 / (1.0 + float(np.exp(-x0)))
    value, slope = x0 * sigmoid, sigmoid + x0 * sigmoid * (1.0 - sigmoid)
    return lambda x: jnp.where(x < x0, jax.nn.silu(x), jnp.tanh(slope * (jnp.maximum(x, x0) - x0)) + value)


def affine(layer: dict[str, Any], x: Array) -> Array:
    """x W + b in the dtype of x (…, inputs)."""
    y = x @ jnp.asarray(layer["kernel"]).astype(x.dtype)
    return y + _wide(layer["bias"], y) if "bias" in layer else y


def perceptron(layers: dict[str, Any], x: Array, function: str, *, residual: bool = True) -> Array:
    """(…, inputs) -> (…, last width) through layer_0, layer_1, …; as matrices, whose products XLA has a fast form of."""
    phi, leading = activation(function), x.shape[:-1]
    x = x.reshape(-1, x.shape[-1])
    for n in range(len(layers)):
        layer = layers[f"layer_{n}"]
        y = phi(affine(layer, x))
        if "step" in layer:
            y = y * _wide(layer["step"], y)
        if residual and y.shape[-1] == x.shape[-1]:
            y = y + x
        elif residual and y.shape[-1] == 2 * x.shape[-1]:
            y = y + jnp.concatenate([x, x], axis=-1)
        x = y
    return x.reshape(*leading, x.shape[-1])


def layer_norm(layer: dict[str, Any], x: Array, eps: float) -> Array:
    """Over the last axis, with learned scale and shift."""
    away = x - x.mean(axis=-1, keepdims=True)
    y = away / jnp.sqrt((away * away).mean(axis=-1, keepdims=True) + eps)
    return y * _wide(layer["kernel"], y) + _wide(layer["bias"], y)


def _wide(vector: Array, like: Array) -> Array:
    """(w,) -> (1, …, 1, w) in the dtype of `like`."""
    return jnp.asarray(vector).astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def shapes(inputs: int, widths: Sequence[int], *, resnet_dt: bool, bias: bool = True) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of the arrays of a perceptron. Time steps are where there is a residual."""
    made: dict[str, dict[str, tuple[int, ...]]] = {}
    for n, width in enumerate(widths):
        layer: dict[str, tuple[int, ...]] = {"kernel": (inputs, width)}
        if bias:
            layer["bias"] = (width,)
        if resnet_dt and width in (inputs, 2 * inputs):
            layer["step"] = (width,)
        made[f"layer_{n}"], inputs = layer, width
    return made
