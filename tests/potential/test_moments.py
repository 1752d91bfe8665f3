"""The moment descriptor against tensors built by outer products."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAST, rotation
from numpy.testing import assert_allclose
from pydantic import ValidationError

from adatom.potential.descriptors.moments import Moments, MomentsConfig

SLOTS = (3, 2)
CONFIG = MomentsConfig(cutoff=4.0, n_radial=4, n_channels=3, inner=0.7)
CONTRACTIONS = {
    "112": "ci,cj,cij->c", "222": "cij,cjk,cki->c", "123": "ci,cjk,cijk->c", "224": "cij,ckl,cijkl->c", "233": "cij,cikl,cjkl->c",
    "134": "ci,cjkl,cijkl->c", "244": "cij,ciklm,cjklm->c", "334": "cijk,cilm,cjklm->c", "444": "cijkl,cijmn,cklmn->c",
}  # fmt: skip


def by_loops(vectors, params):
    """Full Cartesian tensors of every degree for one atom; vectors (neighbours, 3) grouped as in SLOTS."""
    element, centres = np.repeat(np.arange(len(SLOTS)), SLOTS), np.linspace(0.7, CONFIG.cutoff, CONFIG.n_radial)
    tensors = []
    for p in range(CONFIG.order + 1):
        w = np.asarray(params[f"radial_{p}"], dtype=float).reshape(len(SLOTS), CONFIG.n_radial, CONFIG.n_channels)
        total = np.zeros((CONFIG.n_channels, *(3,) * p))
        for v, z in zip(vectors, element, strict=True):
            r = np.linalg.norm(v)
            x = min(r / CONFIG.cutoff, 1.0)
            g = np.exp(-0.5 * ((r - centres) / (centres[1] - centres[0])) ** 2) * (1 - 10 * x**3 + 15 * x**4 - 6 * x**5)
            outer = np.array(1.0)
            for _ in range(p):
                outer = np.multiply.outer(outer, v / r)
            total += np.multiply.outer(w[z].T @ g, outer)
        tensors.append(total)
    features = [tensors[0], *[(t * t).reshape(CONFIG.n_channels, -1).sum(axis=1) for t in tensors[1:]]]
    contracted = [np.einsum(x, *(tensors[int(n)] for n in degrees)) for degrees, x in CONTRACTIONS.items()]
    return np.concatenate([*features, *contracted])


def test_descriptor_is_that_of_full_tensors_and_does_not_turn():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(3, sum(SLOTS), 3))
    vectors = u / np.linalg.norm(u, axis=-1, keepdims=True) * rng.uniform(0.8, 4.4, (3, sum(SLOTS), 1))
    net = Moments(CONFIG)
    shapes = jax.eval_shape(lambda key: net.init(key, jnp.ones((3, 2, 2)), (1, 1), (1, 1))["params"], jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)
    apply = jax.jit(partial(net.apply, slots=SLOTS, atoms=(1, 2)), compiler_options=FAST)
    got = apply({"params": params}, jnp.asarray(vectors.transpose(2, 0, 1)))
    want = np.array([by_loops(v, params) for v in vectors])
    assert CONFIG.n_features(2) == want.shape[1]
    assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    turned = -(vectors @ rotation(1))[:, [2, 0, 1, 4, 3]]
    again = apply({"params": params}, jnp.asarray(turned.transpose(2, 0, 1)))
    assert_allclose(again, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("degrees", [(1, 1, 3), (1, 1, 1), (0, 1, 1), (2, 1, 1)])
def test_no_scalar_comes_of_these(degrees):
    with pytest.raises(ValidationError, match=f"no scalar comes of tensors of degrees {', '.join(map(str, degrees))}"):
        MomentsConfig(contractions=(degrees,))


def test_files_of_before():
    """Configs that say four_body are the model they were: two contractions and Gaussians from 0.6 Å."""
    old = MomentsConfig.model_validate({"type": "moments", "four_body": True, "n_radial": 10, "n_channels": 24})
    assert (old.contractions, old.inner) == (((1, 1, 2), (2, 2, 2)), 0.6)
    assert MomentsConfig.model_validate({"four_body": False}).contractions == ()
    with pytest.raises(ValidationError, match="inner 1.0 Å is not below the cutoff of 0.9 Å"):
        MomentsConfig(cutoff=0.9)
