"""Atoms that move on E − τ σ: forces and stress are its derivatives, energy is conserved, and σ grows."""

import dataclasses

import jax
import numpy as np
import pytest
from ase import Atoms
from helpers import awkward_structures, make_potential, random_weights

from adatom.fitting.active.bias import strength
from adatom.md import Settings, simulate_many
from adatom.potential import AdatomCalculator
from adatom.potential.committee import ROUND, Committee

TAU = 0.7


@pytest.fixture(scope="module")
def potential():
    """Members that are the network itself, disturbed."""
    one = make_potential((8, 14))
    rng = np.random.default_rng(5)
    others = [random_weights(one.model, rng) for _ in range(3)]
    trees = [jax.tree.map(lambda a, b: a + 0.2 * b, one.params["network"], x) for x in others]
    return dataclasses.replace(one, committee=Committee("deep", jax.tree.map(lambda *x: np.stack(x), *trees)))


@pytest.fixture(scope="module")
def atoms():
    s = awkward_structures((8, 14))["triclinic"]
    return Atoms(s.numbers, s.positions, cell=s.cell, pbc=True)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def sigma(potential, atoms):
    """From each member's own energy, by the calculator."""
    energies = []
    for m in range(3):
        network = jax.tree.map(lambda x, m=m: x[m], potential.committee.members)
        alone = dataclasses.replace(potential, params=potential.params | {"network": network}, committee=None)
        atoms.calc = AdatomCalculator(alone, dtype="float64")
        energies.append(atoms.get_potential_energy())
    return float(np.sqrt(np.var(energies) + ROUND**2))


def biased_energy(potential, atoms):
    away = TAU * sigma(potential, atoms)
    atoms.calc = AdatomCalculator(dataclasses.replace(potential, committee=None), dtype="float64")
    return atoms.get_potential_energy() - away


def run(potential, atoms, *, bias, steps, timestep_fs=0.2):
    chosen = Settings(
        ensemble="nve", temperature_K=300.0, steps=steps, interval=1, timestep_fs=timestep_fs, precision="float64",
        max_spread_eV_A=1e6, seed=3,
    )  # fmt: skip
    return simulate_many(potential, [atoms], chosen, bias=bias)[0]


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_forces_are_those_of_the_biased_energy(potential, atoms):
    summary = run(potential, atoms, bias=TAU, steps=40)
    first = summary.rows[0]
    np.testing.assert_allclose(first.potential_eV, biased_energy(potential, atoms.copy()), rtol=1e-10)
    end, h = summary.atoms, 1e-4
    forces, stress = end.calc.results["forces"], end.calc.results["stress"]
    for i, axis in ((0, 0), (3, 1), (4, 2)):
        moved = [end.copy(), end.copy()]
        for x, sign in zip(moved, (1, -1), strict=True):
            x.positions[i, axis] += sign * h
        slope = (biased_energy(potential, moved[0]) - biased_energy(potential, moved[1])) / (2 * h)
        np.testing.assert_allclose(forces[i, axis], -slope, rtol=1e-5, atol=1e-6)
    for k, (a, b) in ((1, (1, 1)), (5, (0, 1))):
        strained = []
        for sign in (1, -1):
            e = np.zeros((3, 3))
            e[a, b] += 0.5 * sign * h
            e[b, a] += 0.5 * sign * h
            x = end.copy()
            x.set_cell(x.cell.array @ (np.eye(3) + e), scale_atoms=True)
            strained.append(biased_energy(potential, x))
        slope = (strained[0] - strained[1]) / (2 * h) / end.get_volume()
        np.testing.assert_allclose(stress[k], slope, rtol=1e-5, atol=1e-7)
    energies = np.array([row.total_eV for row in summary.rows])
    moved = np.ptp([row.kinetic_eV for row in summary.rows])
    assert np.ptp(energies) < 0.02 * moved, "the biased energy is conserved"


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_the_spread_grows(potential, atoms):
    """Against the same run without bias; and τ is what makes the bias that part of the forces."""
    tau = strength(potential, [atoms], 0.3)
    assert strength(potential, [atoms, atoms], 0.6) == pytest.approx(2.0 * tau, rel=1e-4)
    assert strength(potential, [], 0.3) == 0.0
    ends = [run(potential, atoms, bias=b, steps=60, timestep_fs=0.5).atoms for b in (1e-9, 3.0 * tau)]
    plain, driven = (sigma(potential, x.copy()) for x in ends)
    assert driven > 1.1 * plain


def test_a_bias_needs_a_committee(potential, atoms):
    with pytest.raises(ValueError, match="a bias towards uncertainty needs a committee"):
        run(dataclasses.replace(potential, committee=None), atoms, bias=1.0, steps=1)
