"""What several tests need: small models with random weights, awkward structures, evaluation without a Verlet list."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from scipy.interpolate import CubicSpline

from adatom.potential.descriptors import DeepPotentialConfig, SymmetryFunctionsConfig
from adatom.potential.graph import batch, neighbourhood
from adatom.potential.interop.deepmd.config import DeepmdConfig, SeA, SeAtten, SeR, SeT, Standard, Switch, Table
from adatom.potential.interop.deepmd.model import DeepmdModel, constant_shapes
from adatom.potential.interop.n2p2.config import Compact, Gaussian, N2p2Config, Network
from adatom.potential.interop.n2p2.config import order as n2p2_order
from adatom.potential.interop.n2p2.model import N2p2Model
from adatom.potential.interop.nep.config import NepConfig, ZblConfig
from adatom.potential.interop.nep.model import NepModel
from adatom.potential.model import FittingNetConfig, Model, ModelConfig, Statistics
from adatom.potential.potential import Golden, Potential
from adatom.potential.predict import predict
from adatom.potential.structure import Structure

CUTOFF = 4.0


def symmetry_functions(**settings):
    few = {"cutoff": CUTOFF, "n_radial": 4, "n_angular": 2, "zetas": (1.0, 3.0)}
    return SymmetryFunctionsConfig(**(few | settings))


def deep_potential(**settings):
    small = {"cutoff": CUTOFF, "smooth_cutoff": 1.0, "embedding_net": (3, 6), "axis": 2, "typical_neighbours": 10.0}
    return DeepPotentialConfig(**(small | settings))


def make_model(elements, descriptor=None, widths=(6, 6)):
    config = ModelConfig(
        elements=elements, descriptor=descriptor or symmetry_functions(), fitting_net=FittingNetConfig(widths=widths)
    )
    return Model(config)


def make_params(model, seed=0, min_distance=0.9):
    """Random weights and statistics, none of them zero or one. `min_distance` is a typical shortest distance in Å."""
    rng = np.random.default_rng(seed)
    t, f = len(model.elements), model.config.descriptor.n_features(len(model.elements))
    distance = min_distance * rng.uniform(0.9, 1.1, (t, t))
    statistics = Statistics(
        e0=rng.uniform(-100.0, -1.0, t),
        shift=rng.uniform(-2.0, 2.0, t),
        scale=rng.uniform(0.5, 1.5, t),
        feature_mean=rng.uniform(0.0, 0.5, (t, f)),
        feature_std=rng.uniform(0.3, 1.0, (t, f)),
        min_distance=0.5 * (distance + distance.T),
    )
    return {"network": random_weights(model, rng), "statistics": statistics}


def random_weights(model, rng):
    """As `Model.init`, with biases too, drawn by NumPy: nothing has to be compiled."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda x: rng.normal(0.0, 1.0 / np.sqrt(x.shape[0]) if len(x.shape) > 1 else 0.1, x.shape).astype(x.dtype), shapes
    )


def deepmd_model(elements):
    """A hybrid of the descriptors without attention, with time steps, padding that counts."""
    common = {"cutoff": CUTOFF, "smooth_cutoff": 1.0, "sel": (12,) * len(elements), "neuron": (2, 4), "resnet_dt": True}
    parts = (
        SeA(**common, axis=2, one_side=True),
        SeR(**{**common, "cutoff": 3.0}, activation="silu"),
        SeT(**{**common, "neuron": (2,)}),
    )
    term = Standard(descriptors=parts, widths=(4, 4))
    return DeepmdModel(DeepmdConfig(elements=elements, terms=(term,)))


def deepmd_small(elements):
    """DeepPot-SE alone."""
    part = SeA(cutoff=CUTOFF, smooth_cutoff=1.0, sel=(20,) * len(elements), neuron=(2, 4), axis=2, one_side=True)
    return DeepmdModel(DeepmdConfig(elements=elements, terms=(Standard(descriptors=(part,), widths=(4,)),)))


def deepmd_attention(elements):
    """DPA-1 with a table for short distances."""
    part = SeAtten(
        cutoff=CUTOFF, smooth_cutoff=1.0, sel=(40,), neuron=(2, 4), padded=False, axis=2, one_side=False, tebd_dim=2, strip=True,
        smooth=True, concat=True, attention_layers=1, attention_width=3, attention_dotr=True, attention_scale=0.5,
        attention_normalize=True, layer_norm_eps=1e-5,
    )  # fmt: skip
    terms = (
        Standard(descriptors=(part,), widths=(4,), mixed=True),
        Table(cutoff=CUTOFF, start=0.0, step=1.0, splines=4, sel=20),
    )
    switch = Switch(inner=0.8, outer=2.2, alpha=0.1)
    return DeepmdModel(DeepmdConfig(elements=elements, terms=terms, weights=(1.0, 1.0), switch=switch))


def deepmd_params(model, seed=0):
    """Random weights, statistics without direction and a smooth table that ends at zero."""
    rng, t = np.random.default_rng(seed), len(model.elements)
    network = random_weights(model, rng)
    constants = jax.tree.map(np.zeros, constant_shapes(model.config), is_leaf=lambda x: isinstance(x, tuple))
    constants["offset"] = rng.normal(size=t)
    for a, term in enumerate(model.config.terms):
        if isinstance(term, Table):
            r = term.start + term.step * np.arange(5)
            curve = CubicSpline(r, 3.0 * (1.0 - r / r[-1]) ** 3, bc_type="natural").c[::-1].T  # a0 + a1 u + …
            size = rng.uniform(0.5, 1.0, (t, t))
            constants[f"term_{a}"]["splines"] = (size + size.T)[:, :, None, None] * curve[:, ::-1]
            continue
        for b, d in enumerate(term.descriptors):
            part = constants[f"term_{a}"][f"part_{b}"]
            part["davg"][:, :, 0] = rng.uniform(0.02, 0.1, (t, t)) * d.padded
            part["dstd"][...] = rng.uniform(0.2, 0.5, (t, t, 1))
            part["dstd"][:, :, 0] = rng.uniform(0.2, 0.5, (t, t)) if d.padded else part["dstd"][:, :1, 0]
            part["dstd"][...] = part["dstd"] if d.padded else part["dstd"][:, :1]
    statistics = Statistics(
        rng.uniform(-100.0, -1.0, t), np.zeros(t), np.ones(t), np.zeros((t, 1)), np.ones((t, 1)), np.zeros((t, t))
    )
    return {"network": {**network, "constants": constants}, "statistics": statistics}


def nep_model(elements):
    """All terms up to five bodies, cutoffs that differ between elements, universal ZBL."""
    t = len(elements)
    return NepModel(
        NepConfig(
            elements=elements, radial_cutoffs=(CUTOFF,) + (3.7,) * (t - 1), angular_cutoffs=(3.5,) + (3.3,) * (t - 1),
            n_max=(2, 1), basis_size=(3, 2), l_max=2, invariants=("222", "1111", "112"), neurons=5,
            zbl=ZblConfig(inner=0.8, outer=2.1),
        )
    )  # fmt: skip


def nep_params(model, seed=0):
    """Random weights and energies of free atoms."""
    rng, t = np.random.default_rng(seed), len(model.elements)
    network = random_weights(model, rng)
    constants = {"scaler": rng.uniform(0.1, 0.3, model.config.n_features), "offset": rng.normal(size=t)}
    e0, one, none = rng.uniform(-100.0, -1.0, t), np.ones((t, 1)), np.zeros((t, 1))
    statistics = Statistics(e0, np.zeros(t), np.ones(t), none, one, np.zeros((t, t)))
    return {"network": {**network, "constants": constants}, "statistics": statistics}


def n2p2_model(elements):
    """A function of each way to sum: radial and weighted, moments, triplets wide and narrow, of compact support."""
    a, b = sorted(elements)
    functions = (
        Gaussian(kind=2, neighbours=(a,), eta=0.5, shift=1.1, cutoff=CUTOFF),
        Compact(kind=23, inner=-3.9, cutoff=3.9, core="poly2", asymmetric=True),
        Gaussian(kind=9, neighbours=(a, b), eta=0.1, shift=0.6, sign=-1.0, zeta=2.0, cutoff=3.8),
        Gaussian(kind=3, neighbours=(a, b), eta=0.2, sign=1.0, zeta=2.7, cutoff=CUTOFF),
        Gaussian(kind=13, eta=0.3, sign=-1.0, zeta=4.0, cutoff=3.7),
        Compact(kind=22, neighbours=(b, b), inner=0.2, cutoff=CUTOFF, left=20.0, right=150.0, core="exp"),
    )
    net = Network(widths=(5, 4), activations=("t", "p", "l"))
    ordered = tuple(sorted(functions, key=n2p2_order))
    return N2p2Model(
        N2p2Config(
            elements=(a, b), functions=(ordered, ordered), networks=(net, net), cutoff_type="poly2", cutoff_alpha=0.1,
            scaling="scale_center", scale_min=-0.2,
        )
    )  # fmt: skip


def n2p2_params(model, seed=0):
    """Random weights, energies of free atoms and ranges of symmetry functions as wide as theirs are."""
    rng, t = np.random.default_rng(seed), len(model.elements)
    network = random_weights(model, rng)
    size = [60.0 if not f.neighbours else 1.0 for f in model.config.functions[0]]
    for z in model.elements:
        table = np.stack([0.0 * rng.random(6), rng.uniform(1.0, 2.0, 6), rng.uniform(0.2, 0.6, 6), rng.random(6)], axis=1)
        network["constants"][chemical_symbols[z]] = table * np.array(size)[:, None]
    network["constants"] |= {"offset": rng.normal(size=t), "energy": np.array(0.7)}
    e0, one, none = rng.uniform(-100.0, -1.0, t), np.ones((t, 1)), np.zeros((t, 1))
    return {"network": network, "statistics": Statistics(e0, np.zeros(t), np.ones(t), none, one, np.zeros((t, t)))}


def make_potential(elements=(14,), descriptor=None, seed=0, golden=False, **settings):
    """A small potential with random weights; with `golden`, one that carries the self-test."""
    model = make_model(elements, descriptor)
    potential = Potential(model, make_params(model, seed, **settings), {"note": "random weights"})
    if golden:
        s = awkward_structures(elements, seed)["triclinic"]
        out = evaluate(model, potential.params, s)
        potential = dataclasses.replace(potential, golden=Golden(s, out.energy, out.forces))
    return potential


def awkward_structures(elements, seed=0):
    """Few atoms in every kind of cell, none of them convenient; the first element is alone in one of them."""
    rng = np.random.default_rng(seed)
    elements = np.array(elements)
    triclinic = np.array([[5.1, 0.3, -0.4], [1.9, 4.6, 0.2], [-1.1, 0.7, 5.6]])
    small = np.array([[2.1, 0.1, 0.0], [0.9, 2.3, -0.2], [0.3, -0.6, 2.6]])
    slab = np.array([[3.9, 0.2, 0.1], [-0.8, 4.4, 0.3], [0.0, 0.0, 0.0]])
    wire = np.array([[0.0, 0.0, 0.0], [0.4, 3.1, 0.3], [0.0, 0.0, 0.0]])
    cases = {
        "triclinic": (5, triclinic, (True, True, True)),
        "left-handed": (4, triclinic[[1, 0, 2]] * 0.9, (True, True, True)),
        "small": (2, small, (True, True, True)),
        "slab": (4, slab, (True, True, False)),
        "wire": (3, wire, (False, True, False)),
        "molecule": (4, np.zeros((3, 3)), (False, False, False)),
        "one element": (3, triclinic * 0.8, (True, True, True)),
    }
    structures = {}
    for name, (n, cell, pbc) in cases.items():
        pbc = np.array(pbc)
        box = np.where(pbc[:, None], cell, 3.2 * np.eye(3))
        positions = _spread(rng, n, box, cell * pbc[:, None])
        species = np.zeros(n, dtype=int) if name == "one element" else rng.permutation(np.arange(n) % len(elements))
        structures[name] = Structure(elements[species], positions, cell, pbc)
    return structures


def _spread(rng, n, box, lattice, least=1.3):
    """n random points in a box, the best of many in keeping their distance from each other and their images."""
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ lattice
    best, score = None, -1.0
    for _ in range(400):
        r = rng.uniform(0.0, 1.0, (n, 3)) @ box
        d = np.linalg.norm(r[None, :, None] - r[:, None, None] + grid, axis=-1)
        nearest = d[d > 1e-9].min(initial=9.0)
        if nearest > score:
            best, score = r, nearest
        if score > least:
            break
    return best


@dataclasses.dataclass(frozen=True)
class Result:
    """What `predict` says about one structure, atoms in the structure's own order."""

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    stress: np.ndarray


# compiling is most of the work here; what users run is compiled in full in the tests of the evaluator
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@partial(jax.jit, static_argnames=("model", "dtype", "block"), compiler_options=FAST)
def run(model, params, e0, graph, dtype="float64", block=None):
    return predict(model, params, graph, e0=e0, dtype=jnp.dtype(dtype), block=block)


def e0_of(params, model):
    """E0 per species; analytic potentials have none."""
    return np.asarray(params["statistics"].e0) if params else np.zeros(len(model.elements))


def evaluate_all(model, params, structures, *, dtype="float64", block=None, **capacities):
    """Many structures in one graph: a list of results, or a dict where a dict is given."""
    if isinstance(structures, dict):
        results = evaluate_all(model, params, list(structures.values()), dtype=dtype, block=block, **capacities)
        return dict(zip(structures, results, strict=True))
    graph, rows = batch([neighbourhood(s, model.elements, model.cutoff) for s in structures], **capacities)
    out = run(model, params, e0_of(params, model), graph, dtype, block)
    energies, forces = np.asarray(out.atomic_energies)[rows], np.asarray(out.forces, dtype=float)[rows]
    stops = np.cumsum([len(s) for s in structures])[:-1]
    return [
        Result(float(out.energy[n]), e, f, np.asarray(out.stress[n]))
        for n, (e, f) in enumerate(zip(np.split(energies, stops), np.split(forces, stops), strict=True))
    ]


def evaluate(model, params, structure, **settings):
    return evaluate_all(model, params, [structure], **settings)[0]


def rotation(seed):
    """A random proper rotation."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def strained(s, strain):
    """r -> r(1 + ε), cell -> cell(1 + ε)."""
    f = np.eye(3) + strain
    return dataclasses.replace(s, positions=s.positions @ f, cell=s.cell @ f)
