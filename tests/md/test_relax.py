"""Relaxation against ASE's optimisers and filters on the same potential, closed forms, and what may go wrong."""

import logging
import math
from dataclasses import dataclass

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.optimize.fire2 import FIRE2
from ase.stress import full_3x3_to_voigt_6_stress
from helpers import FAST, evaluate, make_potential, symmetry_functions
from numpy.testing import assert_allclose, assert_array_equal

from adatom.md import lbfgs
from adatom.md import relax as relaxation
from adatom.md.fire import Vector, add, dot
from adatom.md.lbfgs import LBFGS, MEMORY
from adatom.md.relax import relax
from adatom.md.system import pack
from adatom.potential import AdatomCalculator, from_atoms
from adatom.potential.pairwise import Morse

MORSE = Morse((29,), 0.35, 1.4, 2.8, 5.0)
TIGHT = {"precision": "float64", "max_force_eV_A": 1e-4, "max_stress_GPa": 1e-3}


@pytest.fixture(autouse=True, scope="module")
def _quick_to_compile():
    """The same programs, compiled with less care: compiling is most of the work here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("begin", "advance", "relist"):
            plain = getattr(relaxation, name).__wrapped__
            patch.setattr(relaxation, name, jax.jit(plain, static_argnames=("setup",), compiler_options=FAST))
        yield


class Analytic(Calculator):
    """An analytic model for ASE, on matscipy's neighbour list."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, model):
        super().__init__()
        self.model = model

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        out = evaluate(self.model, (), from_atoms(self.atoms), slot_capacity=[160])
        self.results = {"energy": out.energy, "free_energy": out.energy, "forces": out.forces}
        if self.atoms.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(out.stress)


def with_ase(atoms, calculator, *, pressure_GPa=None, fmax=1e-4, **filtered):
    """BFGS; of the cell too, if a pressure is given."""
    atoms = atoms.copy()
    atoms.calc = calculator
    moving = atoms if pressure_GPa is None else FrechetCellFilter(atoms, scalar_pressure=pressure_GPa * units.GPa, **filtered)
    assert BFGS(moving, logfile=None).run(fmax=fmax, steps=300)
    return atoms


def copper(a=3.7, amplitude=0.08, seed=1, repeat=(1, 1, 1)):
    atoms = bulk("Cu", cubic=True, a=a) * repeat
    atoms.rattle(amplitude, seed=seed)
    return atoms


def strained(atoms, strain):
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def energy(atoms, model=MORSE):
    return evaluate(model, (), from_atoms(atoms), slot_capacity=[160]).energy


SHEAR = np.array([[0.03, 0.02, -0.01], [0.02, -0.04, 0.03], [-0.01, 0.03, 0.02]])


@pytest.mark.parametrize(
    ("algorithm", "cell", "pressure_GPa"), [("lbfgs", "flexible", 4.0), ("fire", "flexible", 0.0), ("fire", "isotropic", -2.0)]
)
def test_cell_and_atoms_as_ase(algorithm, cell, pressure_GPa):
    atoms = copper() if cell == "isotropic" else strained(copper(), SHEAR)
    hydrostatic = {"hydrostatic_strain": True} if cell == "isotropic" else {}
    want = with_ase(atoms, Analytic(MORSE), pressure_GPa=pressure_GPa, **hydrostatic)
    got = relax(MORSE, atoms, algorithm=algorithm, cell=cell, pressure_GPa=pressure_GPa, **TIGHT)
    assert got.converged
    assert got.message.startswith(f"converged in {got.steps} steps")
    assert got.max_force_eV_A <= 1e-4
    assert got.max_stress_GPa <= 1e-3
    assert_allclose(got.energy, want.get_potential_energy(), rtol=0.0, atol=2e-5)
    assert_allclose(got.atoms.get_volume(), want.get_volume(), rtol=1e-4)
    assert_allclose(got.enthalpy, got.energy + pressure_GPa * units.GPa * got.atoms.get_volume(), rtol=1e-12)
    pressure = -np.trace(got.atoms.get_stress(voigt=False)) / 3.0
    assert_allclose(pressure / units.GPa, pressure_GPa, atol=1e-3)
    if cell == "flexible":
        assert_allclose(got.atoms.cell.cellpar(), bulk_cell(got.atoms), atol=2e-2)
    # the rattled crystal is the perfect crystal again
    perfect = bulk("Cu", cubic=True, a=got.atoms.get_volume() ** (1.0 / 3.0))
    assert_allclose(got.energy, energy(perfect), atol=2e-5)


def bulk_cell(atoms):
    a = atoms.get_volume() ** (1.0 / 3.0)
    return [a, a, a, 90.0, 90.0, 90.0]


def test_trained_model_as_ase():
    """Random weights, of which diamond is a minimum."""
    potential = make_potential((14,), symmetry_functions(), min_distance=2.2)
    atoms = bulk("Si", cubic=True, a=5.2)
    atoms.rattle(0.03, seed=1)
    want = with_ase(atoms, AdatomCalculator(potential, dtype="float64"), pressure_GPa=0.0, fmax=1e-3)
    got = relax(potential, atoms, cell="flexible", **TIGHT)
    assert got.converged
    assert_allclose(got.energy, want.get_potential_energy(), rtol=0.0, atol=1e-5)
    assert_allclose(got.atoms.cell.cellpar(), want.cell.cellpar(), rtol=2e-3)
    rough = relax(potential, atoms, cell="flexible", precision="float32", max_force_eV_A=1e-3)
    assert rough.converged
    assert_allclose(rough.energy, got.energy, rtol=0.0, atol=1e-4)


def test_fire_is_step_by_step_that_of_ase(tmp_path):
    atoms = copper(amplitude=0.03, seed=5)
    theirs = atoms.copy()
    theirs.calc, energies = Analytic(MORSE), []
    for _ in FIRE2(theirs, logfile=None, maxstep=10.0).irun(fmax=1e-9, steps=60):
        energies.append(theirs.get_potential_energy())
    file = tmp_path / "fire.extxyz"
    got = relax(MORSE, atoms, algorithm="fire", precision="float64", max_force_eV_A=1e-9, max_steps=60, trajectory=file)
    ours = [x.get_potential_energy() for x in read(file, ":")]
    assert np.any(np.diff(ours) > 0.0), "the way never led up: not all of FIRE was tried"
    assert_allclose(ours, energies, rtol=0.0, atol=1e-11)
    assert_allclose(got.atoms.positions, theirs.positions, atol=1e-9)


def test_lbfgs_is_the_update_formula(monkeypatch):
    """The two-loop recursion of more pairs than there is memory for, against dense matrices H ← Vᵀ H V + ρ s sᵀ."""
    atoms = [copper(), copper()]
    system = jax.device_put(pack(atoms, (29,), movable=[np.ones((4, 3))] * 2, block=None).system)
    rng, n = np.random.default_rng(0), 12 + 9

    def vector(rows):
        cells = rows[:, 12:].reshape(2, 3, 3)
        atomic = np.zeros((8, 3))
        for s in range(2):
            atomic[np.asarray(system.structure) == s] = rows[s, :12].reshape(4, 3)
        return Vector(jnp.asarray(atomic), jnp.asarray(cells))

    def row(x, s):
        return np.concatenate([np.asarray(x.atoms)[np.asarray(system.structure) == s].ravel(), np.asarray(x.cell[s]).ravel()])

    hessians = [a @ a.T + np.eye(n) for a in rng.normal(size=(2, n, n))]
    gradient = vector(rng.normal(size=(2, n)))
    memory, pairs = LBFGS.init(system, gradient), []
    for _ in range(MEMORY + 3):
        step = vector(1e-2 * rng.normal(size=(2, n)))
        change = vector(np.stack([hessians[s] @ row(step, s) for s in range(2)]))
        after = add(gradient, change)
        memory = LBFGS.learn(system, memory, step, gradient, after, jnp.ones(2, dtype=bool))
        pairs.append((step, change))
        gradient = after
    small = jax.tree.map(lambda x: 1e-4 * x, gradient)
    _, got = LBFGS.propose(system, memory, small)
    for s in range(2):
        rows = [(row(x, s), row(y, s)) for x, y in pairs[-MEMORY:]]
        x, y = rows[-1]
        h = np.eye(n) * (x @ y) / (y @ y)
        for x, y in rows:
            v = np.eye(n) - np.outer(y, x) / (x @ y)
            h = v.T @ h @ v + np.outer(x, x) / (x @ y)
        want = -h @ row(small, s)
        assert_allclose(row(got, s), want, rtol=1e-9, atol=1e-12)
    # a step of the second structure that leads up twice: its older pairs are forgotten, not those of the first
    for _ in range(2):
        memory = LBFGS.learn(system, memory, step, gradient, add(gradient, change), jnp.array([True, False]))
    assert (np.asarray(memory.weight)[:, 0] > 0.0).sum() == MEMORY
    assert (np.asarray(memory.weight)[:, 1] > 0.0).sum() == 1
    # and one along which the curvature is negative: all of them, and the scale is its inverse
    memory = LBFGS.learn(system, memory, step, gradient, add(gradient, jax.tree.map(lambda x: -0.5 * x, step)), jnp.ones(2, dtype=bool))
    assert not np.asarray(memory.weight).any()
    assert_allclose(memory.scale, min(2.0, lbfgs.LARGEST_SCALE))
    assert (np.asarray(dot(system, LBFGS.propose(system, memory, gradient)[1], gradient)) < 0.0).all()


def test_a_batch_is_as_its_members_alone():
    """Each with its own pressure; a supercell needs as many steps as its cell."""
    one = strained(copper(seed=2), 0.3 * SHEAR)
    batch = [one, copper(3.55, seed=3), one * (2, 1, 1)]
    together = relax(MORSE, batch, cell="flexible", pressure_GPa=[0.0, 3.0, 0.0], **TIGHT)
    for s, pressure in ((0, 0.0), (1, 3.0)):
        alone = relax(MORSE, batch[s], cell="flexible", pressure_GPa=pressure, **TIGHT)
        assert together[s].steps == alone.steps
        assert_allclose(together[s].enthalpy, alone.enthalpy, rtol=0.0, atol=1e-9)
        assert_allclose(together[s].atoms.positions, alone.atoms.positions, atol=1e-6)
        assert_allclose(together[s].atoms.get_forces(), alone.atoms.get_forces(), atol=1e-6)
    assert len({x.steps for x in together}) > 1, "all stop at once: freezing is not tried"
    assert together[2].converged
    assert together[2].steps == together[0].steps
    assert_allclose(together[2].energy, 2.0 * together[0].energy, rtol=0.0, atol=1e-9)


def test_pressure_is_the_slope_of_the_energy():
    pressures = np.array([-1.0, 0.0, 1.0])
    found = relax(MORSE, [copper()] * 3, cell="isotropic", pressure_GPa=pressures, **TIGHT)
    volumes = np.array([x.atoms.get_volume() for x in found])
    for x, pressure in zip(found, pressures, strict=True):
        v, h = x.atoms.get_volume(), 1e-4
        ends = [energy(bulk("Cu", cubic=True, a=(v * (1.0 + d)) ** (1.0 / 3.0))) for d in (-h, h)]
        assert_allclose(-(ends[1] - ends[0]) / (2.0 * h * v) / units.GPa, pressure, atol=2e-3)
    v, h = volumes[1], 1e-2
    e = [energy(bulk("Cu", cubic=True, a=(v * (1.0 + d)) ** (1.0 / 3.0))) for d in (-h, 0.0, h)]
    modulus = (e[0] - 2.0 * e[1] + e[2]) / (h * h * v) / units.GPa
    assert_allclose(-v * 2.0 / (volumes[2] - volumes[0]), modulus, rtol=0.01)


def test_components_leave_the_others_alone():
    atoms = strained(copper(), SHEAR)
    got = relax(MORSE, atoms, cell="flexible", components=("xx", "xy"), **TIGHT)
    assert got.converged
    f = np.linalg.solve(atoms.cell.array, got.atoms.cell.array)
    changed = np.abs(f - np.eye(3)) > 1e-12
    assert_array_equal(changed, [[True, True, False], [True, False, False], [False, False, False]])
    stress = np.abs(got.atoms.get_stress(voigt=False)) / units.GPa
    assert stress[0, 0] < 1e-3
    assert stress[0, 1] < 1e-3
    assert stress[1, 1] > 0.1


def test_what_is_held_stays():
    """In one batch: a slab on fixed atoms, fixed coordinates, a molecule, and one whose centre of mass is held."""
    slab = fcc111("Cu", (1, 1, 4), a=3.7, vacuum=4.0)
    slab.rattle(0.05, seed=4)
    slab.set_constraint(FixAtoms([0, 1]))
    sheared = copper(seed=6)
    sheared.set_constraint(FixCartesian([1, 2], mask=(True, False, True)))
    triangle = ase.Atoms("Cu3", [[0.0, 0.0, 0.0], [2.5, 0.1, 0.0], [1.0, 2.4, 0.3]])
    held = triangle.copy()
    held.set_masses([1.0, 60.0, 200.0])
    held.set_constraint(FixCom())
    batch = [slab, sheared, triangle, held]
    found = relax(MORSE, batch, **TIGHT)
    assert all(x.converged for x in found)
    assert_array_equal(found[0].atoms.positions[:2], slab.positions[:2])
    assert_allclose(found[0].energy, with_ase(slab, Analytic(MORSE)).get_potential_energy(), rtol=0.0, atol=1e-6)
    assert not found[0].atoms.cell[2].any() or found[0].atoms.cell[2] @ found[0].atoms.cell[2] > 0.0
    assert_array_equal(found[1].atoms.positions[1:3][:, [0, 2]], sheared.positions[1:3][:, [0, 2]])
    assert np.abs(found[1].atoms.positions - sheared.positions)[1:3, 1].min() > 1e-4
    assert np.abs(found[1].atoms.get_forces(apply_constraint=False)[1:3]).max() > 1e-2
    assert found[1].max_force_eV_A <= 1e-4
    assert_allclose(found[2].energy, -3.0 * MORSE.depth, atol=1e-7)
    assert_allclose(found[2].atoms.get_all_distances()[np.triu_indices(3, 1)], MORSE.distance, atol=1e-3)
    assert_allclose(found[2].atoms.positions.mean(axis=0), triangle.positions.mean(axis=0), atol=1e-9)
    assert_allclose(found[3].atoms.get_center_of_mass(), held.get_center_of_mass(), atol=1e-9)
    assert_allclose(found[3].energy, found[2].energy, rtol=0.0, atol=1e-9)
    assert len(found[0].atoms.constraints) == 1


def test_held_atoms_move_with_the_cell():
    atoms = copper(3.9)
    atoms.set_constraint(FixAtoms([0, 3]))
    got = relax(MORSE, atoms, cell="isotropic", **TIGHT)
    assert got.converged
    assert_allclose(got.atoms.get_scaled_positions()[[0, 3]], atoms.get_scaled_positions()[[0, 3]], atol=1e-12)
    want = with_ase(atoms, Analytic(MORSE), pressure_GPa=0.0, hydrostatic_strain=True)
    assert_allclose(got.energy, want.get_potential_energy(), rtol=0.0, atol=2e-5)


def test_not_converged_says_so(tmp_path):
    """The structures returned are what their results say; the trajectory has every step, and energies fall."""
    atoms, file = [copper(3.3, 0.15, seed=s) for s in (7, 8)], tmp_path / "run.extxyz"
    seen = []
    found = relax(
        MORSE, atoms, precision="float64", max_force_eV_A=1e-3, max_steps=4, trajectory=file,
        progress=lambda step, moving: seen.append((step, moving)),
    )  # fmt: skip
    assert seen == [(n, 2) for n in range(5)]
    for s, x in enumerate(found):
        assert not x.converged
        assert x.steps == 4
        assert x.message.startswith("not converged in 4 steps: largest force ")
        assert x.max_force_eV_A > 1e-3
        out = evaluate(MORSE, (), from_atoms(x.atoms), slot_capacity=[160])
        assert_allclose(x.energy, out.energy, rtol=1e-12)
        assert_allclose(x.atoms.get_forces(), out.forces, atol=1e-10)
        assert_allclose(x.atoms.get_stress(voigt=False), out.stress, atol=1e-12)
        assert_allclose(x.max_force_eV_A, np.linalg.norm(out.forces, axis=1).max(), rtol=1e-9)
        frames = read(tmp_path / f"run-{s}.extxyz", ":")
        assert [f.info["step"] for f in frames] == [0, 1, 2, 3, 4]
        energies = np.array([f.get_potential_energy() for f in frames])
        assert (np.diff(energies) <= 0.0).all()
        assert energies[-1] < energies[0]
        assert_allclose(frames[-1].positions, x.atoms.positions, atol=1e-12)
        assert not frames[-1].has("momenta")
    with pytest.raises(FileExistsError, match=r"run-0\.extxyz exists already"):
        relax(MORSE, atoms, trajectory=file)
    relax(MORSE, atoms, precision="float64", max_steps=5, trajectory=file, interval=3, overwrite=True)
    assert [f.info["step"] for f in read(tmp_path / "run-1.extxyz", ":")] == [0, 3, 5]
    done = relax(MORSE, found[0].atoms, precision="float64", max_force_eV_A=50.0)
    assert done.converged
    assert done.steps == 0


@dataclass(frozen=True)
class Treacherous:
    """Not a number where atoms are closer than `least`; with `lies`, the energy has the sign opposite to its own gradient."""

    inner: Morse
    least: float = 0.0
    lies: bool = False

    @property
    def elements(self):
        return self.inner.elements

    @property
    def cutoff(self):
        return self.inner.cutoff

    def atomic_energies(self, params, vectors, slots, atoms):
        e = self.inner.atomic_energies(params, vectors, slots, atoms)
        if self.lies:
            e = e - jax.lax.stop_gradient(2.0 * e)
        nearest = jnp.sqrt((vectors * vectors).sum(axis=0)).min(axis=-1)
        return jnp.where(nearest < self.least, jnp.nan, 1.0) * e


@pytest.mark.parametrize("algorithm", ["lbfgs", "fire"])
def test_what_is_not_a_number(algorithm):
    """From the beginning, and on the way; the others go on."""
    model = Treacherous(MORSE, least=2.42)
    bad, good, later = (ase.Atoms("Cu2", [[0.0, 0.0, 0.0], [x, 0.0, 0.0]]) for x in (2.3, 2.6, 2.6))
    later += ase.Atoms("Cu2", [[2.0, 2.6, 0.0], [1.0, 5.0, 0.0]])
    later.positions[0] = [0.0, 0.5, 0.0]
    model_later = later.copy()
    found = relax(model, [bad, good], algorithm=algorithm, precision="float64", max_steps=200)
    assert not found[0].converged
    assert found[0].message.startswith("stopped at step 0: energy, forces or stress are not numbers")
    assert_array_equal(found[0].atoms.positions, bad.positions)
    assert found[1].converged
    assert_allclose(found[1].energy, -MORSE.depth, atol=1e-4)
    del model_later


def test_the_edge_of_what_can_be_computed():
    """Under pressure the crystal is driven to where the model says nothing; the last good structure is returned."""
    model = Treacherous(MORSE, least=2.42)
    got = relax(model, copper(3.7, 0.0), cell="isotropic", pressure_GPa=300.0, precision="float64", max_steps=200)
    assert not got.converged
    assert "energy, forces or stress are not numbers" in got.message
    assert np.isfinite(got.energy)
    assert 2.42 <= got.atoms.get_distance(0, 1, mic=True) < 2.43


def test_energies_that_do_not_fall():
    got = relax(Treacherous(MORSE, lies=True), copper(), precision="float64")
    assert not got.converged
    assert got.steps == relaxation.TRIES
    assert "the energy does not fall along the forces" in got.message


def test_a_cell_that_bursts():
    got = relax(MORSE, copper(), cell="flexible", pressure_GPa=-100.0, precision="float64")
    assert not got.converged
    assert "the volume has changed 10 times" in got.message


def test_denser_than_there_was_room_for(monkeypatch):
    """From 1.3 times the lattice constant: the list overflows, blocks are repeated, and it is the same crystal."""
    calls, plain = [], relaxation.relist
    monkeypatch.setattr(relaxation, "relist", lambda *given: calls.append(1) or plain(*given))
    far, near = (relax(MORSE, copper(a, 0.01), cell="isotropic", **TIGHT) for a in (4.6, 3.7))
    assert calls
    assert far.converged
    assert_allclose(far.energy, near.energy, rtol=0.0, atol=1e-5)
    assert_allclose(far.atoms.get_volume(), near.atoms.get_volume(), rtol=1e-4)


def test_a_second_call_compiles_nothing(caplog):
    atoms = copper()
    relax(MORSE, atoms, cell="isotropic", max_steps=20)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        relax(MORSE, atoms, cell="isotropic", max_steps=25, max_force_eV_A=0.02, pressure_GPa=1.0)
    assert [x.getMessage() for x in caplog.records if "XLA compilation" in x.getMessage()] == []


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"algorithm": "newton"}, "algorithm must be one of lbfgs, fire, not 'newton'"),
        ({"cell": "free"}, "cell must be one of fixed, isotropic, flexible, not 'free'"),
        ({"precision": "float16"}, "precision must be one of float32, float64"),
        ({"components": ("xx",)}, "components are for cell='flexible', not for 'fixed'"),
        ({"cell": "flexible", "components": ("xx", "ab")}, "components must be some of xx, yy, zz, yz, xz, xy"),
        ({"cell": "flexible", "components": ()}, "components must be some of"),
        ({"pressure_GPa": 1.0}, "pressure_GPa must be finite, and 0 where the cell is fixed"),
        ({"cell": "isotropic", "pressure_GPa": math.nan}, "pressure_GPa must be finite"),
        ({"cell": "isotropic", "pressure_GPa": [1.0, 2.0]}, r"pressure_GPa has shape \(2,\) for 1 structures"),
        ({"max_force_eV_A": 0.0}, "max_force_eV_A must be positive"),
        ({"max_steps": 0}, "max_steps must be positive"),
        ({"skin": math.inf}, "skin must be positive and finite"),
        ({"trajectory": "run.pdb"}, "the suffix must be one of"),
    ],
)
def test_bad_arguments(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        relax(MORSE, copper(), **given)


def test_bad_structures():
    slab = fcc111("Cu", (1, 1, 3), vacuum=4.0)
    with pytest.raises(ValueError, match=r"structure 1: cell='isotropic' needs a cell periodic in three directions"):
        relax(MORSE, [copper(), slab], cell="isotropic")
    slab.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(ValueError, match="the structure: the constraint FixBondLengths is not supported"):
        relax(MORSE, slab)
    with pytest.raises(ValueError, match="no structures given"):
        relax(MORSE, [])
