"""Which equations of motion: initial velocities, degrees of freedom, and ASE's integrators set up for them.

Everything but Langevin conserves the total momentum, which is zero, so 3 degrees of freedom of an unconstrained
system never move. ASE's Nosé–Hoover chains and Bussi thermostat count them all the same and heat the others by
N/(N − 1): 12 % too hot for ethanol. They are told the true number here, and temperatures are 2 E_kin/(k_B · number).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import ase
import numpy as np
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

Ensemble = Literal["nve", "nvt", "npt"]
Thermostat = Literal["langevin", "nose-hoover", "bussi"]
Barostat = Literal["isotropic", "flexible"]
DRIFT_INTERVAL = 20
"""Steps between removals of the total momentum under Bussi, whose noise makes its rounding errors grow exponentially."""


@dataclass(frozen=True)
class Integrator:
    """`dynamics` moves its atoms; `degrees_of_freedom`; `conserved` gives eV, or None where nothing is conserved."""

    dynamics: MolecularDynamics
    degrees_of_freedom: int
    conserved: Callable[[], float | None]


def initial_velocities(atoms: ase.Atoms, temperature_K: float | None, rng: np.random.Generator) -> str:
    """Keep momenta that are there, else draw from Maxwell–Boltzmann with zero total momentum; says in words which.

    Drawn velocities are not scaled to the temperature exactly: its fluctuation belongs to the distribution. Changes
    `atoms`. Raises ValueError where there are neither momenta nor a temperature.
    """
    momenta = atoms.get_momenta()
    if np.any(momenta != 0.0):
        if not np.isfinite(momenta).all():
            raise ValueError("the structure has velocities that are not finite")
        return "those of the structure"
    if temperature_K is None:
        raise ValueError("the structure has no velocities: give temperature_K to draw some")
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature_K)
    atoms.set_momenta(momenta)  # constraints are applied
    if not atoms.constraints and len(atoms) > 1:
        remove_drift(atoms)
    return f"Maxwell–Boltzmann at {temperature_K:g} K"


def remove_drift(atoms: ase.Atoms) -> None:
    """Take the velocity of the centre of mass from every atom."""
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())


def drifts(atoms: ase.Atoms) -> bool:
    """Whether more than rounding of the kinetic energy is in the motion of the centre of mass."""
    total = atoms.get_momenta().sum(axis=0)
    return bool(total @ total / (2.0 * atoms.get_masses().sum()) > 1e-10 * atoms.get_kinetic_energy())


def make_integrator(
    atoms: ase.Atoms,
    *,
    ensemble: Ensemble,
    temperature_K: float | None,
    pressure_GPa: float | None,
    timestep_fs: float,
    thermostat: Thermostat,
    thermostat_time_fs: float,
    barostat: Barostat,
    barostat_time_fs: float,
    rng: np.random.Generator,
) -> Integrator:
    """ASE's integrator for atoms with a calculator and velocities. Arguments as in `simulate.run`, already checked."""
    dt, tau = timestep_fs * units.fs, thermostat_time_fs * units.fs
    n, total = len(atoms), lambda: float(atoms.get_total_energy())
    if ensemble == "nvt" and thermostat == "langevin":
        assert temperature_K is not None
        moving = Langevin(atoms, dt, temperature_K=temperature_K, friction=1.0 / tau, fixcm=False, rng=rng)
        return Integrator(moving, _all_freedoms(atoms), lambda: None)
    if ensemble == "nve":
        still = not atoms.constraints and n > 1 and not drifts(atoms)
        return Integrator(VelocityVerlet(atoms, dt), 3 * n - 3 if still else _all_freedoms(atoms), total)
    assert temperature_K is not None
    freedoms = _all_freedoms(atoms)
    if not atoms.constraints:
        if drifts(atoms):
            warnings.warn("the centre of mass moves: its velocity is taken away", stacklevel=3)
            remove_drift(atoms)
        freedoms = 3 * n - 3
    if ensemble == "nvt" and thermostat == "bussi":
        bussi = Bussi(atoms, dt, temperature_K, tau, rng=rng)
        bussi.ndof = freedoms
        bussi.target_kinetic_energy = 0.5 * freedoms * units.kB * temperature_K
        if not atoms.constraints:
            bussi.attach(remove_drift, DRIFT_INTERVAL, atoms)
        return Integrator(bussi, freedoms, lambda: total() - bussi.transferred_energy)
    chain: NoseHooverChainNVT | IsotropicMTKNPT | MTKNPT
    if ensemble == "nvt":
        chain = NoseHooverChainNVT(atoms, dt, temperature_K, tau)
    else:
        assert pressure_GPa is not None
        kind = IsotropicMTKNPT if barostat == "isotropic" else MTKNPT
        chain = kind(atoms, dt, temperature_K, pressure_GPa * units.GPa, tau, barostat_time_fs * units.fs)
        chain._num_atoms_global = n - 1
    chain._thermostat._num_atoms_global = n - 1

    def conserved() -> float | None:
        try:
            return float(chain.get_conserved_energy())
        except PropertyNotImplementedError:  # a calculator without free_energy
            return None

    return Integrator(chain, freedoms, conserved)


def _all_freedoms(atoms: ase.Atoms) -> int:
    return int(atoms.get_number_of_degrees_of_freedom())
