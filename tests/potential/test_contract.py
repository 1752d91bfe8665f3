"""What every energy model must do, whatever it is made of. A new model joins MODELS before it is used anywhere."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CUTOFF,
    FAST,
    awkward_structures,
    deep_potential,
    deepmd_attention,
    deepmd_model,
    deepmd_params,
    e0_of,
    evaluate_all,
    make_model,
    make_params,
    n2p2_model,
    n2p2_params,
    nep_model,
    nep_params,
    rotation,
    run,
    strained,
    symmetry_functions,
)
from numpy.testing import assert_allclose

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.graph import batch, neighbourhood
from adatom.potential.interop.deepmd.model import DeepmdModel
from adatom.potential.interop.n2p2.model import N2p2Model
from adatom.potential.interop.nep.model import NepModel
from adatom.potential.model import Model
from adatom.potential.pairwise import LennardJones, Morse
from adatom.potential.predict import predict
from adatom.potential.structure import Structure

FEW = {"n_radial": 3, "n_angular": 1}
MODELS = {
    "wide, Si": make_model((14,)),
    "wide, H O": make_model((8, 1), symmetry_functions(n_radial=3, zetas=(2.0,))),
    "wide cosine, Cu Au": make_model((29, 79), symmetry_functions(cutoff_function="cosine", **FEW)),
    "wide non-integer, H O": make_model((1, 8), symmetry_functions(zetas=(1.5, 2.7), **FEW)),
    "narrow, H O": make_model((1, 8), symmetry_functions(angular_kind="narrow", **FEW)),
    "narrow cosine, Si": make_model((14,), symmetry_functions(angular_kind="narrow", cutoff_function="cosine", **FEW)),
    "radial only, Si": make_model((14,), symmetry_functions(n_angular=0)),
    "one-sided, Si": make_model((14,), deep_potential()),
    "one-sided, H C O": make_model((6, 1, 8), deep_potential(activation="silu", embedding_net=(4,))),
    "two-sided, H O": make_model((8, 1), deep_potential(one_side=False)),
    "moments, H O": make_model((8, 1), MomentsConfig(cutoff=CUTOFF, n_radial=4, n_channels=3, order=3)),
    "DeePMD-kit, H O": deepmd_model((8, 1)),
    "DeePMD-kit attention and table, H O": deepmd_attention((8, 1)),
    "NEP cosine, H O": nep_model((8, 1)),
    "n2p2, H O": n2p2_model((8, 1)),
    "Lennard-Jones, Ar": LennardJones((18,), epsilon=0.1, sigma=1.5, cutoff=CUTOFF),
    "Morse, Cu Au": Morse((29, 79), depth=0.4, alpha=1.3, distance=2.0, cutoff=CUTOFF),
}
# for second derivatives, which take long to compile: each path through the code once
TWICE = [n for n in MODELS if n not in {"wide, Si", "radial only, Si", "narrow, H O", "one-sided, H C O"}]
STEP, STENCIL, WEIGHTS = 5e-4, np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
CROSSING, INSIDE = (-4e-5, -2e-5, 0.0, 2e-5, 4e-5), (-1.0, -0.9998)
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A structure that must give the result of `name` with atoms in `order`, turned by `turn`."""

    name: str
    structure: Structure
    turn: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(3))
    order: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with everything that one evaluation of many structures says about it."""

    model: object
    params: dict
    structures: dict
    results: dict
    variants: dict
    varied: dict
    slopes: dict
    curves: dict
    isolated: dict
    everything: dict


def rotated(rng, name, s):
    turn = rotation(rng.integers(1000)) * rng.choice([-1.0, 1.0])
    return Variant(name, dataclasses.replace(s, positions=s.positions @ turn, cell=s.cell @ turn), turn)


def translated(rng, name, s):
    return Variant(name, dataclasses.replace(s, positions=s.positions + rng.uniform(-30.0, 30.0, 3)))


def permuted(rng, name, s):
    order = rng.permutation(len(s))
    return Variant(name, dataclasses.replace(s, numbers=s.numbers[order], positions=s.positions[order]), order=order)


def other_images(rng, name, s):
    """Every atom somewhere else by whole periodic vectors, some of them far outside the cell."""
    shift = rng.integers(-3, 4, s.positions.shape) * s.pbc
    shift[0] = 50 * s.pbc
    return Variant(name, dataclasses.replace(s, positions=s.positions + shift @ s.cell))


def other_cell(rng, name, s):
    """Another choice of vectors of the same lattice, and something else where there is no periodicity."""
    change, periodic = np.eye(3), np.flatnonzero(s.pbc)
    for a in periodic:
        for b in periodic:
            if a != b:
                change[a] += rng.choice([-1.0, 1.0]) * change[b]
    cell = change @ s.cell
    cell[~s.pbc] = rng.uniform(-2.0, 2.0, (int((~s.pbc).sum()), 3))
    return Variant(name, dataclasses.replace(s, cell=cell))


def supercell(rng, name, s):
    """Two cells side by side; the result is compared per cell."""
    if not s.pbc.any():
        return None
    axis = int(np.flatnonzero(s.pbc)[0])
    cell = s.cell.copy()
    cell[axis] *= 2.0
    positions = np.concatenate([s.positions, s.positions + s.cell[axis]])
    order = np.tile(np.arange(len(s)), 2)
    return Variant(name, Structure(s.numbers[order], positions, cell, s.pbc), order=order)


def params_of(model):
    """Random weights; other programs' models have E0 too, and random statistics; analytic potentials have nothing."""
    if isinstance(model, Model):
        return make_params(model)
    if isinstance(model, DeepmdModel):
        return deepmd_params(model)
    if isinstance(model, N2p2Model):
        return n2p2_params(model)
    if isinstance(model, NepModel):
        return nep_params(model)
    return {}


KINDS = {f.__name__: f for f in (rotated, translated, permuted, other_images, other_cell, supercell)}


def build(name):
    """Evaluate a model on its structures, their variants and their displaced and strained copies, in one go."""
    model = MODELS[name]
    params = params_of(model)
    structures, rng = awkward_structures(model.elements), np.random.default_rng(1)
    variants = {(k, n): make(rng, n, s) for k, make in KINDS.items() for n, s in structures.items()}
    variants = {k: v for k, v in variants.items() if v is not None}
    displaced = {}
    for n, s in structures.items():
        for direction in range(4):
            u = rng.normal(size=s.positions.shape)
            u /= np.linalg.norm(u)
            moved = [dataclasses.replace(s, positions=s.positions + STEP * x * u) for x in STENCIL]
            displaced[n, "r", direction] = u, moved
        for a, b in VOIGT if s.pbc.all() else ():
            e = np.zeros((3, 3))
            e[a, b], e[b, a] = (1.0, 1.0) if a == b else (0.5, 0.5)
            displaced[n, "strain", (a, b)] = (a, b), [strained(s, STEP * x * e) for x in STENCIL]
    copies = {(k, n): s for k, (_, made) in displaced.items() for n, s in enumerate(made)}
    leaving = {(c, d): s for c, d, s in departures(model.elements[0])}
    isolated = {("isolated", k): s for k, s in isolated_atoms(model.elements).items()}
    everything = structures | {k: v.structure for k, v in variants.items()} | copies | leaving | isolated
    out = evaluate_all(model, params, everything)
    slopes = {k: (u, np.dot([out[k, n].energy for n in range(4)], WEIGHTS) / STEP) for k, (u, _) in displaced.items()}
    return Case(
        model, params, structures, {n: out[n] for n in structures}, variants, {k: out[k] for k in variants}, slopes,
        {k: out[k] for k in leaving}, {k: out["isolated", k] for _, k in isolated}, everything,
    )  # fmt: skip


def departures(z):
    """One atom of four leaves along x: just before and after each distance at which a pair crosses the cutoff."""
    fixed = np.array([[0.0, 0.0, 0.0], [1.7, 0.0, 0.0], [0.3, 1.6, 0.2]])
    y, z_ = 0.4, -0.3
    for c, (x0, y0, z0) in enumerate(fixed):
        crossing = x0 + np.sqrt(CUTOFF**2 - (y - y0) ** 2 - (z_ - z0) ** 2)
        for d in (*INSIDE, *CROSSING):
            positions = np.concatenate([fixed, [[crossing + d, y, z_]]])
            yield c, d, Structure(np.full(4, z), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


def isolated_atoms(elements):
    """Alone, alone in a cell longer than the cutoff, and far from atoms of all other elements."""
    elements, open_ = np.array(elements), np.zeros(3, dtype=bool)
    return {
        "alone": Structure(elements[:1], np.array([[0.3, 0.1, 9.0]]), np.zeros((3, 3)), open_),
        "boxed": Structure(elements[-1:], np.array([[0.3, 0.1, 9.0]]), 4.3 * np.eye(3), ~open_),
        "apart": Structure(elements, np.outer(np.arange(len(elements)), [3.0, 3.0, 3.0]), np.zeros((3, 3)), open_),
    }


@pytest.fixture(scope="module")
def cases():
    """Each made when first asked for."""
    return cache(build)


@pytest.fixture(params=MODELS)
def case(request, cases):
    return cases(request.param)


def capacities(structures, model, *, more=0, multiple=1):
    """Room for all structures together, `more` than that, in multiples."""
    items = [neighbourhood(s, model.elements, model.cutoff) for s in structures]
    atoms = np.sum([x.atom_counts for x in items], axis=0) + more
    atoms = (multiple * np.ceil(atoms / multiple)).astype(int)
    return {"atom_capacity": atoms, "slot_capacity": np.max([x.slot_counts for x in items], axis=0) + more}


def assert_same(got, want, variant=None, rtol=1e-11):
    """Equal per atom; forces and stress turned, atoms reordered. Stress only where there is one."""
    v = variant or Variant("", None)
    order = np.arange(len(want.energies)) if v.order is None else v.order
    assert_allclose(got.energies, want.energies[order], rtol=rtol)
    assert_allclose(got.forces, (want.forces @ v.turn)[order], rtol=0, atol=10 * rtol * np.abs(want.forces).max())
    if v.structure is None or v.structure.pbc.all():
        stress = v.turn.T @ want.stress @ v.turn
        assert_allclose(got.stress, stress, rtol=0, atol=10 * rtol * np.abs(want.stress).max())


def test_the_structures_test_something(case):
    for name, r in case.results.items():
        assert np.abs(r.forces).max() > 1e-3, name
        if case.structures[name].pbc.all():
            assert np.abs(r.stress).max() > 1e-5, name
        assert_allclose(r.energies.sum(), r.energy, rtol=1e-14)


def test_forces_are_minus_the_derivative_of_the_energy(case):
    """Fourth-order central differences along random directions, to 1e-6 of the largest force."""
    for (name, kind, _), (u, slope) in case.slopes.items():
        if kind == "r":
            f = case.results[name].forces
            assert_allclose(-(f * u).sum(), slope, rtol=1e-6, atol=1e-6 * np.abs(f).max(), err_msg=name)


def test_stress_is_the_derivative_of_the_energy_by_strain(case):
    """All six strains of triclinic, left-handed and very small cells; V σ = dE/dε."""
    for (name, kind, _), (ab, slope) in case.slopes.items():
        if kind == "strain":
            stress, volume = case.results[name].stress, case.structures[name].volume
            size = np.abs(stress).max() * volume
            assert_allclose(stress[ab] * volume, slope, rtol=1e-6, atol=1e-6 * size, err_msg=f"{name} {ab}")


def test_there_is_no_net_force_and_stress_is_symmetric(case):
    for name, r in case.results.items():
        assert_allclose(r.forces.sum(axis=0), 0.0, atol=1e-12 * max(np.abs(r.forces).max(), 1.0), err_msg=name)
        assert_allclose(r.stress, r.stress.T, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_invariance(case, kind):
    for (k, name), v in case.variants.items():
        if k == kind:
            assert_same(case.varied[k, name], case.results[name], v)


def test_a_structure_alone_in_a_far_too_large_graph_is_the_same_as_in_a_batch(case):
    """Padding of atoms, slots and structures; `evaluate_all` compiles nothing new for it."""
    room = capacities(case.everything.values(), case.model)
    for name in ("triclinic", "slab", "one element"):
        structures = [case.structures[name]]
        (got,) = evaluate_all(case.model, case.params, structures, n_structures=len(case.everything), **room)
        assert_same(got, case.results[name])


def test_padding_has_no_energy_force_or_stress(case):
    items = [neighbourhood(case.structures["triclinic"], case.model.elements, case.model.cutoff)]
    room = capacities(case.everything.values(), case.model)
    graph, rows = batch(items, n_structures=len(case.everything), **room)
    out = run(case.model, case.params, e0_of(case.params, case.model), graph)
    padding = np.ones(len(graph.atom_mask), dtype=bool)
    padding[rows] = False
    for x in (out.atomic_energies[padding], out.forces[padding], out.energy[1:], out.stress[1:]):
        assert (np.asarray(x) == 0.0).all()


@pytest.mark.parametrize("name", ["radial only, Si", "two-sided, H O"])
def test_blocks_are_the_same_as_all_at_once(cases, name):
    case = cases(name)
    room = capacities(case.structures.values(), case.model, multiple=8)
    out = evaluate_all(case.model, case.params, case.structures, block=8, **room)
    for key, r in out.items():
        assert_same(r, case.results[key])


def test_blocks_must_divide_the_atoms(cases):
    case = cases("radial only, Si")
    with pytest.raises(ValueError, match="36 atoms of species 0 are not a multiple of the block of 7"):
        evaluate_all(case.model, case.params, case.structures, block=7, atom_capacity=[36])


def test_single_precision_in_blocks_is_close_to_double(case):
    """Model in float32, sums of energies in float64: energies to 2e-6 of the largest atomic energy without E0, forces
    and stress to 2e-5 of the largest."""
    room = capacities(case.structures.values(), case.model, multiple=8)
    out = evaluate_all(case.model, case.params, case.structures, dtype="float32", block=8, **room)
    e0 = dict(zip(case.model.elements, e0_of(case.params, case.model), strict=True))
    for name, r in out.items():
        want, s = case.results[name], case.structures[name]
        bound = np.abs(want.energies - [e0[z] for z in s.numbers]).max() + 1.0
        assert r.energies.dtype == np.float64
        assert_allclose(r.energies, want.energies, rtol=0, atol=2e-6 * bound, err_msg=name)
        assert_allclose(r.forces, want.forces, rtol=0, atol=2e-5 * max(np.abs(want.forces).max(), 1.0), err_msg=name)
        assert_allclose(r.stress, want.stress, rtol=0, atol=2e-5 * max(np.abs(want.stress).max(), 1.0), err_msg=name)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_finite_with_padding_and_right(cases, name):
    """The gradient of a loss on energies, forces and stresses by parameters and positions, on a graph with every kind
    of padding and with an atom alone, which has no volume and no neighbours."""
    case = cases(name)
    alone = isolated_atoms(case.model.elements)["alone"]
    items = [neighbourhood(s, case.model.elements, case.model.cutoff) for s in (case.structures["one element"], alone)]
    atoms, slots = (sum(getattr(x, k) for x in items) for k in ("atom_counts", "slot_counts"))
    graph, _ = batch(items, n_structures=3, atom_capacity=np.where(atoms > 0, atoms + 2, 0), slot_capacity=slots + 2)
    e0 = e0_of(case.params, case.model)
    mask = jnp.asarray([True, False, False])[:, None, None]

    @partial(jax.jit, compiler_options=FAST)
    def loss(params, positions):
        def value(params, positions):
            moved = dataclasses.replace(graph, positions=positions)
            out = predict(case.model, params, moved, e0=e0, dtype=jnp.float64)
            stress = jnp.where(mask, out.stress, 0.0)
            return 0.1 * (out.forces**2).sum() + 100.0 * (stress**2).sum() + ((out.energy + 3.0) ** 2).mean()

        return jax.value_and_grad(value, argnums=(0, 1))(params, positions)

    point = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.float64), (case.params, graph.positions))
    _, gradient = loss(*point)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    rng, h = np.random.default_rng(2), 1e-5
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), point)
    slope = sum(float((g * d).sum()) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    values = [float(loss(*jax.tree.map(lambda x, d, q=q: x + h * q * d, point, direction))[0]) for q in STENCIL]
    assert_allclose(np.dot(values, WEIGHTS) / h, slope, rtol=1e-6)


def test_energy_is_smooth_through_the_cutoff(case, request):
    """As one atom of four leaves, energy, force and curvature are continuous where any pair crosses the cutoff."""
    kinks = []
    for c in range(3):
        energy = np.array([case.curves[c, d].energy for d in CROSSING])
        force = np.array([case.curves[c, d].forces[3, 0] for d in CROSSING])
        curvature = np.diff(force) / np.diff(CROSSING)
        inside = (case.curves[c, INSIDE[1]].forces[3, 0] - case.curves[c, INSIDE[0]].forces[3, 0]) / np.diff(INSIDE)[0]
        size = max(abs(inside), np.abs(curvature).max(), 0.1)
        assert_allclose(np.diff(energy), -0.5 * (force[1:] + force[:-1]) * np.diff(CROSSING), atol=1e-9 * size)
        assert np.abs(np.diff(force)).max() <= 1.01 * size * np.diff(CROSSING).max()
        kinks.append(abs(curvature[-1] - curvature[0]) / size)
    if "cosine" in request.node.callspec.params["case"]:
        assert max(kinks) > 3e-3  # the second derivative does jump there: this test sees it
    else:
        assert max(kinks) < 2e-3


def test_an_isolated_atom_has_exactly_e0(case):
    """With empty slots for neighbours, and with none at all. In other programs' models it has an energy of its own."""
    structures = isolated_atoms(case.model.elements)
    bare = evaluate_all(case.model, case.params, structures)
    e0 = e0_of(case.params, case.model)
    for results in (case.isolated, bare):
        for name, want in {"alone": e0[:1], "boxed": e0[-1:], "apart": e0}.items():
            r = results[name]
            if isinstance(case.model, DeepmdModel | N2p2Model | NepModel):
                assert_allclose(r.energies, bare[name].energies, rtol=1e-13)
            else:
                assert (r.energies == want).all()
            assert (r.forces == 0.0).all()
            assert (r.stress == 0.0).all()


def test_descriptors_have_the_number_of_features_they_say(case):
    if not isinstance(case.model, Model):
        pytest.skip("an analytic potential has no descriptors")
    n = len(case.model.elements)
    for slots, atoms in (((3,) * n, (2,) * n), ((0,) * n, (1,) * n)):
        vectors = jax.ShapeDtypeStruct((3, sum(atoms), sum(slots)), jnp.float32)
        of = partial(case.model.descriptors, slots=slots, atoms=atoms)
        d = jax.eval_shape(of, case.params["network"], vectors)
        assert d.shape == (sum(atoms), case.model.config.descriptor.n_features(n))
        assert d.dtype == jnp.float32
