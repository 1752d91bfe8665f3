"""Properties: Lennard-Jones lattice sums in closed form, EMT's parameters, finite differences, symmetries."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.eos import EquationOfState

from adatom.fitting.properties import (
    J_PER_M2,
    birch_murnaghan,
    cohesive_energy,
    crystal,
    elastic_constants,
    rdf_difference,
    surface,
    vacancy,
)
from adatom.md.observables.rdf import radial_distribution
from adatom.potential.units import GPA

SHELLS, EPSILON, SIGMA = 3, 0.1, 3.0
"""Lennard-Jones, cut in the middle between the third and the fourth shell of fcc: no pair crosses it."""


def fcc_vectors() -> np.ndarray:
    """Vectors to the neighbours of the first shells, a = 1."""
    grid = 0.5 * np.array([v for v in itertools.product(range(-3, 4), repeat=3) if sum(v) % 2 == 0 and any(v)])
    return grid[(grid**2).sum(axis=1) < 0.5 * SHELLS + 0.1]


def lj(r):
    """φ, φ', φ'' without a shift."""
    x = (SIGMA / r) ** 6
    return 4 * EPSILON * (x**2 - x), 4 * EPSILON * (-12 * x**2 + 6 * x) / r, 4 * EPSILON * (156 * x**2 - 42 * x) / r**2


class Exact(NamedTuple):
    """a [Å], energy [eV/atom], C11 and C12 = C44 [GPa], cutoff [Å], and φ there, which ASE takes off every pair [eV]."""

    a: float
    energy: float
    c11: float
    c12: float
    cutoff: float
    shift: float

    @property
    def bulk_modulus(self) -> float:
        return (self.c11 + 2.0 * self.c12) / 3.0


def lattice_sums() -> Exact:
    """E(a) = 2ε [S12 (σ/a)¹² − S6 (σ/a)⁶], S_n = Σ |v|^−n; C_αβγδ = Σ (φ'' − φ'/r) v_α v_β v_γ v_δ/(2 Ω r²) without stress."""
    v = fcc_vectors()
    length = np.linalg.norm(v, axis=1)
    a = SIGMA * (2.0 * (length**-12.0).sum() / (length**-6.0).sum()) ** (1.0 / 6.0)
    cutoff = 0.5 * a * (np.sqrt(SHELLS / 2) + np.sqrt((SHELLS + 1) / 2))
    phi, first, second = lj(a * length)
    stiffness = (second - first / (a * length)) / (a * length) ** 2 * 2.0 / a**3 / GPA
    x, y = (a * v[:, 0]) ** 2, (a * v[:, 1]) ** 2
    shift = float(lj(cutoff)[0])
    return Exact(a, 0.5 * float((phi - shift).sum()), (stiffness * x * x).sum(), (stiffness * x * y).sum(), cutoff, shift)


class Bottomless(Calculator):
    """Energy proportional to the volume."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def calculate(self, atoms, properties, system_changes) -> None:
        self.results = {"energy": self.slope * atoms.get_volume(), "forces": np.zeros((len(atoms), 3))}


@pytest.fixture(scope="module")
def argon():
    """The exact answers, and a calculator whose cutoff lies between two shells at every strain used here."""
    exact = lattice_sums()
    return exact, LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=exact.cutoff, smooth=False)


@pytest.fixture(scope="module")
def copper():
    return crystal(bulk("Cu", cubic=True), EMT())


def test_lennard_jones_crystal_is_the_lattice_sum(argon) -> None:
    exact, calculator = argon
    found = crystal(bulk("Ar", "fcc", a=0.98 * exact.a, cubic=True), calculator, strain=0.01)
    assert found.lattice_constant == pytest.approx(exact.a, rel=2e-5)
    assert found.energy == pytest.approx(exact.energy, rel=1e-6)
    assert found.bulk_modulus == pytest.approx(exact.bulk_modulus, rel=3e-3)
    assert found.bulk_modulus_derivative == pytest.approx(8.0, rel=0.05)  # (12 + 6 + 6)/3, of any Lennard-Jones crystal
    assert found.volume == pytest.approx(found.lattice_constant**3 / 4)
    assert 4 * found.volume == pytest.approx(found.atoms.get_volume())
    assert found.atoms.calc is None
    free = cohesive_energy(found.atoms, calculator)
    assert free == pytest.approx(-found.energy, rel=1e-6)  # free atoms have no energy
    assert cohesive_energy(found.atoms, calculator, free_atoms={"Ar": 1.0}) == pytest.approx(1.0 + free)
    with pytest.raises(ValueError, match="given for Ne, but not for Ar"):
        cohesive_energy(found.atoms, calculator, free_atoms={"Ne": 1.0})


def test_lennard_jones_elastic_constants_are_the_lattice_sums(argon) -> None:
    exact, calculator = argon
    atoms = bulk("Ar", "fcc", a=exact.a, cubic=True)
    for symmetry in ("cubic", "triclinic"):
        c = elastic_constants(atoms, calculator, symmetry=symmetry, delta=5e-4)
        assert c.constants[0, 0] == pytest.approx(exact.c11, rel=1e-3)
        assert c.constants[0, 1] == pytest.approx(exact.c12, rel=1e-3)
        assert c.constants[3, 3] == pytest.approx(exact.c12, rel=1e-3)  # Cauchy: pair forces, no stress
        assert c.bulk_modulus == pytest.approx(exact.bulk_modulus, rel=1e-3)
        assert c.errors.shape == (6, 6)


def test_published_lennard_jones_crystal() -> None:
    """All neighbours: a = √2 · 1.0902 σ, E = −8.610 ε, B = 75.2 ε/σ³ (Ashcroft and Mermin, "Solid state physics", ch. 20)."""
    found = crystal(bulk("Ar", "fcc", a=1.55), LennardJones(sigma=1.0, epsilon=1.0, rc=8.0, smooth=False), strain=0.01)
    assert (4.0 * found.volume) ** (1.0 / 3.0) == pytest.approx(np.sqrt(2.0) * 1.0902, rel=1e-3)
    assert found.energy == pytest.approx(-8.610, rel=1e-2)  # ASE's shift of each pair takes some of it
    assert found.bulk_modulus * GPA == pytest.approx(75.2, rel=1e-2)


def test_fit_is_exact_for_birch_murnaghan_and_agrees_with_ase() -> None:
    e0, v0, b0, b1 = -3.0, 16.0, 80.0 * GPA, 4.7
    v = np.linspace(14.0, 18.5, 9)
    eta = (v0 / v) ** (2.0 / 3.0)
    e = e0 + 9.0 * v0 * b0 / 16.0 * ((eta - 1.0) ** 3 * b1 + (eta - 1.0) ** 2 * (6.0 - 4.0 * eta))
    np.testing.assert_allclose(birch_murnaghan(v, e), [v0, e0, 80.0, b1, 0.0], rtol=1e-9, atol=1e-12)
    theirs = EquationOfState(v, e, eos="birchmurnaghan").fit()
    np.testing.assert_allclose((theirs[0], theirs[1], theirs[2] / GPA), (v0, e0, 80.0), rtol=1e-5)
    with pytest.raises(ValueError, match="no minimum between 17 and 20"):
        birch_murnaghan(np.linspace(17.0, 20.0, 9), np.interp(np.linspace(17.0, 20.0, 9), v, e) + np.linspace(0, 9, 9))


def test_emt_copper(copper) -> None:
    """a = 3.59 Å as ASE's tutorials find, E0 = 3.51 eV, EMT's parameter; symmetry; B from volume is B from stress."""
    assert copper.lattice_constant == pytest.approx(3.59, abs=0.002)
    assert cohesive_energy(copper.atoms, EMT()) == pytest.approx(3.51, abs=0.01)
    c = elastic_constants(copper.atoms, EMT(), delta=1e-3)
    assert c.bulk_modulus == pytest.approx(copper.bulk_modulus, rel=2e-3)
    np.testing.assert_allclose(c.constants, c.constants.T, atol=0.05)
    cubic = elastic_constants(copper.atoms, EMT(), symmetry="cubic", delta=1e-3).constants
    np.testing.assert_allclose(c.constants, cubic, atol=0.05)
    np.testing.assert_allclose(cubic[[0, 1, 3, 4, 0, 3]], cubic[:, [0, 1, 3, 4, 0, 3]].T)
    assert cubic[0, 0] > cubic[0, 1] > 0.0  # stable
    assert (cubic[:3, 3:] == 0.0).all()


def test_elastic_constants_are_second_derivatives_of_the_energy(copper) -> None:
    """C11 − C12 and C44 from E(ε) at constant volume, with ions that need no relaxing."""
    c = elastic_constants(copper.atoms, EMT(), delta=1e-3).constants

    def energy(f: np.ndarray) -> float:
        atoms = copper.atoms.copy()
        atoms.set_cell(atoms.cell.array @ f, scale_atoms=True)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    h, volume = 2e-3, copper.atoms.get_volume()
    stretch = [energy(np.diag([np.exp(s), np.exp(-s), 1.0])) for s in (-h, 0.0, h)]
    shear = [energy(np.array([[1.0, s, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])) for s in (-h, 0.0, h)]
    for e, modulus in ((stretch, 2.0 * (c[0, 0] - c[0, 1])), (shear, c[5, 5])):
        assert (e[0] - 2.0 * e[1] + e[2]) / h**2 / volume / GPA == pytest.approx(modulus, rel=2e-3)


def test_ions_are_relaxed_and_hexagonal_symmetry_holds(argon) -> None:
    """Hexagonal close packing: shear in the plane moves the two sublattices against each other, along the axis it does not."""
    exact, calculator = argon
    atoms = bulk("Ar", "hcp", a=exact.a / np.sqrt(2.0), c=exact.a / np.sqrt(2.0) * np.sqrt(8.0 / 3.0))
    kind = {"delta": 5e-4, "max_force_eV_A": 1e-6}
    free = elastic_constants(atoms, calculator, **kind).constants
    held = elastic_constants(atoms, calculator, delta=5e-4, max_force_eV_A=1e3).constants
    assert held[5, 5] - free[5, 5] > 0.02 * held[5, 5]
    assert held[2, 2] == pytest.approx(free[2, 2], rel=1e-6)
    assert free[5, 5] == pytest.approx(0.5 * (free[0, 0] - free[0, 1]), rel=2e-3)
    fewer = elastic_constants(atoms, calculator, symmetry="hexagonal", **kind).constants
    np.testing.assert_allclose(fewer, free, rtol=5e-3, atol=5e-3 * free.max())
    np.testing.assert_allclose([fewer[0, 0], fewer[5, 5]], [fewer[1, 1], 0.5 * (fewer[0, 0] - fewer[0, 1])])


def test_vacancy(argon, copper) -> None:
    """With pair forces an unrelaxed vacancy costs the cohesive energy; with EMT's many-body forces far less."""
    exact, calculator = argon
    atoms = bulk("Ar", "fcc", a=exact.a, cubic=True)
    found = vacancy(atoms, calculator, repeat=(3, 3, 3))
    assert found.unrelaxed == pytest.approx(-exact.energy, rel=1e-9)
    assert found.unrelaxed - 0.05 * abs(exact.energy) < found.energy < found.unrelaxed
    assert len(found.atoms) == 107
    metal = vacancy(copper.atoms, EMT(), repeat=(3, 3, 3))
    assert metal.energy == pytest.approx(1.22, abs=0.02)
    assert metal.energy < metal.unrelaxed < 3.5
    with pytest.raises(ValueError, match="crystals of one element"):
        vacancy(bulk("NaCl", "rocksalt", a=5.6), EMT())
    with pytest.raises(ValueError, match="repeat it more often"):
        vacancy(bulk("Cu"), EMT(), repeat=(1, 1, 1))


@pytest.mark.parametrize("miller", [(1, 0, 0), (1, 1, 1), (1, 1, 0), (2, 1, 1)])
def test_unrelaxed_surface_of_pair_forces_counts_cut_bonds(argon, miller) -> None:
    """γ = −½ Σ_v φ(v) max(v·n, 0)/Ω: through a unit of area go v·n/Ω of the bonds v, and a cut makes two surfaces."""
    exact, calculator = argon
    a = exact.a
    normal = np.array(miller) / np.linalg.norm(miller)
    v = a * fcc_vectors()
    along = v @ normal
    phi = lj(np.linalg.norm(v, axis=1))[0] - exact.shift
    expected = -0.5 * (phi * np.maximum(along, 0.0)).sum() * 4.0 / a**3 * J_PER_M2
    found = surface(bulk("Ar", "fcc", a=a, cubic=True), calculator, miller, thickness_A=14.0, vacuum_A=12.0)
    assert found.unrelaxed == pytest.approx(expected, rel=1e-9)
    assert 0.95 * expected < found.energy < expected
    assert found.atoms.pbc.tolist() == [True, True, False]


def test_surface_of_copper(copper) -> None:
    energy = {m: surface(copper.atoms, EMT(), m, thickness_A=10.0).energy for m in ((1, 1, 1), (1, 0, 0), (1, 1, 0))}
    assert energy[1, 1, 1] < energy[1, 0, 0] < energy[1, 1, 0]
    thick = surface(copper.atoms, EMT(), (1, 0, 0), thickness_A=20.0, vacuum_A=30.0)
    assert thick.energy == pytest.approx(energy[1, 0, 0], rel=5e-3)


def test_nothing_given_is_changed(copper) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["energy"] = 3.0
    before = atoms.copy()
    found = crystal(atoms, EMT())
    elastic_constants(atoms, EMT(), symmetry="cubic")
    vacancy(atoms, EMT(), repeat=(2, 1, 1))
    assert found.lattice_constant == pytest.approx(copper.lattice_constant)
    assert (atoms.positions == before.positions).all()
    assert (atoms.cell == before.cell).all()
    assert atoms.calc is None
    assert atoms.info == before.info


def test_refusals(copper) -> None:
    with pytest.raises(ValueError, match="periodic in three directions"):
        crystal(ase.Atoms("Cu"), EMT())
    with pytest.raises(ValueError, match="at least 5 points"):
        crystal(bulk("Cu"), EMT(), points=4)
    with pytest.raises(ValueError, match="no minimum of E"):
        crystal(bulk("Cu"), Bottomless(-1.0))
    with pytest.raises(ValueError, match="the energy of Cu is nan"):
        crystal(bulk("Cu"), Bottomless(np.nan))
    rattled = copper.atoms.repeat(2)
    rattled.rattle(0.2, seed=0)
    with pytest.raises(ValueError, match="Cu31 is not relaxed after 2 steps: a force of"):
        vacancy(rattled, EMT(), repeat=(1, 1, 1), max_steps=2)


def test_far_from_the_minimum_it_is_found() -> None:
    for a in (3.0, 4.2):
        assert crystal(bulk("Cu", a=a, cubic=True), EMT()).lattice_constant == pytest.approx(3.5898, abs=2e-3)


def test_rdf_difference() -> None:
    rng = np.random.default_rng(0)
    perfect = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)

    def frames(sigma: float, n: int = 8) -> list[ase.Atoms]:
        made = []
        for _ in range(n):
            made.append(perfect.copy())
            made[-1].positions += rng.normal(0.0, sigma, perfect.positions.shape)
        return made

    warm = radial_distribution(frames(0.1), r_max=5.0, bins=100)
    again = radial_distribution(frames(0.1), r_max=5.0, bins=100)
    hot = radial_distribution(frames(0.3), r_max=5.0, bins=100)
    assert rdf_difference(warm, warm) == (0.0, {("Cl", "Cl"): 0.0, ("Cl", "Na"): 0.0, ("Na", "Na"): 0.0})
    noise, change = rdf_difference(warm, again), rdf_difference(warm, hot)
    assert 0.0 < noise.total < 0.4 * change.total < 0.4
    assert rdf_difference(hot, warm) == change
    shrunk = perfect.copy()
    shrunk.set_cell(perfect.cell * 0.9, scale_atoms=True)
    apart = rdf_difference(*(radial_distribution([x], r_max=3.5, bins=100) for x in (perfect, shrunk)))
    assert apart.total == 1.0  # no peak on another
    with pytest.raises(ValueError, match="100 bins to 5 Å and with 50 bins to 5 Å"):
        rdf_difference(warm, radial_distribution(frames(0.1, 1), r_max=5.0, bins=50))
    with pytest.raises(ValueError, match="of \\['Cl', 'Na'\\] and of \\['Cu'\\]"):
        rdf_difference(warm, radial_distribution([bulk("Cu")], r_max=5.0, bins=100))
