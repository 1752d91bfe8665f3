"""What a GPU evaluates equals the model to rounding: interpreted on any machine, compiled where there is a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import awkward_structures, evaluate, make_params
from numpy.testing import assert_allclose

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.descriptors.symmetry_functions import unit_monomials
from adatom.potential.evaluator import fastest
from adatom.potential.kernels.moments_gpu import GpuMoments, by_powers, on_gpu
from adatom.potential.model import FittingNetConfig, Model, ModelConfig

CUTOFF = 4.0
CASES = {
    "two elements": (MomentsConfig(cutoff=CUTOFF, n_radial=5, n_channels=7, order=3), (14, 8)),
    "the default sizes": (MomentsConfig(cutoff=CUTOFF), (14,)),
    "pairs only": (MomentsConfig(cutoff=CUTOFF, order=1, contractions=()), (14, 8)),
}


def made(case):
    descriptor, elements = CASES[case]
    model = Model(ModelConfig(elements=elements, descriptor=descriptor, fitting_net=FittingNetConfig(widths=(16, 16))))
    return model, make_params(model)


@pytest.mark.parametrize("case", CASES)
def test_interpreted(case):
    model, params = made(case)
    structure = next(x for x in awkward_structures(model.elements).values() if len(x) > 2)
    want, got = evaluate(model, params, structure), evaluate(GpuMoments(model, True), params, structure)
    assert_allclose(got.energy, want.energy, rtol=1e-12)
    assert_allclose(got.forces, want.forces, rtol=0, atol=1e-11 * np.abs(want.forces).max())
    assert_allclose(got.stress, want.stress, rtol=0, atol=1e-11 * np.abs(want.stress).max())


@pytest.mark.parametrize("order", [0, 1, 4])
def test_monomials_and_their_derivatives(order):
    with jax.enable_x64(True):
        u = jax.random.normal(jax.random.key(0), (3, 2, 5), dtype=jnp.float64).at[:, 0, 0].set(jnp.array([0.0, 0.0, 1.0]))
        weights = jax.random.normal(jax.random.key(1), (jnp.shape(unit_monomials(u, order))), dtype=jnp.float64)

        def both(of):
            value = jax.grad(lambda u: (weights * of(u, order)).sum())
            return of(u, order), value(u), jax.jvp(lambda u: (value(u) ** 2).sum(), (u,), (jnp.cos(u),))[1]

        for want, got in zip(both(unit_monomials), both(by_powers), strict=True):
            assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_only_where_there_is_a_gpu():
    model, params = made("the default sizes")
    if jax.default_backend() != "gpu":
        assert on_gpu(model, params) is None
        return
    fast = fastest(model, params, "float64")
    assert isinstance(fast[0], GpuMoments)
    for structure in awkward_structures(model.elements).values():
        want = evaluate(model, params, structure)
        got = evaluate(*fast, structure)
        assert_allclose(got.forces, want.forces, rtol=0, atol=1e-10 * max(np.abs(want.forces).max(), 1.0))
