"""Means and variances beside those of ASE's thermostats and barostats."""

from __future__ import annotations

from typing import Any

import numpy as np

from validation.argon import CUTOFF, EVERY, PRESSURES_GPA, TEMPERATURES, TIMESTEP_FS, argon, ours, pair, steps_of
from validation.rows import Row, Series, both


def ase_calculator() -> Any:
    """The potential in NumPy on matscipy's list, from a table fine enough for 12 digits."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
    from matscipy.neighbours import neighbour_list
    from scipy.interpolate import CubicSpline

    square = np.linspace(2.2**2, CUTOFF**2, 40_000)
    e, slope = pair(np.sqrt(square))
    energy, pull = CubicSpline(square, e), CubicSpline(square, slope / np.sqrt(square))

    class Tabulated(Calculator):
        implemented_properties = ["energy", "forces", "stress"]

        def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            assert self.atoms is not None
            i, d = neighbour_list("iD", self.atoms, CUTOFF)
            r2 = (d * d).sum(axis=1)
            g = pull(r2)[:, None] * d
            forces = np.stack([np.bincount(i, weights=g[:, c], minlength=len(self.atoms)) for c in range(3)], axis=1)
            self.results["energy"], self.results["forces"] = 0.5 * energy(r2).sum(), forces
            self.results["stress"] = full_3x3_to_voigt_6_stress(0.5 * d.T @ g / self.atoms.get_volume())

    return Tabulated()


def against_ase(rows: list[Row]) -> None:
    """IsotropicMTKNPT counts 3N degrees of freedom though momentum is conserved: its temperature is given as T (N − 1)/N."""
    from ase import units
    from ase.constraints import FixCom
    from ase.md.bussi import Bussi
    from ase.md.langevin import Langevin
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    fs, kelvin = units.fs, TEMPERATURES[0]
    cases = {"Langevin": ("langevin", None), "Bussi": ("bussi", None), "IsotropicMTKNPT": ("nose-hoover", "isotropic")}
    for name, (thermostat, barostat) in cases.items():
        atoms, rng = argon(), np.random.default_rng(1)
        n = len(atoms)
        atoms.calc = ase_calculator()
        velocities = rng.standard_normal((n, 3)) * np.sqrt(units.kB * kelvin / atoms.get_masses()[:, None])
        atoms.set_velocities(velocities - velocities.mean(axis=0))
        dynamics: Any
        if name == "Langevin":
            dynamics = Langevin(atoms, TIMESTEP_FS * fs, temperature_K=kelvin, friction=1.0 / (200.0 * fs), fixcm=False, rng=rng)
        elif name == "Bussi":
            atoms.set_constraint(FixCom())
            dynamics = Bussi(atoms, TIMESTEP_FS * fs, temperature_K=kelvin, taut=200.0 * fs, rng=rng)
        else:
            dynamics = IsotropicMTKNPT(
                atoms, TIMESTEP_FS * fs, temperature_K=kelvin * (n - 1) / n, pressure_au=PRESSURES_GPA[0] * units.GPa,
                tdamp=200.0 * fs, pdamp=1000.0 * fs,
            )  # fmt: skip
        found: list[tuple[float, ...]] = []
        for _ in range(steps_of(15_000) // EVERY):
            dynamics.run(EVERY)
            pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
            found.append((atoms.get_kinetic_energy(), atoms.get_potential_energy(), atoms.get_volume(), pressure, 0.0))
        theirs = Series(*np.array(found[len(found) // 10 :]).T)
        both(rows, "ASE", name, ours(thermostat, barostat)[0][0], theirs, cell=barostat is not None)
