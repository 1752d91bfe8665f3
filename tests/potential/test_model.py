"""What the model adds to descriptor and network: nuclear repulsion where the data end."""

import jax
import numpy as np
import pytest
from helpers import deep_potential, evaluate_all, make_model, make_params, symmetry_functions
from numpy.testing import assert_allclose
from pydantic import ValidationError

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.model import INNER, ModelConfig
from adatom.potential.pairwise import zbl
from adatom.potential.structure import Structure

DESCRIPTORS = {
    "symmetry functions": symmetry_functions(n_angular=0),
    "deep potential": deep_potential(),
    "moments": MomentsConfig(cutoff=4.0, n_radial=4, n_channels=2, order=2),
}


def dimers(za, zb, distances):
    return [
        Structure(np.array([za, zb]), np.array([[0.0, 0, 0], [0, 0, r]]), np.zeros((3, 3)), np.zeros(3, dtype=bool))
        for r in distances
    ]


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
@pytest.mark.parametrize(("elements", "least"), [((1, 8), 0.95), ((14, 79), 2.1)])
def test_nuclear_repulsion_rules_below_the_shortest_distances_of_the_data(descriptor, elements, least):
    """From 0.7 of that distance inward a dimer's energy only rises and is ZBL's, whatever the network says."""
    model = make_model(elements, DESCRIPTORS[descriptor])
    fractions = np.linspace(0.05, INNER, 40)
    for seed in range(3):
        params = make_params(model, seed, min_distance=least)
        for a, b in ((0, 0), (0, 1), (1, 1)):
            outer = float(params["statistics"].min_distance[a, b])
            results = evaluate_all(model, params, dimers(elements[a], elements[b], fractions * outer))
            energy = np.array([x.energy for x in results])
            assert (np.diff(energy) < 0.0).all()
            assert all(x.forces[1, 2] > 0.0 for x in results)
            deep = fractions < 0.5
            want = np.asarray(zbl(fractions * outer, float(elements[a]), float(elements[b])))
            want = want + params["statistics"].e0[a] + params["statistics"].e0[b]
            assert_allclose(energy[deep], want[deep], atol=1e-6)


def test_parameters_are_single_precision_named_by_species_and_differ():
    model = make_model((8, 1), deep_potential(one_side=False))
    params = model.init(jax.random.key(0))
    assert set(params["fitting"]) == {"species_0", "species_1"}
    assert set(params["descriptor"]) == {f"embedding_{a}_{b}" for a in range(2) for b in range(2)}
    leaves = jax.tree.leaves(params)
    assert {str(x.dtype) for x in leaves} == {"float32"}
    kernels = [np.asarray(params["fitting"][f"species_{t}"]["hidden"]["layer_0"]["kernel"]) for t in range(2)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_elements_that_are_alike_begin_alike():
    params = make_model((8, 42, 73), MomentsConfig(n_radial=3, n_channels=2, order=1)).init(jax.random.key(0))
    oxygen, molybdenum, tantalum = (params["fitting"][f"species_{t}"]["hidden"]["layer_0"]["kernel"] for t in range(3))
    assert np.abs(oxygen - tantalum).max() > 0.01
    assert_allclose(molybdenum, tantalum, rtol=0, atol=0)
    for w in params["descriptor"].values():
        assert_allclose(w[3:6], w[6:], rtol=0, atol=0)
        assert np.abs(w[:3] - w[3:6]).max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": (0,)}, "greater than or equal to 1"),
        ({"elements": (119,)}, "less than or equal to 118"),
        ({"descriptor": {"type": "magic"}}, "magic"),
        ({"fitting_net": {"widths": (0,)}}, "widths"),
        ({"fitting_net": {"activation": "relu6"}}, "activation"),
        ({"cutof": 1}, "cutof"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(change, message):
    good = {"elements": (14,), "descriptor": {"type": "symmetry_functions"}}
    assert hash(ModelConfig(**good)) == hash(ModelConfig(**good))
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**(good | change))
