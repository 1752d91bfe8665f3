"""Cutoff functions: values, and how smooth they are at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from adatom.potential.cutoffs import cosine_cutoff, smooth_step_down


def derivatives(f, r, order=3):
    values = []
    for _ in range(order + 1):
        values.append(float(f(jnp.asarray(r, dtype=jnp.float64))))
        f = jax.grad(f)
    return values


@pytest.mark.parametrize(("inner", "outer"), [(0.0, 5.0), (0.5, 6.0), (3.0, 3.1)])
def test_smooth_step_has_two_continuous_derivatives(inner, outer):
    width = outer - inner

    def step(r):
        return smooth_step_down(r, inner, outer)

    for edge, value in ((inner, 1.0), (outer, 0.0)):
        for side in (-1e-9, 0.0, 1e-9):
            f = derivatives(step, edge + side * width, 2)
            assert_allclose(np.array(f) * [1.0, width, width**2], [value, 0.0, 0.0], atol=1e-6)
    assert_allclose(derivatives(step, inner + 0.5 * width, 1), [0.5, -1.875 / width], rtol=1e-9)


def test_smooth_step_is_flat_outside_and_falls_inside():
    r = jnp.linspace(-1.0, 7.0, 500)
    y = np.asarray(smooth_step_down(r, 1.0, 5.0))
    assert (y[np.asarray(r) <= 1.0] == 1.0).all()
    assert (y[np.asarray(r) >= 5.0] == 0.0).all()
    assert (np.diff(y) <= 0.0).all()


def test_cosine_cutoff():
    r = np.linspace(0.01, 4.99, 50)
    assert_allclose(cosine_cutoff(jnp.asarray(r), 5.0), 0.5 * (np.cos(np.pi * r / 5.0) + 1.0), rtol=1e-12, atol=1e-15)
    assert float(cosine_cutoff(jnp.asarray(5.0), 5.0)) == 0.0
    before = derivatives(lambda x: cosine_cutoff(x, 5.0), 5.0 - 1e-9, 2)
    after = derivatives(lambda x: cosine_cutoff(x, 5.0), 5.0 + 1e-9, 2)
    assert_allclose(before[:2], [0.0, 0.0], atol=1e-8)
    assert_allclose(before[2], 0.5 * (np.pi / 5.0) ** 2, rtol=1e-6)
    assert after == [0.0, 0.0, 0.0]
