"""The two networks of the field: embedding nets and fitting nets, both multi-layer perceptrons with residual connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
Activation = Literal["tanh", "silu", "gelu", "softplus"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
}


class Perceptron(nn.Module):
    """y = activation(x W + b) per layer, plus x where the width stays, plus (x, x) where it doubles.

    The residual rule is DeepPot-SE's (Zhang et al., NeurIPS 31 (2018)); a layer of any other width has none.
    """

    widths: Sequence[int]
    activation: Activation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for n, width in enumerate(self.widths):
            dense = nn.Dense(width, param_dtype=jnp.float32, dtype=x.dtype, name=f"layer_{n}")
            y = ACTIVATIONS[self.activation](dense(x))
            if width == x.shape[-1]:
                y = y + x
            elif width == 2 * x.shape[-1]:
                y = y + jnp.concatenate([x, x], axis=-1)
            x = y
        return x


class FittingNet(nn.Module):
    """Descriptor (n, features) -> one number per atom (n,), without the isolated atom's energy."""

    widths: Sequence[int]
    activation: Activation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Perceptron(self.widths, self.activation, name="hidden")(x)
        return nn.Dense(1, param_dtype=jnp.float32, dtype=x.dtype, name="energy")(x)[:, 0]
