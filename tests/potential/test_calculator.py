"""The ASE calculator: ASE's conventions, and the programs that people run with it."""

import warnings
from importlib.metadata import entry_points

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from helpers import make_potential, symmetry_functions
from numpy.testing import assert_allclose

from adatom.potential import AdatomCalculator, Potential, save
from adatom.potential.model import Statistics
from adatom.potential.pairwise import Morse


@pytest.fixture(scope="module")
def potential():
    return make_potential((14,), symmetry_functions(n_radial=3, n_angular=1, zetas=(2.0,)))


@pytest.fixture(scope="module")
def morse():
    """A calculator with Morse copper in place of a network: a crystal with a minimum, elastic constants and phonons."""
    model = Morse((29,), depth=0.34, alpha=1.36, distance=2.87, cutoff=7.5)
    one = np.ones(1)
    statistics = Statistics(np.array([-3.0]), one, one, one[:, None], one[:, None], np.full((1, 1), 1.5))
    return Potential(model, {"network": {}, "statistics": statistics})


def rattled(seed=0):
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * np.random.default_rng(seed).normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def copper(morse, a=3.6, repeat=(1, 1, 1), dtype="float64"):
    atoms = bulk("Cu", a=a, cubic=True) * repeat
    atoms.calc = AdatomCalculator(morse, dtype=dtype)
    return atoms


def test_forces_and_stress_are_ases_own_finite_differences(potential):
    """Sign, order (xx yy zz yz xz xy) and unit of stress, of a strained triclinic crystal."""
    atoms = rattled()
    atoms.calc = AdatomCalculator(potential, dtype="float64")
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    assert len({round(abs(x), 9) for x in stress}) == 6
    assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), rtol=1e-5, atol=1e-8)
    forces = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
    assert_allclose(atoms.get_forces()[[0, 3]], forces, rtol=1e-5, atol=1e-6)


def test_stretched_crystal_has_positive_stress(morse):
    stretched, squeezed = copper(morse, 3.9), copper(morse, 3.3)
    assert (stretched.get_stress()[:3] > 0.01).all()
    assert (squeezed.get_stress()[:3] < -0.01).all()


def test_results_have_ases_names_shapes_and_meaning(potential):
    atoms = rattled()
    atoms.calc = AdatomCalculator(potential)
    energies = atoms.get_potential_energies()
    assert energies.shape == (8,)
    assert_allclose(energies.sum(), atoms.get_potential_energy(), rtol=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert type(atoms.get_potential_energy()) is float
    assert atoms.get_forces().dtype == np.float64
    assert set(atoms.calc.results) == {"energy", "free_energy", "energies", "forces", "stress"}
    atoms.get_forces()[:] = 0.0
    assert np.abs(atoms.get_forces()).max() > 0.0
    assert_allclose(atoms.get_stress(voigt=False)[1, 2], atoms.get_stress()[3])


def test_one_evaluation_serves_all_properties_and_changes_are_seen(potential):
    atoms = rattled()
    atoms.calc = AdatomCalculator(potential)
    calls, evaluate = [], atoms.calc.evaluator
    atoms.calc.evaluator = lambda s: calls.append(1) or evaluate(s)
    first = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())[0]
    assert len(calls) == 1
    atoms.positions[0] += 0.1
    assert atoms.get_potential_energy() != first
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    atoms.get_stress()
    assert len(calls) == 3


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True), (False, False, False)])
def test_stress_is_refused_without_a_cell_in_three_directions(potential, pbc):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.pbc = pbc
    atoms.calc = AdatomCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="stress needs a cell periodic in three directions"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()
    assert "stress" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


BAD = {
    "the model knows Si; the structure has H, O": lambda: molecule("H2O"),
    "atoms have NaN or infinite positions, the first is atom 1": lambda: ase.Atoms("Si2", [[0, 0, 0], [0, np.nan, 0]]),
    "atoms on top of each other: 0": lambda: ase.Atoms("Si2", np.zeros((2, 3))),
    "has no atoms": lambda: ase.Atoms(),
    "has no length": lambda: ase.Atoms("Si", pbc=True),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_structures_are_one_clear_line_and_leave_the_calculator_usable(potential, message):
    calc = AdatomCalculator(potential)
    good = rattled()
    good.calc = calc
    before = good.get_potential_energy()
    bad = BAD[message]()
    bad.calc = calc
    for _ in range(2):
        with pytest.raises(ValueError, match=message) as caught:
            bad.get_potential_energy()
        assert "\n" not in str(caught.value)
    assert good.get_potential_energy() == before


def test_model_from_a_file(potential, tmp_path):
    save(potential, tmp_path / "model.adatom")
    a, b = rattled(), rattled()
    a.calc, b.calc = AdatomCalculator(tmp_path / "model.adatom"), AdatomCalculator(potential)
    assert a.get_potential_energy() == b.get_potential_energy()
    with pytest.raises(FileNotFoundError):
        AdatomCalculator(str(tmp_path / "model.adaton"))


def test_single_precision_keeps_energies_double(morse):
    """e0 of a million eV costs the forces and differences of energy nothing: sums are in float64."""
    a, b = copper(morse, 3.7, dtype="float32"), copper(morse, 3.7)
    for atoms in (a, b):
        atoms.rattle(0.1, seed=0)
    assert_allclose(a.get_potential_energy(), b.get_potential_energy(), atol=1e-5)
    assert_allclose(a.get_forces(), b.get_forces(), atol=1e-5)
    assert a.get_potential_energy() != b.get_potential_energy()


def test_ase_finds_it_by_name():
    assert get_calculator_class("adatom") is AdatomCalculator


def test_plugin_object():
    plugins = pytest.importorskip("ase._4.plugins.plugin", reason="this ASE has no plug-ins")
    from adatom.potential import ase_plugin

    (plugin,) = ase_plugin.__ase_plugins__
    assert isinstance(plugin, plugins.CalculatorPlugin)
    assert plugin.name == "adatom"
    assert plugin.implementation is AdatomCalculator


def test_plugin_registry_finds_it():
    """Through the entry point, so only where the package is installed."""
    plugins = pytest.importorskip("ase._4.plugins", reason="this ASE has no plug-ins").plugins
    if not [e for e in entry_points(group="ase.plugins") if e.name == "adatom"]:
        pytest.skip("adatom is not installed, only on the search path: it has no entry points")
    (plugin,) = (p for p in plugins if p.name == "adatom")
    assert plugin.implementation is AdatomCalculator


def test_velocity_verlet_conserves_energy(morse):
    """Half a picosecond of 32 atoms at 600 K: the energy wobbles by the step squared and does not drift."""

    def wobble(timestep):
        atoms = copper(morse, 3.61, (2, 2, 2))
        velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
        atoms.set_velocities(velocities * np.sqrt(units.kB * 600.0 / atoms.get_masses()[:, None]))
        totals = []
        dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
        dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
        dynamics.run(round(200 / timestep))
        assert atoms.calc.evaluator.n_shapes <= 2
        return np.ptp(totals) / len(atoms)

    coarse, fine = wobble(4.0), wobble(2.0)
    assert fine < 2e-4  # eV per atom, from the highest to the lowest
    assert 3.0 < coarse / fine < 5.0


def test_relaxation_of_atoms_and_cell(morse):
    atoms = copper(morse, 3.7)
    atoms.set_cell(atoms.cell.array @ [[1.01, 0.02, 0], [0, 0.99, 0], [0.01, 0, 1.0]], scale_atoms=True)
    atoms.rattle(0.03, seed=2)
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-5, steps=80)
    assert np.abs(atoms.get_stress()).max() < 1e-6
    reference = copper(morse, (atoms.get_volume()) ** (1 / 3))
    assert_allclose(atoms.get_potential_energy(), reference.get_potential_energy(), atol=1e-6)


def test_equation_of_state_elastic_constants_and_stress_agree(morse):
    """Three programs, one bulk modulus: E(V) fitted by ASE, stress fitted by matscipy; C_12 = C_44 as a pair potential must."""
    from matscipy.elasticity import fit_elastic_constants

    lattice = np.linspace(3.4, 3.9, 11)
    crystals = [copper(morse, a) for a in lattice]
    eos = EquationOfState([x.get_volume() for x in crystals], [x.get_potential_energy() for x in crystals], "birchmurnaghan")
    volume, _, modulus = eos.fit(warn=False)
    ground = copper(morse, volume ** (1 / 3))
    assert BFGS(FrechetCellFilter(ground), logfile=None).run(fmax=1e-6, steps=50)
    assert_allclose(ground.get_volume(), volume, rtol=2e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        c, _ = fit_elastic_constants(ground, symmetry="cubic", N_steps=5, delta=1e-3, optimizer=None, verbose=False)
    assert_allclose((c[0, 0] + 2.0 * c[0, 1]) / 3.0, modulus, rtol=0.03)
    assert_allclose(c[0, 1], c[3, 3], rtol=0.01)


def test_phonons(morse):
    """phonopy's force constants from our forces: three acoustic branches, all others real, the right cubic degeneracies."""
    phonopy = pytest.importorskip("phonopy", reason="an extra of the tests")
    from phonopy.structure.atoms import PhonopyAtoms

    a = 3.64
    ground = copper(morse, a)
    assert BFGS(FrechetCellFilter(ground), logfile=None).run(fmax=1e-6, steps=50)
    a = ground.get_volume() ** (1 / 3)
    unit = bulk("Cu", a=a)
    phonon = phonopy.Phonopy(
        PhonopyAtoms(symbols=unit.symbols, cell=unit.cell.array, scaled_positions=unit.get_scaled_positions()),
        supercell_matrix=3 * np.eye(3, dtype=int),
    )
    phonon.generate_displacements(distance=0.01)
    calc, forces = AdatomCalculator(morse, dtype="float64"), []
    for s in phonon.supercells_with_displacements:
        atoms = ase.Atoms(s.symbols, cell=s.cell, positions=s.positions, pbc=True, calculator=calc)
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer way is not in older versions
        frequencies = [phonon.get_frequencies(q) for q in ([0, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0.5])]
    assert_allclose(frequencies[0], 0.0, atol=0.02)
    for f in frequencies[1:]:
        assert f[0] > 1.0
        assert_allclose(f[0], f[1], rtol=1e-3)
