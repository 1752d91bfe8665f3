"""Models of n2p2 against an independent evaluation by loops, and against n2p2's own numbers."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import n2p2_reference as reference
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from helpers import FAST, awkward_structures, deep_potential, evaluate, evaluate_all, make_params, symmetry_functions
from numpy.testing import assert_allclose

from adatom.fitting import cli
from adatom.md.field import make_field
from adatom.potential import AdatomCalculator
from adatom.potential.evaluator import Evaluator
from adatom.potential.graph import batch, neighbourhood
from adatom.potential.interop.differences import NotTheSameWarning
from adatom.potential.interop.n2p2 import read, write
from adatom.potential.interop.n2p2.compiled import compiled_sums, in_cpp
from adatom.potential.interop.n2p2.config import Gaussian, N2p2Config, Network
from adatom.potential.interop.n2p2.cutoffs import bump, cutoff_function
from adatom.potential.interop.n2p2.model import QuickN2p2
from adatom.potential.interop.n2p2.settings import CORES, CUTOFFS, Settings
from adatom.potential.kernels import build
from adatom.potential.model import FittingNetConfig, Model, ModelConfig
from adatom.potential.model_file import load
from adatom.potential.potential import Potential
from adatom.potential.predict import energies
from adatom.potential.structure import Structure

UNITS = {"length_unit": "bohr", "energy_unit": "hartree"}
MODELS = {
    "Gaussian": {"cutoff": "1 0.2", "kinds": (2, 9, 12)},
    "narrow": {"cutoff": "6", "kinds": (3, 13, 24), "scaling": "scale", "activations": "s g l", "normalize": True},
    "compact, wide": {"kinds": (20, 22, 23, 25), "scaling": "sigma", "activations": "c r h"},
    "compact, narrow": {"kinds": (20, 21), "scaling": "center", "activations": "e S l", "conv": False},
    "radial": {"cutoff": "0", "kinds": (2,), "scaling": "", "activations": "p t", "conv": False},
}


def atomic(potential, structures):
    """Energies without E0 and species of all atoms of several structures, with padding; no forces, which compile slowly."""
    near = [neighbourhood(s, potential.model.elements, potential.model.cutoff) for s in structures]
    graph, rows = batch(near, atom_capacity=np.sum([x.atom_counts for x in near], axis=0) + 1)
    run = jax.jit(partial(energies, potential.model, dtype=jnp.float64), compiler_options=FAST)
    return np.asarray(run(potential.params, graph, positions=graph.positions))[rows], np.concatenate([x.species for x in near])


@pytest.mark.parametrize("kind", CUTOFFS)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_cutoff_functions(kind, alpha):
    """Their closed forms, to 1e-12, the rounding of those; beyond the cutoff nothing, and no slope or curvature."""
    r = np.concatenate([np.linspace(0.0, 5.0, 101)[:-1], [4.9999999, 5.0, 7.0]])
    want = [reference.cutoff(x, 5.0, CUTOFFS.index(kind), alpha) for x in r]
    assert_allclose(cutoff_function(jnp.asarray(r), 5.0, kind, alpha), want, rtol=1e-13, atol=1e-12)
    slope = jax.grad(lambda x: cutoff_function(x, 5.0, kind, alpha))
    for x in (5.0, 7.0):
        assert slope(x) == 0.0
        assert jax.grad(slope)(x) == 0.0
    for x in (1.0, 3.0, 4.99) if kind != "hard" else ():
        difference = (reference.cutoff(x + 1e-5, 5.0, CUTOFFS.index(kind), alpha) - want_at(x - 1e-5, kind, alpha)) / 2e-5
        assert_allclose(slope(x), difference, rtol=1e-6, atol=1e-7)


def want_at(x, kind, alpha):
    return reference.cutoff(x, 5.0, CUTOFFS.index(kind), alpha)


@pytest.mark.parametrize("name", [*CORES, "p1a", "p2a", "p3a", "p4a"])
def test_bumps(name):
    a = np.linspace(-1.0, 7.0, 97)
    kind, asymmetric = CORES[name.removesuffix("a")], name.endswith("a")
    want = [reference.compact(x, -0.5, 6.1, name) for x in a]
    assert_allclose(bump(jnp.asarray(a), -0.5, 6.1, kind, asymmetric=asymmetric), want, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_energies_are_those_of_loops_over_triplets(name, tmp_path):
    """Of every atom, to 1e-12 of the largest energy of a network."""
    model = reference.make(len(name), **MODELS[name])
    potential = read(reference.write(model, tmp_path), **UNITS)
    structures = [awkward_structures((8, 1))[k] for k in ("left-handed", "molecule")]
    got, species = atomic(potential, structures)
    want = []
    for s in structures:
        symbols = ["H" if z == 1 else "O" for z in s.numbers]
        cell = s.cell / reference.BOHR if s.pbc.all() else None
        want.append(reference.energies(model, symbols, s.positions / reference.BOHR, cell) * reference.HARTREE)
    want = np.concatenate(want) - potential.statistics.e0[species]
    assert np.ptp(want) > 1e-3
    # E0 of a few thousand eV is added on the other side
    assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max() + 1e-15 * np.abs(potential.statistics.e0).max())


def test_shorthands_are_the_functions_spelled_out(tmp_path):
    """RuNNer's lines for one element or all, against the same model with every function in a line of its own."""
    full = [
        *(f"symfunction_short {a} 2 {b} 0.2 1.0 6.0" for a in "HO" for b in "HO"),
        *(f"symfunction_short O 9 {pair} 0.01 -1 2 5.5" for pair in ("H H", "O H", "O O")),
        *(f"symfunction_short {a} 3 {pair} 0.1 1.0 4.0 6.3" for a in "HO" for pair in ("H H", "O H", "O O")),
        "symfunction_short H 2 O 0.7 0.0 5.0", "symfunction_short O 2 O 0.7 0.0 5.0",
    ]  # fmt: skip
    short = [
        "global_symfunction_short 2 0.2 1.0 6.0", "element_symfunction_short O 9 0.01 -1 2 5.5 # of O",
        "global_symfunction_short_atomic 3 0.1 1.0 4.0 6.3", *full[-2:],
    ]  # fmt: skip
    found = []
    for lines in (full, short):
        (tmp_path / "input.nn").write_text("\n".join(["elements O H", *lines]))
        found.append(Settings(tmp_path / "input.nn").functions((1, 8), 1.0))
    assert found[0] == found[1]
    assert [len(x) for x in found[0]] == [6, 9]


@pytest.fixture(scope="module")
def cpp():
    """Skips where nothing can be compiled."""
    if build.compiled("triplets").library is None:
        pytest.skip(f"no kernel on this machine: {build.compiled('triplets').why}")


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("kind", CUTOFFS)
def test_triplets_in_cpp_are_those_of_loops(kind):
    """Of one element and of two, pairs inside and beyond the cutoffs; gradients against differences of the sums themselves."""
    lines = ["H 3 H O 0.05 -1 4 3.9 0.7", "H 3 H O 0.05 1 1 3.9 0.7", "H 9 H O 0.1 -1 16 4.0", "H 13 0.1 0.3 0.5 3 3.7"]
    rng, symbols = np.random.default_rng(len(kind)), ["H"] * 7 + ["O"] * 19
    vectors = rng.normal(size=(3, 2, 26)) * 2.0
    config = N2p2Config(
        elements=(1, 8), functions=2 * ((Gaussian(kind=2, neighbours=(1,), eta=1.0, cutoff=4.0),),),
        networks=2 * (Network(widths=(), activations=("l",)),), cutoff_type=kind, cutoff_alpha=0.2,
    )  # fmt: skip
    for columns, pair in (((slice(0, 7), slice(7, 26)), "H O"), ((slice(7, 26), slice(7, 26)), "O O")):
        words = [x.replace("H O", pair).split() for x in lines]
        functions = []
        for w in words:
            x = list(map(float, w[2 if w[1] == "13" else 4 :]))
            eta, shift, sign, zeta, cutoff = x if w[1] == "13" else (x[0], (x[4:] or [0.0])[0], *x[1:4])
            near = () if w[1] == "13" else tuple(sorted(atomic_numbers[z] for z in w[2:4]))
            form = {"eta": eta, "shift": shift, "sign": sign, "zeta": zeta, "cutoff": cutoff}
            functions.append(Gaussian(kind=int(w[1]), neighbours=near, **form))
        assert all(in_cpp(f) for f in functions)
        run = jax.jit(lambda v, c=columns, f=functions: compiled_sums(v, c, f, config))
        got = np.asarray(run(vectors))
        t, u = columns
        for i in range(2):
            sides = [[(z, d) for z, d in zip(symbols[c], vectors[:, i, c].T, strict=True)] for c in (t, u)]
            for q, w in enumerate(words):
                alpha = CUTOFFS.index(kind), 0.2
                both = sides[0] if t == u else [*sides[0], *sides[1]]
                want = reference.function(w, both, alpha)
                if w[1] == "13" and t != u:  # every pair of all elements: the others off, and those here not times Z
                    want -= sum(reference.function(w, side, alpha) for side in sides)
                if w[1] == "13":
                    want /= np.prod([reference.Z[z] for z in pair.split()])
                assert_allclose(got[i, q], want, rtol=1e-11, atol=1e-13)
        assert np.abs(got).min() > 1e-9
        weights = rng.normal(size=got.shape)
        gradient = np.asarray(jax.jit(jax.grad(lambda v, r=run, w=weights: (w * r(v)).sum()))(vectors))
        far = np.linalg.norm(vectors, axis=0) > 4.0
        assert far.any()
        assert not gradient[:, far].any()
        for _ in range(12):
            place, h = (rng.integers(3), rng.integers(2), rng.integers(26)), 1e-5
            step = np.zeros_like(vectors)
            step[place] = h
            slope = ((weights * run(vectors + step)).sum() - (weights * run(vectors - step)).sum()) / (2.0 * h)
            assert_allclose(gradient[place], slope, rtol=1e-6, atol=1e-7 * np.abs(gradient).max())


@pytest.mark.usefixtures("cpp")
def test_calculator_and_md_sum_triplets_in_cpp(tmp_path):
    """With a skin, padding and blocks of atoms: the model's own numbers."""
    potential = read(reference.write(reference.make(1, cutoff="1", kinds=(3, 13)), tmp_path), **UNITS)
    s = awkward_structures((8, 1))["triclinic"]
    exact = evaluate(potential.model, potential.params, s)
    evaluator = Evaluator(potential, precision="float64", block=2)
    assert isinstance(evaluator.compression, QuickN2p2)
    quick = evaluator(s)
    assert_allclose(quick.forces, exact.forces, rtol=0, atol=1e-12 * np.abs(exact.forces).max())
    assert_allclose(quick.stress, exact.stress, rtol=0, atol=1e-12 * np.abs(exact.stress).max())
    assert isinstance(make_field(potential, precision="float64").fast_model, QuickN2p2)


def test_all_of_it_again_after_writing(tmp_path):
    """Read, written in Å and eV, read: the same energies, and the same files when it is written once more."""
    first = read(reference.write(reference.make(3, **MODELS["narrow"]), tmp_path / "a"), **UNITS)
    write(first, tmp_path / "b")
    again = read(tmp_path / "b")
    write(again, tmp_path / "c")
    for name in ("input.nn", "scaling.data", "weights.001.data", "weights.008.data"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    assert again.model == first.model
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(again.params), strict=True):
        assert_allclose(a, b, rtol=1e-15)


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_our_own_symmetry_functions_are_written_for_n2p2(kind, tmp_path):
    """Elements in another order, mean and spread, shift and scale: the same energies from what n2p2 would read."""
    descriptor = symmetry_functions(angular_kind=kind, n_radial=2, n_angular=1, cutoff_function="cosine")
    net = FittingNetConfig(widths=(5, 4), activation="tanh")
    full = Model(ModelConfig(elements=(8, 1), descriptor=descriptor, fitting_net=net))
    params = make_params(full, min_distance=0.5)
    with pytest.warns(NotTheSameWarning, match="in n2p2 atoms without neighbours have not E0, and there is no nuclear repulsion"):
        write(Potential(full, params), tmp_path)
    potential = Potential(Model(full.config.model_copy(update={"repulsion": False, "isolated_limit": False})), params)
    other = read(tmp_path)
    structures = [awkward_structures((8, 1))[k] for k in ("left-handed", "one element")]
    assert other.symbols == ("H", "O")
    e0 = np.asarray(potential.statistics.e0)
    (got, _), (want, species) = (atomic(p, structures) for p in (other, potential))
    assert_allclose(other.statistics.e0, e0[::-1], rtol=1e-15)
    assert np.ptp(want[species == 0]) > 1e-3
    assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"fitting_net": FittingNetConfig(widths=(5, 4))}, "it has activation = 'silu'"),
        ({"fitting_net": FittingNetConfig(widths=(5, 10), activation="tanh")}, "a residual connection, .* 5 to 10 have"),
        ({"descriptor": deep_potential()}, "its descriptor is deep_potential"),
    ],
)
def test_what_n2p2_cannot_have_is_refused(settings, why, tmp_path):
    tanh = FittingNetConfig(widths=(5, 4), activation="tanh")
    form = {"elements": (14,), "descriptor": symmetry_functions()}
    model = Model(ModelConfig(**({"fitting_net": tanh} | form | settings)))
    with pytest.raises(ValueError, match=f"^n2p2 has no form for this potential: .*{why}"):
        write(Potential(model, {}), tmp_path)


NUMBERS = json.loads(Path(__file__).with_name("n2p2_numbers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*reference.MODELS, *reference.PUBLISHED])
def test_energies_and_forces_are_those_of_n2p2(name, request, tmp_path):
    """Energies and forces to 1e-10 of the largest energy of a network and the largest force."""
    if name in reference.PUBLISHED:
        folder = request.getfixturevalue("shared_data") / "models" / "n2p2" / name
    else:
        number = list(reference.MODELS).index(name)
        folder = reference.write(reference.make(number, **reference.MODELS[name]), tmp_path)
    potential = read(folder, **UNITS)
    model, params, want = potential.model, potential.params, NUMBERS[name]
    given = {}
    for key, symbols, positions, cell in reference.structures(name):
        numbers, box = np.array([atomic_numbers[s] for s in symbols]), np.zeros((3, 3)) if cell is None else cell
        given[key] = Structure(numbers, positions * reference.BOHR, box * reference.BOHR, np.full(3, cell is not None))
    assert set(given) == set(want)
    for key, got in evaluate_all(model, params, given).items():
        e0 = np.asarray(potential.statistics.e0)[[model.elements.index(z) for z in given[key].numbers]]
        energy, spread = want[key]["energy"] * reference.HARTREE, np.abs(got.energies - e0).max()
        assert_allclose(got.energy, energy, rtol=0, atol=1e-10 * spread + 1e-15 * abs(energy))
        if key != reference.SMALL:
            forces = np.array(want[key]["forces"]) * (reference.HARTREE / reference.BOHR)
            assert np.abs(forces).max() > 1e-5
            assert_allclose(got.forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())


def test_converted_on_the_command_line(tmp_path, capsys):
    """Two models to a committee in a file of ours, the calculator with it, and back; units are asked for."""
    folders = [str(reference.write(reference.make(n, kinds=(2,)), tmp_path / str(n))) for n in (0, 1)]
    out, units = tmp_path / "model.adatom", ["--length-unit", "bohr", "--energy-unit", "hartree"]
    assert cli.main(["convert", folders[0], "-o", str(out)]) == 2
    assert "give --length-unit (angstrom or bohr)" in capsys.readouterr().err
    assert cli.main(["convert", *folders, "-o", str(out), *units]) == 0
    assert "n2p2 model for H, O" in capsys.readouterr().out
    potential, first = load(out), read(folders[0], **UNITS)
    assert potential.committee is not None
    assert potential.model == first.model
    s = awkward_structures((8, 1))["triclinic"]
    atoms = Atoms(numbers=s.numbers, positions=s.positions, cell=s.cell, pbc=s.pbc)
    atoms.calc = AdatomCalculator(out, dtype="float64")
    want, species = atomic(first, [s])
    assert_allclose(atoms.get_potential_energies(), want + first.statistics.e0[species], rtol=1e-13)
    assert cli.main(["convert", str(out), "--to", "n2p2", "-o", str(tmp_path / "back")]) == 0
    assert read(tmp_path / "back").model == first.model
