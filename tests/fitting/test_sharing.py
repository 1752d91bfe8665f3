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
MODEL = make_model((42, 8, 73), MOMENTS)


def network() -> dict:
    return jax.tree.map(jnp.asarray, random_weights(MODEL, np.random.default_rng(0)))


def same(a: dict, b: dict) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a, b)


@pytest.mark.parametrize("parts", [("descriptor", "fitting"), ("fitting",)])
def test_there_and_back(parts: tuple[str, ...]) -> None:
    whole = {k: network()[k] for k in parts}
    trained = apart(MODEL, whole)
    assert set(trained) == {*parts, "common"}
    same(together(MODEL, trained), whole)


def test_a_step_of_what_is_common_is_a_step_of_all_that_are_alike() -> None:
    trained = apart(MODEL, network())
    stepped = together(MODEL, trained | {"common": jax.tree.map(lambda x: x + 0.5, trained["common"])})
    moved = jax.tree.map(lambda x, y: x - y, stepped, network())
    for name, tree in moved["fitting"].items():
        jax.tree.map(lambda x, name=name: np.testing.assert_allclose(x, 0.5 * (name != "species_1"), atol=1e-6), tree)
    for w in moved["descriptor"].values():
        np.testing.assert_allclose(w.reshape(3, 3, 2)[:, 0, 0], [0.5, 0.0, 0.5], atol=1e-6)


def test_a_step_of_one_element_is_small_and_its_own() -> None:
    trained = apart(MODEL, network())
    fitting = trained["fitting"] | {"species_2": jax.tree.map(lambda x: x + 1.0, trained["fitting"]["species_2"])}
    descriptor = {k: jnp.asarray(w).at[6:].add(1.0) for k, w in trained["descriptor"].items()}  # three Gaussians an element
    stepped = together(MODEL, trained | {"fitting": fitting, "descriptor": descriptor})
    moved = jax.tree.map(lambda x, y: x - y, stepped, network())
    for name, tree in moved["fitting"].items():
        jax.tree.map(lambda x, name=name: np.testing.assert_allclose(x, SHARE * (name == "species_2"), atol=1e-6), tree)
    for w in moved["descriptor"].values():
        np.testing.assert_allclose(w[6:], SHARE, atol=1e-6)
        np.testing.assert_allclose(w[:6], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "model", [make_model((29,), MOMENTS), make_model((1, 6, 8, 42), MOMENTS), make_model((42, 73), deep_potential())]
)
def test_nothing_is_shared_by_elements_or_descriptors_that_are_unlike(model) -> None:
    whole = random_weights(model, np.random.default_rng(1))
    assert apart(model, whole) is whole
    assert together(model, whole) is whole
