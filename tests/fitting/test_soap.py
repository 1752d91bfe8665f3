"""Adam in the eigenbasis of its gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adatom.fitting.soap import BOUND, EVERY, LARGEST, scale_by_soap
from adatom.potential.compilation import jit

RNG = np.random.default_rng(3)


def minimise(how: optax.GradientTransformation, steps: int, objective: Any, start: Any) -> tuple[float, Any]:
    """The last value and state after steps of falling size."""
    optimiser = optax.with_extra_args_support(how)

    @jit
    def step(w: Any, state: Any, n: jax.Array) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.grad(objective)(w), state, w, step=n)
        rate = 0.03 * (1.0 - n / steps).astype(jnp.float32)
        return jax.tree.map(lambda a, b: a - rate * b, w, updates), state

    w, state = start, optimiser.init(start)
    for n in range(steps):
        w, state = step(w, state, jnp.int32(n))
    return float(objective(w)), state


def correlated() -> tuple[Any, Any]:
    """A linear fit of features that are nearly the same, and where to start."""
    common = RNG.normal(size=(400, 3)) @ RNG.normal(size=(3, 20))
    x = jnp.asarray(common + 0.03 * RNG.normal(size=(400, 20)), dtype=jnp.float32)
    y = x @ jnp.asarray(RNG.normal(size=(20, 5)), dtype=jnp.float32)
    return lambda w: jnp.mean((x @ w["w"] + w["b"][None] - y) ** 2), {
        "w": jnp.zeros((20, 5), dtype=jnp.float32),
        "b": jnp.zeros(5, dtype=jnp.float32),
    }


def test_correlated_features_are_no_obstacle() -> None:
    objective, start = correlated()
    adam, _ = minimise(optax.scale_by_adam(b1=0.95, b2=0.99), 500, objective, start)
    soap, state = minimise(scale_by_soap(), 500, objective, start)
    assert soap < 0.1 * adam
    for p in state.sides["w"].basis:
        np.testing.assert_allclose(p.T @ p, np.eye(len(p)), atol=1e-5)


def test_vectors_and_long_sides_get_adam() -> None:
    target = {k: jnp.asarray(RNG.normal(size=n), dtype=jnp.float32) for k, n in {"v": 7, "w": (LARGEST + 1, 1)}.items()}
    objective = lambda w: sum(((w[k] - x) ** 2).sum() for k, x in target.items())  # noqa: E731
    start = jax.tree.map(jnp.zeros_like, target)
    mine, _ = minimise(scale_by_soap(eps=1e-8), 3 * EVERY, objective, start)
    adam, _ = minimise(optax.scale_by_adam(b1=0.95, b2=0.99), 3 * EVERY, objective, start)
    assert mine == pytest.approx(adam, rel=1e-6)


def test_a_mean_over_directions_that_have_just_turned() -> None:
    """V of the old directions may be next to nothing where M of the new ones is not: steps stay bounded."""
    how, w = scale_by_soap(), jnp.ones((4, 3), dtype=jnp.float32)
    state = how.init(w)._replace(mean=w, square=w.at[1, 2].set(1e-14))
    moved, _ = how.update(0.0 * w, state, step=jnp.int32(10_001))
    assert float(jnp.abs(moved).max()) == BOUND


def test_what_has_no_gradient_stays() -> None:
    """As the bias of an element that the first batches lack: nothing may be divided by nothing."""
    how, w = scale_by_soap(), {n: jnp.zeros(n, dtype=jnp.float32) for n in (1, 3)}
    moved, _ = jit(lambda state, n: how.update(w, state, step=n))(how.init(w), jnp.int32(0))
    for x in moved.values():
        np.testing.assert_array_equal(x, 0.0)
