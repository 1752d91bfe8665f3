"""NEP models against the equations evaluated in NumPy, against numbers of their own engine, and back to nep.txt."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import nep_reference as reference
import numpy as np
import pytest
from ase.data import chemical_symbols
from helpers import evaluate, make_potential
from numpy.testing import assert_allclose, assert_array_equal

from adatom.potential.interop import convert
from adatom.potential.interop.nep.reader import read, recognise
from adatom.potential.interop.nep.writer import write
from adatom.potential.model_file import ModelFileError, load, save
from adatom.potential.potential import flatten
from adatom.potential.structure import Structure

NUMBERS = json.loads(Path(__file__).with_name("nep_numbers.json").read_text())
OURS = [*reference.HEADERS, *reference.OLDER]


@pytest.fixture
def nep_txt(tmp_path):
    """A file with a random model of a name, or with the given text."""

    def make(name=None, text=None):
        path = tmp_path / "nep.txt"
        path.write_text(reference.text_of(name) if text is None else text)
        return path

    return make


def structure_of(name):
    symbols, positions, cell = reference.case(name)
    return Structure(np.array([reference.SYMBOLS[s] for s in symbols]), positions, cell, np.ones(3, dtype=bool))


def compare(result, s, energies, forces, virial, rtol):
    assert_allclose(result.energies, energies, rtol=0, atol=rtol * np.abs(energies).max())
    assert_allclose(result.forces, forces, rtol=0, atol=rtol * np.abs(forces).max())
    assert_allclose(result.stress * abs(np.linalg.det(s.cell)), virial, rtol=0, atol=rtol * np.abs(virial).max())


@pytest.mark.parametrize("name", OURS)
def test_the_equations_and_the_engine_say_the_same(name, nep_txt):
    potential, s = read(nep_txt(name)), structure_of(name)
    result = evaluate(potential.model, potential.params, s)
    compare(result, s, *reference.evaluate(reference.text_of(name), *reference.case(name)), rtol=1e-11)
    if name in NUMBERS:
        compare(result, s, *(np.array(NUMBERS[name][k]) for k in ("energies", "forces", "virial")), rtol=1e-10)
    if name == "five-body Si":
        single = evaluate(potential.model, potential.params, s, dtype="float32")
        compare(single, s, result.energies, result.forces, result.stress * abs(np.linalg.det(s.cell)), rtol=3e-6)


@pytest.mark.parametrize("name", reference.PUBLISHED)
def test_published_models(name, shared_data):
    path = shared_data / "models" / "nep" / name
    potential, s = read(path), structure_of(name)
    result = evaluate(potential.model, potential.params, s)
    compare(result, s, *(np.array(NUMBERS[name][k]) for k in ("energies", "forces", "virial")), rtol=1e-10)
    energies, _, _ = reference.evaluate(path.read_text(), *reference.case(name), derivatives=False)
    assert_allclose(result.energies, energies, rtol=1e-11)
    if len(potential.model.elements) > 1:
        single = evaluate(potential.model, potential.params, s, dtype="float32")
        compare(single, s, result.energies, result.forces, result.stress * abs(np.linalg.det(s.cell)), rtol=2e-5)


@pytest.mark.parametrize("name", OURS)
def test_written_and_read_again_nothing_has_changed(name, nep_txt, tmp_path):
    potential = read(nep_txt(name))
    write(potential, tmp_path / "again.txt")
    again = read(tmp_path / "again.txt")
    assert again.model == potential.model
    assert_array_equal(again.statistics.e0, potential.statistics.e0)
    for key, x in flatten(potential.params["network"]).items():
        assert_array_equal(flatten(again.params["network"])[key], x)


@pytest.mark.parametrize("name", ["one network, flexible zbl", "biases of elements, high l"])
def test_energies_of_free_atoms_survive_being_written(name, nep_txt, tmp_path):
    """As training that goes on from a model leaves them: different for every element."""
    potential, s = read(nep_txt(name)), structure_of(name)
    t = len(potential.model.elements)
    moved = dataclasses.replace(potential.statistics, e0=np.array([-3.1, 0.7, 12.0])[:t])
    potential = dataclasses.replace(potential, params={**potential.params, "statistics": moved})
    write(potential, tmp_path / "moved.txt")
    again = read(tmp_path / "moved.txt")
    a, b = (evaluate(p.model, p.params, s) for p in (potential, again))
    assert_allclose(a.energies, b.energies, rtol=0, atol=1e-13)
    assert_allclose(a.forces, b.forces, rtol=0, atol=1e-13)
    own, _, _ = reference.evaluate((tmp_path / "moved.txt").read_text(), *reference.case(name), derivatives=False)
    assert_allclose(a.energies, own, rtol=0, atol=1e-12)


def test_converted_saved_and_loaded(nep_txt, tmp_path):
    """Through the framework: recognised by content, self-test stored, our file, the calculator's evaluator."""
    name = "five-body Si"
    path = nep_txt(name)
    assert convert.recognise(path) == "nep"
    assert recognise(path.parent)
    save(convert.read(path), tmp_path / "model.adatom")
    loaded, s = load(tmp_path / "model.adatom"), structure_of(name)
    assert loaded.golden is not None
    assert loaded.model == read(path).model
    assert_array_equal(evaluate(loaded.model, loaded.params, s).energies, evaluate(loaded.model, read(path).params, s).energies)


def test_models_with_other_numbers_are_a_committee(tmp_path):
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"nep{seed}.txt")
        paths[-1].write_text(reference.text_of("five-body Si", seed))
    committee = convert.read(paths).committee
    assert committee is not None
    assert committee.size == 3
    s = structure_of("five-body Si")
    first = read(paths[0])
    for n, path in enumerate(paths):
        member = {**first.params, "network": jax.tree.map(lambda x, n=n: x[n], committee.members)}
        own = read(path)
        want = evaluate(own.model, own.params, s).energy
        assert_allclose(evaluate(first.model, member, s).energy, want, rtol=1e-12)


def test_elements_that_are_not_there_cost_nothing(nep_txt):
    """The same operations for a structure of one element whether the model knows two or 89."""
    sizes, tail = [], "cutoff 4 3.6 60 60\nn_max 1 1\nbasis_size 1 1\nl_max 2 1 0\nANN 2 0\n"
    for t in (2, 89):
        symbols = [chemical_symbols[z] for z in range(1, t + 1)]
        header = f"nep4 {t} {' '.join(symbols)}\n{tail}"
        count = t * 2 * (8 + 2) + 1 + 2 * t * t * 4 + 8
        rng = np.random.default_rng(0)
        potential = read(nep_txt(text=header + "\n".join(map(repr, rng.normal(size=count).tolist())) + "\n"))
        assert len(potential.model.elements) == t
        slots, atoms = (np.eye(t, dtype=int)[1] * n for n in (12, 5))
        made = jax.make_jaxpr(lambda p, d, m=potential.model, k=tuple(slots), n=tuple(atoms): m.atomic_energies(p, d, k, n))
        sizes.append(len(made(potential.params, jnp.ones((3, 5, 12))).eqns))
    assert sizes[0] == sizes[1]


def test_init_has_the_shapes_of_a_file(nep_txt):
    for name in OURS:
        potential = read(nep_txt(name))
        fresh = jax.eval_shape(potential.model.init, jax.random.key(0))
        a, b = ({k: x.shape for k, x in flatten(tree).items()} for tree in (fresh, potential.params["network"]))
        assert a == b


HEAD = "nep4 1 Si\ncutoff 4 3.6 50 40\nn_max 4 3\nbasis_size 5 4\nl_max 4 2 1\nANN 7 0\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nep4", "nep4_dipole", "nep4_dipole is a model of dipoles, not of energies alone: not supported"),
        ("nep4", "nep3_polarizability", "is a model of polarizabilities"),
        ("nep4", "nep4_zbl_charge2", "is a model of charges"),
        ("nep4", "nep4_vdw", "is a model of van der Waals terms"),
        ("nep4", "nep4_zbl_temperature", "is a model of free energies at a temperature"),
        ("nep4", "nep2", "'nep2' is not supported; known are nep3, nep3_zbl, nep4"),
        ("1 Si", "2 Si", "line 1: 2 elements, but 1 symbols"),
        ("1 Si", "1 Sx", "line 1: 'Sx' is not an element"),
        ("1 Si", "2 Si Si", "the header: an element is named twice"),
        ("4 3.6 50", "4 x 50", "line 2: 'x' is not a number"),
        ("4 3.6 50", "4 50", "line 2: cutoff with 3 values"),
        ("4 3.6 50", "4 -3.6 50", "angular_cutoffs.0: Input should be greater than 0"),
        ("n_max", "nmax", "line 3: n_max expected, found 'nmax'"),
        ("n_max 4", "n_max 40", "n_max.0: Input should be less than or equal to 24"),
        ("l_max 4 2 1", "l_max 4", "line 5: l_max with 1 values"),
        ("l_max 4 2 1", "l_max 4 3 1", "line 5: l_max 4 3 1: after the first number only 0 and 1"),
        ("l_max 4 2 1", "l_max 1 2 1", "222, 1111 need l_max 2, it is 1"),
        ("ANN 7 0", "ANN 7 5", "ANN 7 5: a second hidden layer is not supported"),
        ("ANN 7 0", "ANN 8 0", "numbers must follow this header, 297 do: the file is truncated"),
        ("ANN 7 0", "ANN 6 0", "297 do: the header and the numbers do not belong together"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old, new, message, nep_txt):
    text = reference.text_of("five-body Si")
    assert text.startswith(HEAD)
    with pytest.raises(ModelFileError) as error:
        read(nep_txt(text=text.replace(old, new, 1)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_zbl_must_make_sense(nep_txt):
    text = reference.text_of("one network, flexible zbl").splitlines()
    with pytest.raises(ModelFileError, match="inner cutoffs must be smaller than outer ones"):
        read(nep_txt(text="\n".join([*text[:-10], "3.0", *text[-9:]]) + "\n"))
    with pytest.raises(ModelFileError, match="an outer cutoff, 9, is beyond the angular cutoff"):
        read(nep_txt(text="\n".join([*text[:-9], "9.0", *text[-8:]]) + "\n"))
    text = reference.text_of("biases of elements, high l")
    with pytest.raises(ModelFileError, match="the inner cutoff of zbl, 2, must be smaller than the outer, 1"):
        read(nep_txt(text=text.replace("zbl 1 2", "zbl 2 1")))
    with pytest.raises(ModelFileError, match="the outer cutoff of zbl, 5, is beyond the angular cutoff, 3.4"):
        read(nep_txt(text=text.replace("zbl 1 2", "zbl 1 5")))


def test_other_models_have_no_such_form(tmp_path):
    with pytest.raises(ValueError, match="only a NEP model"):
        write(make_potential(), tmp_path / "nep.txt")
