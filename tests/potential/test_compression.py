"""The series equals the networks within its stated error, inside its range; outside, the networks are evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import awkward_structures, deep_potential, make_potential

from adatom.potential import Evaluator
from adatom.potential.compression import MAX_DEGREE, TOLERANCES, chebyshev, compress
from adatom.potential.graph import Neighbourhood, batch, neighbourhood
from adatom.potential.networks import Perceptron
from adatom.potential.predict import predict
from adatom.potential.structure import Structure

ELEMENTS = (14, 8)


@pytest.mark.parametrize("one_side", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_error_bound_holds_on_a_grid(one_side, precision):
    potential = make_potential(ELEMENTS, deep_potential(one_side=one_side))
    model, params = compress(potential.model, potential.params, precision)
    assert model.error <= TOLERANCES[precision]
    assert model.degree <= MAX_DEGREE
    config = potential.model.config.descriptor
    s = np.linspace(0.0, model.s_max, 3001)
    for name, net in params["network"]["descriptor"].items():
        network = Perceptron(config.embedding_net, config.activation)
        exact = np.asarray(network.apply({"params": net}, jnp.asarray(s[:, None] * config.typical_distance)))
        series = np.polynomial.chebyshev.chebval(2.0 * s / model.s_max - 1.0, params["series"][name]).T
        assert np.abs(series - exact).max() <= (2.0 * model.error + 1e-13) * np.abs(exact).max()


@pytest.mark.parametrize("one_side", [True, False])
def test_energies_forces_and_stress_are_those_of_the_network(one_side):
    potential = make_potential(ELEMENTS, deep_potential(one_side=one_side))
    model, params = compress(potential.model, potential.params, "float64")
    items = [neighbourhood(x, ELEMENTS, model.cutoff) for x in awkward_structures(ELEMENTS).values()]
    items = [x for x in items if not len(x.pairs.i) or shortest_pair(x) > model.shortest]
    assert len(items) > 3
    graph, _ = batch(items)
    exact = predict(potential.model, potential.params, graph, e0=potential.statistics.e0, dtype=jnp.float64)
    got = predict(model, params, graph, e0=potential.statistics.e0, dtype=jnp.float64)
    for name in ("energy", "forces", "stress"):
        a, b = np.asarray(getattr(got, name)), np.asarray(getattr(exact, name))
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(np.abs(b).max(), 1e-3))


def shortest_pair(x: Neighbourhood) -> float:
    """The smallest distance between two atoms or images of atoms, Å."""
    vectors = x.structure.positions[x.pairs.j] - x.structure.positions[x.pairs.i] + x.pairs.shifts @ x.structure.cell
    return np.linalg.norm(vectors, axis=1).min()


def test_closer_than_the_series_reaches_the_network_is_evaluated():
    potential = make_potential((14,), deep_potential(), min_distance=2.0)
    fast, exact = (Evaluator(potential, precision="float64", compressed=c) for c in (True, False))
    assert fast.compression is not None
    assert exact.compression is None
    distance = 0.7 * fast.compression.shortest
    dimer = Structure(np.array([14, 14]), np.array([[0.0, 0, 0], [distance, 0, 0]]), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    with pytest.warns(UserWarning, match="extrapolation"):
        a = fast(dimer)
    with pytest.warns(UserWarning, match="extrapolation"):
        b = exact(dimer)
    assert a.energy == b.energy
    np.testing.assert_array_equal(a.forces, b.forces)


def test_only_deep_potential_is_compressed():
    potential = make_potential((14,))
    assert compress(potential.model, potential.params, "float32") is None


def test_derivatives_of_the_polynomials_at_the_ends():
    x = jnp.asarray([[-1.0, -0.3, 0.0, 0.8, 1.0]])
    q = np.arange(9)
    slope = jax.jacfwd(lambda y: chebyshev(y, 8)[:, 0])(x[0:1])[:, :, 0]
    by_numpy = [[np.polynomial.Chebyshev.basis(k).deriv()(v) for v in np.asarray(x)[0]] for k in q]
    np.testing.assert_allclose(np.diagonal(slope, axis1=1, axis2=2), by_numpy, rtol=1e-12, atol=1e-12)
