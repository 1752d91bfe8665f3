"""When to stop: the first sign that a run is no longer physics, in words that name the step's atoms."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
from ase import units

MAX_STEP_A = 0.5
"""Å that an atom may move in one step; hydrogen at 10,000 K and 1 fs moves 0.16."""


@dataclass(frozen=True)
class Guard:
    """Limits of a run, fixed at its start: temperature K, volume Å³ (nan without a 3-D cell), extent (3,) Å."""

    max_temperature: float
    volume: float
    extent: np.ndarray
    timestep: float
    degrees_of_freedom: int

    def complaint(self, atoms: ase.Atoms) -> str | None:
        """What is wrong with this state, or None. Energy and forces are taken from the calculator."""
        energy, forces, momenta = float(atoms.get_potential_energy()), atoms.get_forces(md=True), atoms.get_momenta()
        for name, array in (("position", atoms.positions), ("force", forces), ("velocity", momenta)):
            bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if len(bad):
                return f"{name} is not finite: {name_atoms(atoms, bad)}"
        if not np.isfinite(energy):
            return f"potential energy is {energy}"
        masses = atoms.get_masses()
        squares = (momenta * momenta).sum(axis=1)
        moved = np.sqrt(squares) / masses * self.timestep
        if moved.max() > MAX_STEP_A:
            worst = np.argsort(-moved)
            return (
                f"exploded: {name_atoms(atoms, worst[moved[worst] > MAX_STEP_A])} at {moved.max():.2f} Å a step; "
                "the timestep is too long or the potential fails here"
            )
        if self.degrees_of_freedom:
            temperature = (squares / masses).sum() / (units.kB * self.degrees_of_freedom)
            if temperature > self.max_temperature:
                hot = np.argsort(-squares / masses)
                limit = f"limit {self.max_temperature:.0f} K"
                return f"temperature is {temperature:.0f} K ({limit}), hottest: {name_atoms(atoms, hot)}"
        if np.isfinite(self.volume) and not 0.1 < atoms.get_volume() / self.volume < 10.0:
            return f"the cell went from {self.volume:.1f} to {atoms.get_volume():.1f} Å³"
        grown = np.ptp(atoms.positions, axis=0) - self.extent
        if not atoms.pbc.all() and grown.max() > 1000.0:
            away = np.argsort(-np.abs(atoms.positions - np.median(atoms.positions, axis=0)).max(axis=1))
            return f"lost atoms: the structure has grown by {grown.max():.0f} Å, farthest: {name_atoms(atoms, away)}"
        return None


def make_guard(atoms: ase.Atoms, *, temperature_K: float | None, timestep_fs: float, degrees_of_freedom: int) -> Guard:
    """Limits from the start: 10 times the larger of the target and the initial temperature, at least 20,000 K."""
    initial = 2.0 * atoms.get_kinetic_energy() / (units.kB * max(degrees_of_freedom, 1))
    return Guard(
        max(20_000.0, 10.0 * max(initial, temperature_K or 0.0)),
        float(atoms.get_volume()) if atoms.pbc.all() else np.nan,
        np.ptp(atoms.positions, axis=0),
        timestep_fs * units.fs,
        degrees_of_freedom,
    )


def name_atoms(atoms: ase.Atoms, indices: np.ndarray) -> str:
    """"atom 3 (Si)", "atoms 3 (Si), 7 (O) and 12 more"."""
    named = ", ".join(f"{a} ({atoms.symbols[a]})" for a in indices[:4])
    more = f" and {len(indices) - 4} more" if len(indices) > 4 else ""
    return f"{'atom' if len(indices) == 1 else 'atoms'} {named}{more}"
