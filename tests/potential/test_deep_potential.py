"""DeepPot-SE (se_e2_a) against a NumPy transcription of the paper's equations, atom by atom."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAST, rotation
from numpy.testing import assert_allclose
from pydantic import ValidationError

from adatom.potential.descriptors.deep_potential import DeepPotential, DeepPotentialConfig

SLOTS, ATOMS = (3, 0, 2), (1, 0, 2)  # of each species
CONFIG = DeepPotentialConfig(
    cutoff=4.0, smooth_cutoff=1.5, embedding_net=(4, 8, 8, 5), axis=3, typical_neighbours=7.0, typical_distance=2.0
)


def switch(r, inner, outer):
    if r < inner:
        return 1.0
    u = min((r - inner) / (outer - inner), 1.0)
    return u**3 * (-6.0 * u**2 + 15.0 * u - 10.0) + 1.0


def embed(x, layers):
    """One number through the embedding net: residual where the width stays or doubles."""
    x = np.array([x])
    for n in range(len(layers)):
        w, b = (np.asarray(layers[f"layer_{n}"][k], dtype=float) for k in ("kernel", "bias"))
        y = np.tanh(x @ w + b)
        if w.shape[1] == w.shape[0]:
            y = y + x
        elif w.shape[1] == 2 * w.shape[0]:
            y = y + np.concatenate([x, x])
        x = y
    return x


def by_loops(vectors, params, config, species):
    """D = (1/K²) Gᵀ R Rᵀ G_< for one atom; vectors (neighbours, 3) grouped as in SLOTS."""
    element = np.repeat(np.arange(len(SLOTS)), SLOTS)
    environment, embedded = [], []
    for v, t in zip(vectors, element, strict=True):
        r = np.linalg.norm(v)
        s = switch(r, config.smooth_cutoff, config.cutoff) / r
        environment.append([s, *(s * v / r)])
        net = params[f"embedding_{t}" if config.one_side else f"embedding_{species}_{t}"]
        embedded.append(embed(s * config.typical_distance, net))
    r, g = np.array(environment), np.array(embedded)
    k = config.typical_neighbours
    return ((g.T @ r / k) @ (r.T @ g[:, : config.axis] / k)).ravel()


def surroundings(seed=0, atoms=3):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(atoms, sum(SLOTS), 3))
    return u / np.linalg.norm(u, axis=-1, keepdims=True) * rng.uniform(0.8, 4.6, (atoms, sum(SLOTS), 1))


def random_params(config):
    net = DeepPotential(config)
    ones = (1, 1, 1)
    params = jax.eval_shape(lambda key: net.init(key, jnp.ones((3, 3, 3)), ones, ones)["params"], jax.random.key(1))
    rng = np.random.default_rng(5)
    return net, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype=jnp.float64), params)


def apply(net, params, vectors):
    of = partial(net.apply, slots=SLOTS, atoms=ATOMS)
    return jax.jit(of, compiler_options=FAST)({"params": params}, jnp.asarray(vectors.transpose(2, 0, 1)))


@pytest.mark.parametrize("one_side", [True, False])
def test_descriptor_is_that_of_the_paper(one_side):
    config = CONFIG.model_copy(update={"one_side": one_side})
    net, params = random_params(config)
    assert set(params) == {f"embedding_{t}" if one_side else f"embedding_{u}_{t}" for t in range(3) for u in range(3)}
    vectors = surroundings()
    want = np.array([by_loops(v, params, config, u) for v, u in zip(vectors, np.repeat(range(3), ATOMS), strict=True)])
    got = apply(net, params, vectors)
    assert config.n_features(3) == want.shape[1] == 15
    assert_allclose(got, want, rtol=1e-11, atol=1e-14)


def test_rotation_and_exchange_of_like_atoms():
    net, params = random_params(CONFIG)
    vectors = surroundings(1)
    turned = -(vectors @ rotation(3))[:, [2, 0, 1, 4, 3]]
    a, b = (apply(net, params, x) for x in (vectors, turned))
    assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_an_atom_without_neighbours_has_the_descriptor_zero():
    net, params = random_params(CONFIG)
    nobody = net.apply({"params": params}, jnp.zeros((3, 2, 0)), (0, 0, 0), (0, 2, 0))
    assert nobody.shape == (2, 15)
    assert (np.asarray(nobody) == 0.0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smooth_cutoff": 6.0}, "smooth_cutoff 6.0 must be smaller than cutoff 6.0"),
        ({"axis": 65}, "axis 65 must not exceed"),
        ({"embedding_net": ()}, "axis"),
        ({"rcut": 6.0}, "rcut"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DeepPotentialConfig(**settings)
