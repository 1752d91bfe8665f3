"""What elements have in common, and how they differ."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import deep_potential, make_model, random_weights

from adatom.fitting.sharing import SHARE, apart, together
from adatom.potential.descriptors import MomentsConfig

MOMENTS = MomentsConfig(cutoff=4.0, n_radial=3, n_channels=2, order=1)
MODEL = make_model((1, 6, 8), MOMENTS)


def network() -> dict:
    return random_weights(MODEL, np.random.default_rng(0))


def same(a: dict, b: dict) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a, b)


@pytest.mark.parametrize("parts", [("descriptor", "fitting"), ("fitting",)])
def test_there_and_back(parts: tuple[str, ...]) -> None:
    whole = {k: network()[k] for k in parts}
    trained = apart(MODEL, whole)
    assert set(trained) == {*parts, "common"}
    same(together(trained), whole)


def test_a_step_of_what_is_common_is_a_step_of_all() -> None:
    trained = apart(MODEL, network())
    stepped = together(trained | {"common": jax.tree.map(lambda x: x + 0.5, trained["common"])})
    same(stepped, jax.tree.map(lambda x: x + 0.5, network()))


def test_a_step_of_one_element_is_small_and_its_own() -> None:
    trained = apart(MODEL, network())
    fitting = trained["fitting"] | {"species_1": jax.tree.map(lambda x: x + 1.0, trained["fitting"]["species_1"])}
    descriptor = {k: jnp.asarray(w).at[3:6].add(1.0) for k, w in trained["descriptor"].items()}  # three Gaussians an element
    stepped = together(trained | {"fitting": fitting, "descriptor": descriptor})
    moved = jax.tree.map(lambda x, y: x - y, stepped, network())
    for name, tree in moved["fitting"].items():
        jax.tree.map(lambda x, name=name: np.testing.assert_allclose(x, SHARE * (name == "species_1"), atol=1e-6), tree)
    for w in moved["descriptor"].values():
        np.testing.assert_allclose(w[3:6], SHARE, atol=1e-6)
        np.testing.assert_allclose(np.delete(w, [3, 4, 5], axis=0), 0.0, atol=1e-6)


@pytest.mark.parametrize("model", [make_model((29,), MOMENTS), make_model((1, 8), deep_potential())])
def test_nothing_is_shared_by_one_element_or_with_descriptors_that_are_not(model) -> None:
    whole = random_weights(model, np.random.default_rng(1))
    assert apart(model, whole) is whole
    assert together(whole) is whole
