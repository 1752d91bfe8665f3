"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv:2409.11321, algorithm 3).

For a weight matrix W (m, n) with gradient G, and moving averages L of G Gᵀ and R of Gᵀ G with eigenvectors P and Q:

    M = mean of G,    V = mean of (Pᵀ G Q)²,    ΔW ∝ P (Pᵀ M Q / √V) Qᵀ

Features of an atom are strongly correlated, and so are the radial functions they are made of: Adam, which scales every weight by
itself, is slow along the directions in which they differ little; here these are axes. The eigenvectors follow their matrices by
one step of orthogonal iteration, P ← qr(L P), every `EVERY` steps. V is then of other directions for a while, and what is left of
M after gradients of zero (of an element that batches lack) could be divided by next to nothing: hence `BOUND`. Vectors get Adam,
and so does a side of one or of more than `LARGEST` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
EVERY, LARGEST = 10, 1024
BOUND = 2.0
"""Of M/√V, which is below 1.7 for any gradients while directions stay the same (Cauchy and Schwarz; default decays)."""


class Sides(NamedTuple):
    """Of one array: for each axis L and P (n, n), or None where they would be the identity."""

    outer: tuple[Array | None, ...]
    basis: tuple[Array | None, ...]


class SoapState(NamedTuple):
    """Trees like the parameters: M, V, and `Sides`."""

    mean: Any
    square: Any
    sides: Any


def scale_by_soap(b1: float = 0.95, b2: float = 0.99, eps: float = 1e-5) -> optax.GradientTransformationExtraArgs:
    """Updates of about unit size, smaller where √V is not above `eps` of its largest: what is rounding must not move weights.
    `update` asks for `step` (), counted from 0."""

    def init(params: Any) -> SoapState:
        zero = jax.tree.map(jnp.zeros_like, params)
        return SoapState(zero, zero, jax.tree.map(_no_basis, params))

    def update(gradient: Any, state: SoapState, params: Any = None, *, step: Array) -> tuple[Any, SoapState]:
        leaves: list[Array]
        tree: Any
        leaves, tree = jax.tree.flatten(gradient)
        means, squares, sides = (tree.flatten_up_to(x) for x in state)
        means = [b1 * m + (1.0 - b1) * g for m, g in zip(means, leaves, strict=True)]
        sides = [_followed(s, g, b2, step) for s, g in zip(sides, leaves, strict=True)]
        turned = [_turn(g, s.basis) for g, s in zip(leaves, sides, strict=True)]
        squares = [b2 * v + (1.0 - b2) * g * g for v, g in zip(squares, turned, strict=True)]

        def whole(m: Array, v: Array, s: Sides) -> Array:  # moments begin at zero: Kingma and Ba, arXiv:1412.6980, section 3
            n = (step + 1).astype(m.dtype)
            size = jnp.sqrt(v / (1.0 - b2**n))
            floor = eps * size.max() + jnp.finfo(size.dtype).tiny ** 0.5  # √V below it is lost; tiny itself XLA can make zero
            scaled = _turn(m, s.basis) / (1.0 - b1**n) / (size + floor)
            return _turn(jnp.clip(scaled, -BOUND, BOUND), [None if p is None else p.T for p in s.basis])

        updates = [whole(*x) for x in zip(means, squares, sides, strict=True)]
        return tree.unflatten(updates), SoapState(*(tree.unflatten(x) for x in (means, squares, sides)))

    return optax.GradientTransformationExtraArgs(init, update)


def _no_basis(x: Array) -> Sides:
    sizes = x.shape if x.ndim == 2 else ()
    kept = [n if 1 < n <= LARGEST else None for n in sizes]
    return Sides(
        tuple(None if n is None else jnp.zeros((n, n), dtype=x.dtype) for n in kept),
        tuple(None if n is None else jnp.eye(n, dtype=x.dtype) for n in kept),
    )


def _turn(x: Array, basis: Sequence[Array | None]) -> Array:
    """Pᵀ x Q."""
    for axis, p in enumerate(basis):
        if p is not None:
            x = p.T @ x if axis == 0 else x @ p
    return x


def _followed(sides: Sides, g: Array, b2: float, step: Array) -> Sides:
    if not sides.basis:
        return sides
    outer = tuple(None if m is None else b2 * m + (1.0 - b2) * (x @ x.T) for m, x in zip(sides.outer, (g, g.T), strict=True))

    def iterate() -> tuple[Array | None, ...]:
        return tuple(None if m is None else _iteration(m, p) for m, p in zip(outer, sides.basis, strict=True))

    return Sides(outer, jax.lax.cond(step % EVERY == 0, iterate, lambda: sides.basis))


def _iteration(m: Array, p: Array | None) -> Array:
    assert p is not None
    floor = jnp.finfo(m.dtype).eps * jnp.trace(m) / len(m) + jnp.finfo(m.dtype).tiny  # directions without gradient stay
    return jnp.linalg.qr(m @ p + floor * p)[0]
