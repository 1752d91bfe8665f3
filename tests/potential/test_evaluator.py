"""Structure after structure with a Verlet list: always what a fresh evaluation gives, and no compilation in steady state."""

import dataclasses
import gc
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from ase.build import bulk
from helpers import awkward_structures, deep_potential, evaluate, make_potential, strained, symmetry_functions
from numpy.testing import assert_allclose

from adatom.potential import Evaluator, ExtrapolationWarning, Structure, from_atoms
from adatom.potential import evaluator as evaluator_module

RADIAL = symmetry_functions(n_angular=0)


@pytest.fixture(scope="module")
def silicon():
    return make_potential((14,), RADIAL)


@pytest.fixture(scope="module")
def water():
    return make_potential((8, 1), RADIAL)


def crystal(seed=0, repeat=(2, 2, 1), a=5.4):
    atoms = bulk("Si", a=a, cubic=True) * repeat
    atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=atoms.positions.shape)
    return from_atoms(atoms)


def assert_same(got, want):
    assert_allclose(got.energy, want.energy, rtol=1e-12)
    assert_allclose(got.energies, want.energies, rtol=1e-12)
    assert_allclose(got.forces, want.forces, atol=1e-10)
    if want.stress is not None:
        assert_allclose(got.stress, want.stress, atol=1e-13)


def walk(evaluator, fresh, structures):
    for s in structures:
        assert_same(evaluator(s), fresh(s))


def test_random_walk(silicon):
    """Skin kept over many steps, atoms leave the cell on all sides; a list without skin is made anew each time."""
    rng, s = np.random.default_rng(0), crystal()
    evaluator, fresh = Evaluator(silicon, precision="float64", skin=0.6), Evaluator(silicon, precision="float64", skin=0.0)
    steps = []
    for _ in range(60):
        s = dataclasses.replace(s, positions=s.positions + rng.normal(scale=0.025, size=s.positions.shape))
        steps.append(s)
    walk(evaluator, fresh, steps)
    assert 2 <= evaluator.n_builds <= 30
    assert fresh.n_builds == 60


def test_cell_changes_as_in_constant_pressure(silicon):
    """Sheared, stretched and compressed a little at a time, atoms along with the cell and moving in it."""
    rng, s = np.random.default_rng(1), crystal()
    evaluator, fresh = Evaluator(silicon, precision="float64", skin=0.5), Evaluator(silicon, precision="float64", skin=0.0)
    steps = []
    for n in range(60):
        drift = 0.004 * np.array([[1, 0.5, 0], [0, -1, 0.7], [0.3, 0, 1 if n < 30 else -2]])
        s = strained(s, drift + rng.normal(scale=0.002, size=(3, 3)))
        s = dataclasses.replace(s, positions=s.positions + rng.normal(scale=0.01, size=s.positions.shape))
        steps.append(s)
    walk(evaluator, fresh, steps)
    assert 2 <= evaluator.n_builds <= 30


def test_one_shock_is_enough_to_rebuild(silicon):
    s = crystal(repeat=(2, 1, 1))
    evaluator, fresh = Evaluator(silicon, precision="float64", skin=0.5), Evaluator(silicon, precision="float64", skin=0.0)
    squeezed = strained(s, np.diag([-0.15, 0.0, 0.0]))
    moved = dataclasses.replace(s, positions=np.where(np.arange(len(s))[:, None] == 3, s.positions + 0.3, s.positions))
    sheared = dataclasses.replace(s, cell=s.cell + [[0, 0, 0], [0, 0, 0], [0.9, 0, 0]])
    walk(evaluator, fresh, [s, squeezed, s, moved, s, sheared])
    assert evaluator.n_builds == 5  # stretching back brings nothing nearer


def test_positions_changed_in_place_are_seen(silicon):
    """The list is measured from a copy, not from the array that the caller goes on changing."""
    s = crystal(repeat=(2, 1, 1))
    evaluator, fresh = Evaluator(silicon, precision="float64", skin=0.3), Evaluator(silicon, precision="float64", skin=0.0)
    for _ in range(8):
        s.positions[:4] += 0.07
        s.positions[4:] -= 0.05
        walk(evaluator, fresh, [dataclasses.replace(s)])
        assert_same(evaluator(s), fresh(dataclasses.replace(s, positions=s.positions.copy())))
    assert evaluator.n_builds > 1


@pytest.mark.parametrize("name", ["slab", "wire", "molecule", "small"])
def test_any_cell_with_skin_is_as_without(water, name):
    s = awkward_structures((8, 1))[name]
    rng = np.random.default_rng(2)
    evaluator, fresh = Evaluator(water, precision="float64", skin=1.0), Evaluator(water, precision="float64", skin=0.0)
    steps = [dataclasses.replace(s, positions=s.positions + rng.normal(scale=0.03, size=s.positions.shape)) for _ in range(4)]
    walk(evaluator, fresh, [s, *steps])
    assert evaluator.n_builds == 1


def test_capacity_grows_where_neighbours_exceed_it(silicon):
    """Compressed to half its volume step by step and let go again: capacities only grow, results stay right."""
    s = crystal(repeat=(2, 1, 1))
    evaluator, fresh = Evaluator(silicon, precision="float64", skin=0.4), Evaluator(silicon, precision="float64", skin=0.0)
    steps = [strained(s, -x * np.eye(3)) for x in (0.0, 0.05, 0.1, 0.15, 0.2, 0.1, 0.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        walk(evaluator, fresh, steps)
    assert 2 <= evaluator.n_shapes <= 5
    widest = evaluator.n_shapes
    walk(evaluator, fresh, steps[:3])
    assert evaluator.n_shapes == widest


def test_other_atoms_in_the_same_evaluator(water):
    """Another composition, order, number of atoms, periodicity: never the old list."""
    structures = awkward_structures((8, 1))
    evaluator = Evaluator(water, precision="float64")
    for name in ("molecule", "triclinic", "one element"):
        s = structures[name]
        swapped = dataclasses.replace(s, numbers=s.numbers[::-1].copy())
        for x in (s, swapped):
            want = evaluate(water.model, water.params, x)
            got = evaluator(x)
            assert_allclose(got.energies, want.energies, rtol=1e-11)
            assert_allclose(got.forces, want.forces, atol=1e-10)


def test_blocks_of_any_size_give_the_same(silicon):
    s = crystal(repeat=(2, 2, 1))
    want = Evaluator(silicon, precision="float64", block=None)(s)
    for block in (5, 32):
        assert_same(Evaluator(silicon, precision="float64", block=block)(s), want)


def test_steady_state_never_compiles(silicon):
    """Forty steps with several new neighbour lists: not one compilation after the first step."""
    rng, s = np.random.default_rng(3), crystal(repeat=(1, 1, 1))
    evaluator = Evaluator(silicon, skin=0.3)
    evaluator(s)
    before = evaluator_module._predict._cache_size()
    for _ in range(40):
        s = dataclasses.replace(s, positions=s.positions + rng.normal(scale=0.02, size=s.positions.shape))
        s = strained(s, rng.normal(scale=0.001, size=(3, 3)))
        evaluator(s)
    assert evaluator.n_builds > 3
    assert evaluator_module._predict._cache_size() == before
    assert evaluator.n_shapes == 1


def test_closer_than_the_data_ever_saw_warns_once_and_again_when_worse(silicon):
    least = float(silicon.statistics.min_distance[0, 0])
    evaluator = Evaluator(silicon)

    def dimer(r):
        return Structure(np.array([14, 14]), np.array([[0.0, 0, 0], [0, 0, r]]), np.zeros((3, 3)), np.zeros(3, dtype=bool))

    evaluator(dimer(least + 0.01))
    with pytest.warns(ExtrapolationWarning, match=r"atom 0 \(Si\) has a Si at 0.7\d Å.*they go down to 0.\d\d Å"):
        evaluator(dimer(0.75))
    evaluator(dimer(0.74))
    with pytest.warns(ExtrapolationWarning):
        evaluator(dimer(0.6))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_coincident_atoms_are_an_error(silicon, precision):
    s = crystal(repeat=(1, 1, 1))
    positions = s.positions.copy()
    positions[5] = positions[2] + s.cell[0]
    with pytest.raises(ValueError, match=r"on top of each other: 2 \(Si\), 5 \(Si\); their closest neighbour is 0\.0000"):
        Evaluator(silicon, precision=precision)(dataclasses.replace(s, positions=positions))


def test_settings_that_make_no_sense_are_refused(silicon):
    with pytest.raises(ValueError, match="precision must be 'float32' or 'float64', not 'float16'"):
        Evaluator(silicon, precision="float16")
    with pytest.raises(ValueError, match="skin must not be negative, got -1"):
        Evaluator(silicon, skin=-1)
    with pytest.raises(ValueError, match="the model knows Si; the structure has Na"):
        Evaluator(silicon)(dataclasses.replace(crystal(), numbers=np.full(32, 11)))


def test_self_test_refuses_forces_that_this_machine_does_not_get():
    potential = make_potential((14,), RADIAL, golden=True)
    for precision in ("float32", "float64"):
        Evaluator(potential, precision=precision)
    g = potential.golden
    wrong = {"forces": dataclasses.replace(g, forces=g.forces * 1.01), "energy": dataclasses.replace(g, energy=g.energy + 0.1)}
    for golden in wrong.values():
        bad = dataclasses.replace(potential, golden=golden)
        for _ in range(2):  # it does not pass by trying again
            with pytest.raises(RuntimeError, match=r"self-test failed: .* jaxlib \d"):
                Evaluator(bad)
        Evaluator(bad, test=False)


def test_a_potential_is_not_taken_for_tested_because_another_one_was():
    """`id` of a potential that is gone may come back."""
    potential = make_potential((14,), RADIAL, golden=True)
    before = set(evaluator_module._tested)
    Evaluator(potential)
    assert len(evaluator_module._tested) == len(before) + 1
    del potential
    gc.collect()
    assert evaluator_module._tested <= before


SCRIPT = """
import logging, os, sys, warnings
warnings.simplefilter("error")
import jax
config, environment = dict(jax.config.values), dict(os.environ)
handlers, files = list(logging.getLogger().handlers), sorted(os.listdir("."))
filters = list(warnings.filters)
import numpy.random
state = numpy.random.get_state()[1].copy()
import adatom.potential
assert {k: jax.config.values[k] for k in config} == config, "jax config"
assert dict(os.environ) == environment, "environment"
assert list(logging.getLogger().handlers) == handlers, "log handlers"
assert sorted(os.listdir(".")) == files == ["model.adatom"], "files"
assert (numpy.random.get_state()[1] == state).all(), "random state"
assert warnings.filters[0] == filters[0]
assert not jax.config.jax_enable_x64
import numpy as np
from ase.build import bulk
from adatom.potential import AdatomCalculator
compiled = []
class Count(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("Finished XLA compilation of jit(_predict)"):
            compiled.append(record)
atoms = bulk("Si", cubic=True)
for dtype in ("float32", "float64"):
    a = atoms.copy()
    a.rattle(0.1, seed=3)
    a.calc = AdatomCalculator("model.adatom", dtype=dtype, skin=0.3)
    print(repr(float(a.get_potential_energy())), repr(float(a.get_forces()[0, 0])), repr(float(a.get_stress()[3])))
    logging.getLogger("jax").addHandler(Count())
    logging.getLogger("jax").propagate = False
    jax.config.update("jax_log_compiles", True)
    for n in range(10):
        a.rattle(0.05, seed=n)
        a.get_forces()
    assert not compiled, compiled
    assert a.calc.evaluator.n_builds > 1
    jax.config.update("jax_log_compiles", False)
    assert not jax.config.jax_enable_x64
assert sorted(os.listdir(".")) == files
"""


def test_default_jax_settings_and_a_quiet_import(tmp_path, root):
    """Another process without x64: both precisions work, double is double, nothing compiles in steady state, and importing
    changes no setting, environment, file, log handler or random state."""
    from adatom.potential import AdatomCalculator, save

    potential = make_potential((14,), RADIAL, golden=True)
    save(potential, tmp_path / "model.adatom")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / ".typings"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    single, double = (np.array(line.split(), dtype=float) for line in done.stdout.splitlines())
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.calc = AdatomCalculator(potential, dtype="float64")
    want = [atoms.get_potential_energy(), atoms.get_forces()[0, 0], atoms.get_stress()[3]]
    assert_allclose(double, want, rtol=1e-10)
    assert_allclose(single, want, rtol=1e-3)
    assert (single != double).any()


@pytest.mark.parametrize("descriptor", [deep_potential(), symmetry_functions()], ids=["deep", "wide"])
def test_an_atom_alone(descriptor):
    potential = make_potential((14,), descriptor)
    atom = Structure(np.array([14]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    out = Evaluator(potential)(atom)
    assert out.energy == potential.statistics.e0[0]
    assert (out.forces == 0.0).all()
    assert out.stress is None
