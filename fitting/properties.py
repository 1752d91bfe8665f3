"""Properties by which potentials are judged, of any ASE calculator: crystals, elasticity, defects, surfaces, liquids.

    E(V) = c0 + c1 x + c2 x² + c3 x³,  x = V^(−2/3):  Birch–Murnaghan of third order, a linear fit;  B = V d²E/dV²
    C_ij = dσ_i/dε_j (matscipy), ions relaxed;  B = (C11 + 2 C12)/3 in a cubic crystal
    E_f = E(N−1 atoms) − (N−1)/N E(N),  γ = (E_slab − N E_bulk/atom)/(2A)

Birch, Phys. Rev. 71, 809 (1947). The calculator needs energies and forces, and stress for the elastic constants. Nothing given is
changed: atoms are copied and the calculator stays where it was. Constraints are dropped. Atoms relax until no force is above
`max_force_eV_A`; ValueError where `max_steps` are not enough, and for energies that are not finite.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import LBFGS
from matscipy.elasticity import fit_elastic_constants, generate_strained_configs
from numpy.typing import NDArray

from adatom.fitting.active import builders
from adatom.md.observables.rdf import RDF
from adatom.potential.units import GPA

Array = NDArray[np.float64]
Symmetry = Literal["triclinic", "orthorhombic", "hexagonal", "cubic"]
J_PER_M2 = 1e20 / units.J
"""1 eV/Å² in J/m² (16.0218…)."""


class Crystal(NamedTuple):
    """At the minimum of E(V): atoms, relaxed, without a calculator; lattice_constant |a| of their cell [Å]; volume [Å³/atom];
    energy [eV/atom]; bulk_modulus B [GPa] and its pressure derivative B′ there; residual of the fit [eV/atom, rms]."""

    atoms: ase.Atoms
    lattice_constant: float
    volume: float
    energy: float
    bulk_modulus: float
    bulk_modulus_derivative: float
    residual: float


class Elastic(NamedTuple):
    """constants (6, 6) [GPa], Voigt order xx yy zz yz xz xy with engineering shear; errors (6, 6) [GPa], of the linear fits."""

    constants: Array
    errors: Array

    @property
    def bulk_modulus(self) -> float:
        """Voigt average Σ_{i,j ≤ 3} C_ij / 9, GPa: (C11 + 2 C12)/3 for cubic symmetry."""
        return float(self.constants[:3, :3].sum() / 9.0)


class Defect(NamedTuple):
    """energy of formation [eV], unrelaxed: with ions held [eV]; atoms, relaxed, without a calculator."""

    energy: float
    unrelaxed: float
    atoms: ase.Atoms


class Surface(NamedTuple):
    """energy of the surface [J/m²], unrelaxed: with ions held [J/m²]; atoms, the relaxed slab, without a calculator."""

    energy: float
    unrelaxed: float
    atoms: ase.Atoms


class RDFDifference(NamedTuple):
    """total and by pair of elements, both from 0 (equal) to 1 (nowhere both other than zero)."""

    total: float
    pairs: dict[tuple[str, str], float]


def crystal(
    atoms: ase.Atoms, calculator: BaseCalculator, *, strain: float = 0.02, points: int = 9, max_force_eV_A: float = 1e-3,
    max_steps: int = 500,
) -> Crystal:  # fmt: skip
    """Minimum of E(V) at fixed shape, ions relaxed at each of `points` volumes within ± `strain` (linear) of the middle.

    The middle follows the lowest energy until that lies well inside. Raises ValueError where that is not so after 20 times.
    """
    if points < 5 or not 0.0 < strain < 0.2:
        raise ValueError(f"a fit needs at least 5 points within a strain between 0 and 0.2, not {points} within {strain}")
    _periodic(atoms)
    ratios, middle = np.linspace(1.0 - strain, 1.0 + strain, points) ** 3, 1.0
    for _ in range(20):
        found = [_relaxed(builders.scaled(_bare(atoms), middle * v), calculator, max_force_eV_A, max_steps) for v in ratios]
        volumes = np.array([x.get_volume() for x, _ in found]) / len(atoms)
        energies = np.array([energy for _, energy in found]) / len(atoms)
        lowest = int(np.argmin(energies))
        if lowest in (0, points - 1):
            middle *= float(ratios[lowest])
            continue
        volume, energy, modulus, derivative, residual = birch_murnaghan(volumes, energies)
        if ratios[points // 4] < volume / volumes[points // 2] < ratios[-1 - points // 4]:
            relaxed, _ = _relaxed(
                builders.scaled(found[lowest][0], volume / volumes[lowest]), calculator, max_force_eV_A, max_steps
            )
            return Crystal(relaxed, float(relaxed.cell.lengths()[0]), volume, energy, modulus, derivative, residual)
        middle *= volume / float(volumes[points // 2])
    raise ValueError(f"no minimum of E(V) was found: the last volumes were {volumes[0]:.4g} to {volumes[-1]:.4g} Å³ an atom")


def birch_murnaghan(volumes: Array, energies: Array) -> tuple[float, float, float, float, float]:
    """Volume, energy, B [GPa], B′ at the minimum, rms residual; volumes (n,) Å³, energies (n,) eV, the same number of atoms.

    Raises ValueError where the cubic in V^(−2/3) has no minimum between the volumes.
    """
    middle, shift = float(np.mean(volumes)), float(np.mean(energies))
    x = (np.asarray(volumes) / middle) ** (-2.0 / 3.0)
    fit = np.polynomial.Polynomial.fit(x, np.asarray(energies) - shift, 3)
    second, third = fit.deriv(2), fit.deriv(3)
    roots = fit.deriv().roots()
    minima = [r.real for r in roots if abs(r.imag) < 1e-12 and second(r.real) > 0.0 and x.min() <= r.real <= x.max()]
    if not minima:
        raise ValueError(f"the fit of E(V) has no minimum between {np.min(volumes):.4g} and {np.max(volumes):.4g} Å³")
    r = float(minima[0])
    volume = middle * r**-1.5
    modulus = 4.0 / 9.0 * r * r * float(second(r)) / volume  # dx/dV = −2x/3V, and E_x = 0
    derivative = 4.0 + 2.0 / 3.0 * r * float(third(r) / second(r))  # B′ = −1 − V E‴/E″
    residual = float(np.sqrt(np.mean((fit(x) + shift - energies) ** 2)))
    return volume, float(fit(r)) + shift, modulus / GPA, derivative, residual


def cohesive_energy(atoms: ase.Atoms, calculator: BaseCalculator, *, free_atoms: Mapping[str, float] | None = None) -> float:
    """Mean energy of the free atoms minus energy of `atoms`, eV/atom: positive where they are bound.

    free_atoms: eV by symbol; else the calculator's own, of one atom without a cell (spin is then the calculator's business).
    """
    symbols = atoms.get_chemical_symbols()
    free = dict(free_atoms) if free_atoms else {s: _energy(ase.Atoms(s, positions=[[0, 0, 0]]), calculator) for s in set(symbols)}
    missing = sorted(set(symbols) - set(free))
    if missing:
        raise ValueError(f"free atoms are given for {', '.join(free)}, but not for {', '.join(missing)}")
    return (sum(free[s] for s in symbols) - _energy(_bare(atoms), calculator)) / len(atoms)


def elastic_constants(
    atoms: ase.Atoms, calculator: BaseCalculator, *, symmetry: Symmetry = "triclinic", delta: float = 0.004, points: int = 5,
    max_force_eV_A: float = 1e-4, max_steps: int = 500,
) -> Elastic:  # fmt: skip
    """Stress against `points` strains `delta` apart, ions relaxed, around `atoms`, which should have no stress (see `crystal`).

    By matscipy's `fit_elastic_constants`. Another symmetry than "triclinic" takes fewer strains, in the standard orientation.
    Such small forces need a potential evaluated in float64.
    """
    _periodic(atoms)
    strained = []
    for deformed in generate_strained_configs(_bare(atoms), symmetry, points, delta):
        relaxed, energy = _relaxed(deformed, calculator, max_force_eV_A, max_steps)
        relaxed.calc = calculator
        stress = relaxed.get_stress()
        relaxed.calc = SinglePointCalculator(relaxed, energy=energy, stress=stress)
        relaxed.info["strain"] = deformed.info["strain"]
        strained.append(relaxed)
    constants, errors = fit_elastic_constants(strained, symmetry, points, delta, verbose=False, graphics=False)
    return Elastic(constants / GPA, errors / GPA)


def vacancy(
    atoms: ase.Atoms, calculator: BaseCalculator, *, repeat: tuple[int, int, int] = (3, 3, 3), max_force_eV_A: float = 1e-2,
    max_steps: int = 500,
) -> Defect:  # fmt: skip
    """Energy to take an atom out of a crystal of one element, at fixed volume, in `repeat` of the relaxed `atoms`.

    The first atom is taken: all must be alike. Raises ValueError for more than one element, whose energy would depend on where
    the atom goes.
    """
    _periodic(atoms, elements=1)
    whole = _bare(atoms).repeat(repeat)
    reference = _energy(whole, calculator) * (len(whole) - 1) / len(whole)
    if len(whole) < 2:
        raise ValueError("a vacancy in a cell of one atom leaves nothing: repeat it more often")
    del whole[0]
    held = _energy(whole, calculator) - reference
    relaxed, energy = _relaxed(whole, calculator, max_force_eV_A, max_steps)
    return Defect(energy - reference, held, relaxed)


def surface(
    atoms: ase.Atoms, calculator: BaseCalculator, miller: Sequence[int], *, thickness_A: float = 15.0, vacuum_A: float = 15.0,
    max_force_eV_A: float = 1e-2, max_steps: int = 500,
) -> Surface:  # fmt: skip
    """Mean energy of the two surfaces (h k l) of a slab of the relaxed `atoms`, at least `thickness_A` thick, pbc T T F.

    miller refer to the cell of `atoms`: give a conventional one. The reference is the energy of `atoms`. Raises ValueError for
    more than one element, whose slabs need not be stoichiometric.
    """
    _periodic(atoms, elements=1)
    bare = _bare(atoms)
    slab = builders.slab(bare, miller, thickness_A, vacuum_A, 1, periodic=False)
    area = 2.0 * float(np.linalg.norm(np.cross(*slab.cell.array[:2])))
    reference = _energy(bare, calculator) / len(bare) * len(slab)
    held = _energy(slab, calculator) - reference
    relaxed, energy = _relaxed(slab, calculator, max_force_eV_A, max_steps)
    return Surface((energy - reference) / area * J_PER_M2, held / area * J_PER_M2, relaxed)


def rdf_difference(first: RDF, second: RDF) -> RDFDifference:
    """Δ = Σ ∫|g − g'| dr / Σ ∫(g + g') dr over pairs of elements a ≤ b: symmetric, without a unit.

    The integrated difference of Fu et al., "Forces are not enough", TMLR 2023, divided so that it does not grow with r_max alone.
    Frames of one run have a difference from noise, too: compare with that of two halves. RDFs come from
    `adatom.md.observables.rdf.radial_distribution`. Raises ValueError for other bins or elements.
    """
    if first.edges.shape != second.edges.shape or not np.allclose(first.edges, second.edges):
        bins, others = (f"{len(x.edges) - 1} bins to {x.edges[-1]:g} Å" for x in (first, second))
        raise ValueError(f"RDFs with {bins} and with {others}")
    if first.g.keys() != second.g.keys():
        raise ValueError(f"RDFs of {sorted({a for a, _ in first.g})} and of {sorted({a for a, _ in second.g})}")
    width = np.diff(first.edges)
    pairs = [(a, b) for a, b in first.g if a <= b]
    apart = {p: float((np.abs(first.g[p] - second.g[p]) * width).sum()) for p in pairs}
    both = {p: float(((first.g[p] + second.g[p]) * width).sum()) for p in pairs}
    shares = {p: apart[p] / both[p] if both[p] else 0.0 for p in pairs}
    return RDFDifference(sum(apart.values()) / (sum(both.values()) or 1.0), shares)


def _bare(atoms: ase.Atoms) -> ase.Atoms:
    return ase.Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)


def _energy(atoms: ase.Atoms, calculator: BaseCalculator) -> float:
    made = atoms.copy()
    made.calc = calculator
    energy = float(made.get_potential_energy())
    if not np.isfinite(energy):
        raise ValueError(f"the energy of {made.get_chemical_formula()} is {energy}")
    return energy


def _relaxed(atoms: ase.Atoms, calculator: BaseCalculator, max_force: float, max_steps: int) -> tuple[ase.Atoms, float]:
    """(relaxed copy without a calculator, its energy in eV), cell fixed."""
    made = _bare(atoms)
    _energy(made, calculator)
    made.calc = calculator
    with LBFGS(made, logfile=os.devnull, maxstep=0.1) as optimiser:
        done = optimiser.run(fmax=max_force, steps=max_steps)
    energy, forces = float(made.get_potential_energy()), made.get_forces()
    if not done or not np.isfinite(energy):
        worst, name = float(np.sqrt((forces**2).sum(axis=1)).max()), made.get_chemical_formula()
        raise ValueError(f"{name} is not relaxed after {max_steps} steps: a force of {worst:.3g} eV/Å is left")
    made.calc = None
    return made, energy


def _periodic(atoms: ase.Atoms, elements: int = 118) -> None:
    if not atoms.pbc.all():
        raise ValueError(f"a crystal is periodic in three directions, pbc is {atoms.pbc.tolist()}")
    if len(set(atoms.numbers.tolist())) > elements:
        raise ValueError(f"{atoms.get_chemical_formula()}: this energy has a reference only for crystals of one element")
