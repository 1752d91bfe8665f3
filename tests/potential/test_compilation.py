"""What is compiled gives the same gradients as what is not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import awkward_structures, make_params
from numpy.testing import assert_allclose

from adatom.potential.compilation import jit
from adatom.potential.descriptors import MomentsConfig
from adatom.potential.graph import batch, neighbourhood
from adatom.potential.model import FittingNetConfig, Model, ModelConfig
from adatom.potential.predict import predict

PACKAGE = Path(__file__).resolve().parents[2]


def test_gradients_of_forces_to_parameters():
    """jax.jit with the defaults of jaxlib 0.9.0 and 0.10.1 is wrong by some per cent here."""
    descriptor = MomentsConfig(cutoff=4.0, n_radial=5, n_channels=7, order=1, contractions=())
    model = Model(ModelConfig(elements=(14, 8), descriptor=descriptor, fitting_net=FittingNetConfig(widths=(14, 28))))
    params = make_params(model, min_distance=0.9)
    items = [neighbourhood(x, model.elements, 4.5) for x in awkward_structures(model.elements).values()]
    need = np.sum([x.atom_counts for x in items], axis=0)
    graph, _ = batch(items, atom_capacity=need, slot_capacity=np.max([x.slot_counts for x in items], axis=0))

    def loss(network):
        out = predict(model, {**params, "network": network}, graph, e0=jnp.zeros(2), dtype=jnp.float64)
        return (out.forces**2).sum()

    want = jax.grad(loss)(params["network"])
    for a, b in zip(jax.tree.leaves(jit(jax.grad(loss))(params["network"])), jax.tree.leaves(want), strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("package", ["potential", "md", "fitting"])
def test_nothing_is_compiled_any_other_way(package):
    for path in (PACKAGE / package).rglob("*.py"):
        if path.name != "compilation.py":
            assert not re.search(r"\bjax\.jit\b", path.read_text(encoding="utf-8")), path
