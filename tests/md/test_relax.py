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

from adatom.md import neighbours
from adatom.md import relax as relaxation
from adatom.md.fire import Vector, add, dot
from adatom.md.lbfgs import LBFGS, MEMORY
from adatom.md.relax import relax
from adatom.md.system import pack
from adatom.potential import from_atoms
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
        patch.setattr(neighbours, "_build", jax.jit(neighbours.build, static_argnames=("plan", "length"), compiler_options=FAST))
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
    ("algorithm", "cell", "pressure_GPa"), [("lbfgs", "flexible", 4.0), ("fire", "flexible", 0.0), ("lbfgs", "isotropic", -2.0)]
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


def test_trained_model():
    """Random weights, of which this crystal is a minimum in this cell; in the default precision."""
    potential = make_potential((14,), symmetry_functions(n_angular=0), seed=8, min_distance=2.2)
    perfect = bulk("Si", cubic=True, a=4.8)
    rattled = perfect.copy()
    rattled.rattle(0.05, seed=1)
    got = relax(potential, rattled, max_force_eV_A=2e-3)
    assert got.converged
    assert math.isnan(got.max_stress_GPa)
    assert_array_equal(got.atoms.cell.array, perfect.cell.array)
    moved = got.atoms.positions - perfect.positions
    assert_allclose(moved, np.tile(moved.mean(axis=0), (8, 1)), atol=1e-3)
    want = evaluate(potential.model, potential.params, from_atoms(perfect))
    assert_allclose(got.energy, want.energy, rtol=0.0, atol=1e-4)
    assert_allclose(got.atoms.get_stress(voigt=False), want.stress, atol=1e-4)


def fire(atoms, steps):
    """The energies of FIRE 2.0, in so many words; and how often the way led up."""
    dt, mixing, downhill, turns = 0.1, 0.25, 0, 0
    v, energies = np.zeros((len(atoms), 3)), []
    for _ in range(steps + 1):
        energies.append(atoms.get_potential_energy())
        force, back = atoms.get_forces(), 0.0
        if v.any() and (force * v).sum() <= 0.0:
            dt, mixing, downhill, turns = max(0.5 * dt, 2e-3), 0.25, 0, turns + 1
            v, back = 0.0 * v, -0.5 * dt * v
        elif v.any():
            downhill += 1
            if downhill > 20:
                dt, mixing = min(1.1 * dt, 1.0), 0.99 * mixing
        v = v + dt * force
        v = (1.0 - mixing) * v + mixing * np.linalg.norm(v) * force / np.linalg.norm(force)
        atoms.positions += back + dt * v
    return energies, turns


def test_fire_is_its_formula(tmp_path):
    """Step by step; and that of ASE until the way leads up."""
    atoms, theirs, words = (copper(amplitude=0.03, seed=5) for _ in range(3))
    theirs.calc, words.calc = Analytic(MORSE), Analytic(MORSE)
    in_ase = []
    for _ in FIRE2(theirs, logfile=None, maxstep=10.0).irun(fmax=1e-9, steps=7):
        in_ase.append(theirs.get_potential_energy())
    want, turns = fire(words, 60)
    relax(
        MORSE, atoms, algorithm="fire", precision="float64", max_force_eV_A=1e-9, max_steps=60,
        trajectory=tmp_path / "fire.extxyz",
    )  # fmt: skip
    got = [x.get_potential_energy() for x in read(tmp_path / "fire.extxyz", ":")]
    assert turns > 0
    assert_allclose(got, want, rtol=0.0, atol=1e-11)
    assert_allclose(got[:8], in_ase, rtol=0.0, atol=1e-11)


def test_lbfgs_is_the_update_formula():
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

    learn, propose = jax.jit(LBFGS.learn), jax.jit(LBFGS.propose)
    hessians = [a @ a.T + np.eye(n) for a in rng.normal(size=(2, n, n))]
    gradient = vector(rng.normal(size=(2, n)))
    memory, pairs = LBFGS.init(system, gradient), []
    for _ in range(MEMORY + 3):
        step = vector(1e-2 * rng.normal(size=(2, n)))
        change = vector(np.stack([hessians[s] @ row(step, s) for s in range(2)]))
        after = add(gradient, change)
        memory = learn(system, memory, step, gradient, after, jnp.ones(2, dtype=bool))
        pairs.append((step, change))
        gradient = after
    small = jax.tree.map(lambda x: 1e-4 * x, gradient)
    _, got = propose(system, memory, small)
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
        memory = learn(system, memory, step, gradient, add(gradient, change), jnp.array([True, False]))
    assert (np.asarray(memory.weight)[:, 0] > 0.0).sum() == MEMORY
    assert (np.asarray(memory.weight)[:, 1] > 0.0).sum() == 1
    # and one along which the curvature is negative: all of them, and the scale is its inverse
    after = add(gradient, jax.tree.map(lambda x: -2.0 * x, step))
    memory = learn(system, memory, step, gradient, after, jnp.ones(2, dtype=bool))
    assert not np.asarray(memory.weight).any()
    assert_allclose(memory.scale, 0.5)
    assert (np.asarray(dot(system, propose(system, memory, gradient)[1], gradient)) < 0.0).all()


def test_a_batch_is_as_its_members_alone():
    """A supercell needs as many steps as its cell; and the pressure of each is the slope of its energy."""
    one, pressures = strained(copper(), SHEAR), (-1.0, 1.0, -1.0)
    batch = [one, copper(3.55, seed=3), one * (2, 1, 1)]
    together = relax(MORSE, batch, cell="flexible", pressure_GPa=pressures, **TIGHT)
    assert all(x.converged for x in together)
    alone = relax(MORSE, one, cell="flexible", pressure_GPa=-1.0, **TIGHT)
    assert together[0].steps == alone.steps
    assert_allclose(together[0].enthalpy, alone.enthalpy, rtol=0.0, atol=1e-9)
    assert_allclose(together[0].atoms.positions, alone.atoms.positions, atol=1e-6)
    assert_allclose(together[0].atoms.get_forces(), alone.atoms.get_forces(), atol=1e-6)
    assert len({x.steps for x in together}) > 1, "all stop at once: freezing is not tried"
    assert together[2].steps == together[0].steps
    assert_allclose(together[2].energy, 2.0 * together[0].energy, rtol=0.0, atol=1e-9)
    volumes = [x.atoms.get_volume() for x in together]

    def perfect(volume):
        return energy(bulk("Cu", cubic=True, a=volume ** (1.0 / 3.0)))

    for v, pressure in zip(volumes[:2], pressures, strict=False):
        assert_allclose(-(perfect(1.0001 * v) - perfect(0.9999 * v)) / (2e-4 * v) / units.GPa, pressure, atol=3e-3)
    v, h = 0.5 * (volumes[0] + volumes[1]), 0.01
    modulus = (perfect((1.0 - h) * v) - 2.0 * perfect(v) + perfect((1.0 + h) * v)) / (h * h * v) / units.GPa
    assert_allclose(-v * 2.0 / (volumes[1] - volumes[0]), modulus, rtol=0.01)


def test_components_leave_the_others_alone():
    atoms = strained(copper(), SHEAR)
    got = relax(MORSE, atoms, cell="flexible", components=("xx", "xy"), **TIGHT)
    assert got.converged
    f = np.linalg.solve(atoms.cell.array, got.atoms.cell.array)
    changed = np.abs(f - np.eye(3)) > 1e-12
    assert_array_equal(changed, [[True, True, False], [True, False, False], [False, False, False]])
    # a minimum with respect to what may change, not with respect to the rest
    for component, least in (("xx", True), ("xy", True), ("yy", False), ("yz", False)):
        a, b = ("xyz".index(c) for c in component)
        energies = []
        for h in (-2e-3, 0.0, 2e-3):
            other, g = got.atoms.copy(), f.copy()
            g[a, b] += h
            g[b, a] = g[a, b]
            other.set_cell(atoms.cell.array @ g, scale_atoms=True)
            energies.append(energy(other))
        slope, curvature = energies[2] - energies[0], energies[0] - 2.0 * energies[1] + energies[2]
        assert (abs(slope) < 0.02 * curvature) == least, component


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
    atoms = copper()
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
    done = relax(MORSE, atoms, precision="float64", max_force_eV_A=50.0)
    assert all(x.converged and x.steps == 0 for x in done)


@dataclass(frozen=True)
class Treacherous:
    """Not a number where two atoms are 2.9 to 3.4 Å apart; beyond 4 Å minus the energy whose gradient it has."""

    inner: Morse

    @property
    def elements(self):
        return self.inner.elements

    @property
    def cutoff(self):
        return self.inner.cutoff

    def atomic_energies(self, params, vectors, slots, atoms):
        e = self.inner.atomic_energies(params, vectors, slots, atoms)
        nearest = jnp.sqrt((vectors * vectors).sum(axis=0)).min(axis=-1)
        e = e - jnp.where(nearest > 4.0, 2.0, 0.0) * jax.lax.stop_gradient(e)
        return jnp.where((nearest > 2.9) & (nearest < 3.4), jnp.nan, 1.0) * e


@pytest.mark.parametrize("algorithm", ["lbfgs", "fire"])
def test_what_cannot_be_relaxed(algorithm, tmp_path):
    """Not a number at the beginning, or on the way; and an energy that does not fall. The others go on."""
    batch = [ase.Atoms("Cu2", [[0.0, 0.0, 0.0], [x, 0.0, 0.0]]) for x in (3.0, 2.7, 3.6, 4.5)]
    given = {"algorithm": algorithm, "precision": "float64"}
    found = relax(Treacherous(MORSE), batch, max_steps=150, interval=75, trajectory=tmp_path / "run.extxyz", **given)
    frames = [[f.info["step"] for f in read(tmp_path / f"run-{s}.extxyz", ":")] for s in range(4)]
    assert frames[:2] == [[0], [0, found[1].steps]]
    assert frames[2][:2] == [0, 75]
    assert frames[2][-1] == found[2].steps
    bad, good, later, lying = found
    assert [x.converged for x in found] == [False, True, False, False]
    assert bad.message.startswith("stopped at step 0: energy, forces or stress are not numbers")
    assert_array_equal(bad.atoms.positions, batch[0].positions)
    assert_allclose(good.energy, -MORSE.depth, atol=1e-4)
    early = relax(Treacherous(MORSE), batch, max_steps=good.steps, **given)
    assert_array_equal(early[1].atoms.positions, good.atoms.positions, "it moved on while it waited for the others")
    assert "energy, forces or stress are not numbers" in later.message
    assert np.isfinite(later.energy)
    assert 3.4 <= later.atoms.get_distance(0, 1) < 3.6
    if algorithm == "lbfgs":
        assert lying.steps < 50
        assert "the energy does not fall along the forces" in lying.message
        assert_allclose(lying.atoms.positions, batch[3].positions, atol=1e-6)


def test_a_cell_that_bursts():
    got = relax(MORSE, strained(copper(), SHEAR), cell="flexible", pressure_GPa=-100.0, precision="float64")
    assert not got.converged
    assert "the volume has changed 10 times" in got.message


def test_denser_than_there_was_room_for(monkeypatch):
    """From 1.2 times the lattice constant: the list overflows, blocks are repeated, and it is the same crystal."""
    calls, plain = [], relaxation.relist
    monkeypatch.setattr(relaxation, "relist", lambda *given: calls.append(1) or plain(*given))
    far, near = (relax(MORSE, copper(a), cell="isotropic", **TIGHT) for a in (4.4, 3.7))
    assert calls
    assert far.converged
    assert_allclose(far.energy, near.energy, rtol=0.0, atol=1e-5)
    assert_allclose(far.atoms.get_volume(), near.atoms.get_volume(), rtol=1e-4)


def test_a_second_call_compiles_nothing(caplog):
    atoms = copper()
    relax(MORSE, atoms, cell="isotropic", max_steps=20, precision="float64")
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        relax(MORSE, atoms, cell="isotropic", max_steps=25, max_force_eV_A=0.02, pressure_GPa=1.0, precision="float64")
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
