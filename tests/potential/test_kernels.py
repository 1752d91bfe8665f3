"""The compiled kernel equals the model to rounding, and where it cannot be built the model is evaluated in its place."""

import dataclasses
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import awkward_structures, e0_of, evaluate, make_params, make_potential, run
from numpy.testing import assert_allclose, assert_array_equal

from adatom.md.field import make_field
from adatom.potential import Evaluator
from adatom.potential.compilation import jit
from adatom.potential.descriptors import MomentsConfig
from adatom.potential.graph import batch, neighbourhood
from adatom.potential.kernels import build
from adatom.potential.kernels.moments import KernelMoments, kernel
from adatom.potential.model import FittingNetConfig, Model, ModelConfig
from adatom.potential.predict import predict

CUTOFF = 4.0
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def moments(**settings):
    return MomentsConfig(**({"cutoff": CUTOFF, "n_radial": 5, "n_channels": 7, "order": 3} | settings))


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    if build.compiled().library is None:
        pytest.skip(f"no kernel on this machine: {build.compiled().why}")


CASES = {
    # descriptor, elements, network (28 and 35 features: layers of the same, of the double and of other widths), limits
    "silu": (moments(), (14,), (42, 42, 84, 5), "silu", True),
    "tanh, two elements": (moments(order=2, n_channels=17), (14, 8), (9, 9), "tanh", True),
    "gelu, pairs only, three elements": (moments(order=1, contractions=()), (14, 8, 1), (14, 28), "gelu", True),
    "softplus, order 6": (moments(order=6, n_radial=17), (14, 8), (33,), "softplus", True),
    "the default sizes": (MomentsConfig(cutoff=CUTOFF), (14, 8), (192, 192), "silu", True),
    "other contractions": (moments(order=4, contractions=((1, 2, 3), (2, 2, 4), (4, 4, 4))), (14, 8), (16,), "silu", True),
    "neither limit": (moments(order=4), (14, 8), (16, 16), "silu", False),
}


def all_awkward(case, min_distance):
    """A model with its params, and all awkward structures in one padded graph."""
    descriptor, elements, widths, activation, limits = CASES[case]
    net = FittingNetConfig(widths=widths, activation=activation)
    model = Model(
        ModelConfig(elements=elements, descriptor=descriptor, fitting_net=net, repulsion=limits, isolated_limit=limits)
    )
    params = make_params(model, min_distance=min_distance)
    items = [neighbourhood(x, elements, CUTOFF + 0.5) for x in awkward_structures(elements).values()]
    need = np.sum([x.atom_counts for x in items], axis=0)
    slots = np.max([x.slot_counts for x in items], axis=0)
    return model, params, batch(items, atom_capacity=need + 3, slot_capacity=slots + 2)[0]


def both(case, precision, min_distance=0.9):
    """What the kernel and the model in float64 say."""
    model, params, graph = all_awkward(case, min_distance)
    e0 = np.zeros(len(model.elements))
    found = kernel(model, params, precision)
    got = jax.jit(lambda p, g: predict(found[0], p, g, e0=jnp.asarray(e0), dtype=jnp.dtype(precision)))(found[1], graph)
    return got, run(model, params, e0, graph), graph


@pytest.mark.parametrize(("case", "min_distance"), [*((case, 0.9) for case in CASES), ("silu", 2.0)])
def test_gradients_of_a_loss_to_the_parameters(case, min_distance):
    """Of energies, forces and stress; members of a committee one by one."""
    model, params, graph = all_awkward(case, min_distance)
    e0 = jnp.zeros(len(model.elements))
    rng = np.random.default_rng(1)
    shapes = (graph.n_structures,), graph.positions.shape, (graph.n_structures, 3, 3)
    of_energy, of_forces, of_stress = (jnp.asarray(rng.normal(size=x)) for x in shapes)

    def loss(network, precision):
        exact = precision is None
        fast = (model, {**params, "network": network}) if exact else kernel(model, {**params, "network": network}, precision)
        out = predict(*fast, graph, e0=e0, dtype=jnp.dtype(precision or "float64"))
        forces = jnp.where(graph.atom_mask[:, None], out.forces.astype(of_forces.dtype), 0.0)
        return (of_energy * out.energy**2).sum() + (of_forces * forces**2).sum() + (of_stress * out.stress).sum()

    gradient = jit(jax.grad(loss), static_argnums=1)
    want = gradient(params["network"], None)
    for precision in TOLERANCE:
        got = gradient(params["network"], precision)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
            atol = TOLERANCE[precision] * 10 * scale
            assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))
    if case == "silu":
        twice = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), params["network"])
        members = jit(jax.vmap(jax.grad(loss), in_axes=(0, None)), static_argnums=1)(twice, "float64")
        assert_allclose(members["fitting"]["species_0"]["energy"]["kernel"][0], want["fitting"]["species_0"]["energy"]["kernel"])


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_model(case, precision):
    got, want, _ = both(case, precision)
    for name in ("atomic_energies", "energy", "forces", "stress", "nearest"):
        a, b = np.asarray(getattr(got, name), dtype=float), np.asarray(getattr(want, name))
        assert np.abs(b).max() > 0.0
        assert_allclose(a, b, rtol=0.0, atol=TOLERANCE[precision] * np.abs(b).max(), err_msg=name)


def test_closer_than_the_data_ever_showed():
    """The repulsion and what silences the network: r_out beyond most distances here."""
    got, want, _ = both("silu", "float64", min_distance=2.0)
    near = np.asarray(want.nearest)
    assert (near < 1.8).any()
    for name in ("atomic_energies", "forces", "stress"):
        a, b = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
        assert_allclose(a, b, rtol=0.0, atol=1e-12 * np.abs(b).max(), err_msg=name)


def test_padding_is_zero_and_far():
    got, _, graph = both("tanh, two elements", "float32")
    empty = ~np.asarray(graph.atom_mask)
    assert empty.sum() == 6
    assert not np.asarray(got.atomic_energies)[empty].any()
    assert not np.asarray(got.forces)[empty].any()
    assert (np.asarray(got.nearest)[empty] == 2 * CUTOFF).all()


def crystal(potential, n=3, seed=0):
    from ase.build import bulk

    from adatom.potential import from_atoms

    atoms = bulk("Si", cubic=True) * (n, n, 1)
    atoms.positions += np.random.default_rng(seed).normal(0.0, 0.1, atoms.positions.shape)
    return from_atoms(atoms)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_evaluator_uses_it(precision):
    potential = make_potential((14,), moments(), golden=True)
    s = crystal(potential)
    fast, exact = Evaluator(potential, precision=precision), Evaluator(potential, precision=precision, compressed=False)
    assert isinstance(fast.kernel, KernelMoments)
    assert exact.kernel is None
    a, b = fast(s), exact(s)
    assert_allclose(a.forces, b.forces, atol=TOLERANCE[precision] * np.abs(b.forces).max())
    assert_allclose(a.energies, b.energies, rtol=TOLERANCE[precision])
    assert_allclose(a.stress, b.stress, atol=TOLERANCE[precision] * np.abs(b.stress).max())


def test_the_same_bits_again_whichever_threads_worked():
    potential = make_potential((14,), moments())
    evaluator, s = Evaluator(potential), crystal(potential, 4)
    first = evaluator(s)
    for _ in range(20):
        again = evaluator(s)
        assert_array_equal(again.forces, first.forces)
        assert again.energy == first.energy


def test_an_atom_alone_has_its_own_energy():
    potential = make_potential((14,), moments())
    s = crystal(potential, 1)
    alone = dataclasses.replace(
        s, numbers=s.numbers[:1], positions=s.positions[:1], cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool)
    )
    out = Evaluator(potential, precision="float64")(alone)
    assert out.energy == e0_of(potential.params, potential.model)[0]
    assert not out.forces.any()


def test_not_a_number_is_seen():
    potential = make_potential((14,), moments())
    found = kernel(potential.model, potential.params, "float32")
    graph, _ = batch([neighbourhood(crystal(potential, 1), (14,), CUTOFF)])
    graph = dataclasses.replace(graph, positions=np.where(np.arange(len(graph.positions))[:, None] == 2, np.nan, graph.positions))
    out = predict(found[0], found[1], graph, e0=jnp.zeros(1), dtype=jnp.float32)
    assert np.isnan(np.asarray(out.forces)[2]).all()
    assert np.isnan(out.energy[0])


def test_shifts_of_either_width():
    potential = make_potential((14,), moments())
    found = kernel(potential.model, potential.params, "float64")
    graph, _ = batch([neighbourhood(crystal(potential, 1), (14,), CUTOFF)])
    wide = dataclasses.replace(graph, shifts=graph.shifts.astype(np.int32))
    a, b = (predict(found[0], found[1], g, e0=jnp.zeros(1), dtype=jnp.float64) for g in (graph, wide))
    assert_array_equal(a.forces, b.forces)


def test_molecular_dynamics_moves_atoms_with_it():
    potential = make_potential((14,), moments())
    field = make_field(potential, precision="float32")
    assert isinstance(field.fast_model, KernelMoments)
    assert not field.compressed_from


def test_other_descriptors_have_none():
    potential = make_potential((14,))
    assert kernel(potential.model, potential.params, "float32") is None


@pytest.mark.parametrize("name", ["none", "false", "no-such-compiler"])
def test_without_a_compiler_the_model_is_evaluated(name, monkeypatch, tmp_path):
    """Nothing wanted, a compiler that fails, none there."""
    monkeypatch.setenv("ADATOM_CXX", name)
    monkeypatch.setenv("ADATOM_CACHE", str(tmp_path))
    build.compiled.cache_clear()
    try:
        assert build.compiled().library is None
        assert build.compiled().why
        potential = make_potential((14,), moments())
        s = crystal(potential, 1)
        evaluator = Evaluator(potential, precision="float64")
        assert evaluator.kernel is None
        assert_allclose(evaluator(s).forces, evaluate(potential.model, potential.params, s).forces, atol=1e-10)
    finally:
        build.compiled.cache_clear()


def test_the_header_stands_alone():
    """No other header of ours, of Python or of XLA; no warning."""
    command = [build.compiler(), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-x", "c++"]
    program = '#include "moments.hpp"\nadatom::Model<float>* m; void f(adatom::Block<float>& b) { adatom::evaluate(*m, 0, b); }\n'
    done = subprocess.run([*command, "-I", str(build.HERE), "-"], input=program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
