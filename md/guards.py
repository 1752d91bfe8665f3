"""When to stop: the first sign that a run is no longer physics, found inside the loop, in words that name the atoms.

A guard gives every atom a number; where one is above its limit, or not a number, its structure stops before that step counts.
The loop keeps the last good state and the offending one. Anything else that should stop a run is one more guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase import units

from adatom.md.field import Forces
from adatom.md.state import Conditions, State, kinetic, trace, volumes
from adatom.md.system import System

Array = jax.Array
MAX_STEP_A = 0.5
"""Å that an atom may move in one step; hydrogen at 10,000 K and 1 fs moves 0.16."""
LOST_A = 1000.0


class Guard(NamedTuple):
    """score(system, conditions, state, forces) -> (a,); message, with {value}, {limit} and {atoms} (worst first).

    Static under jit: make it once, at module level, and give its limit apart.
    """

    name: str
    score: Callable[[System, Conditions, State, Forces], Array]
    message: str


def _not_numbers(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    fine = jnp.isfinite(state.positions) & jnp.isfinite(state.velocities) & jnp.isfinite(forces.forces)
    return jnp.where(fine.all(axis=1) & jnp.isfinite(forces.energy)[system.structure], 0.0, 1.0)


def _moved(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    return conditions.timestep * jnp.sqrt((state.velocities**2).sum(axis=1))


def _temperature(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    twice = trace(kinetic(system, state.velocities))
    return (twice / (units.kB * jnp.maximum(conditions.freedoms, 1.0)))[system.structure]


def _closeness(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    return (conditions.shortest[system.species] / jnp.maximum(forces.nearest, 1e-9)).max(axis=1)


def _swelling(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    change = jnp.abs(jnp.log(volumes(state.cell) / conditions.first_volume))
    return jnp.where(system.pbc.all(axis=1), jnp.exp(change), 1.0)[system.structure]


def _distance(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    real = system.atom_mask.astype(state.positions.dtype)[:, None]
    middle = system.total(state.positions * real) / system.total(real)
    away = jnp.abs(state.positions - middle[system.structure])
    return jnp.where(system.pbc[system.structure], 0.0, away).max(axis=1) - conditions.first_extent[system.structure]


def _spread(system: System, conditions: Conditions, state: State, forces: Forces) -> Array:
    return forces.spread


STANDARD = (
    Guard("not a number", _not_numbers, "position, velocity, force or energy is not finite: {atoms}"),
    Guard("exploded", _moved, "exploded, {value:.2f} Å in one step: {atoms}; the timestep is too long or the potential fails"),
    Guard("hot", _temperature, "temperature is {value:.0f} K (limit {limit:.0f} K), hottest: {atoms}"),
    Guard("close", _closeness, "atoms too close, {value:.2f} times closer than the limit: {atoms}"),
    Guard("volume", _swelling, "the volume has changed {value:.1f} times"),
    Guard("lost", _distance, "lost atoms: {value:.0f} Å beyond the first extent of the structure, farthest: {atoms}"),
)
SPREAD = Guard("spread", _spread, "the committee disagrees: forces spread by {value:.3f} eV/Å (limit {limit:g}): {atoms}")


def standard_limits(hottest_K: float) -> tuple[float, ...]:
    """Limits of STANDARD, in its order."""
    return (0.5, MAX_STEP_A, hottest_K, 1.0, 10.0, LOST_A)


def complaint(guard: Guard, limit: float, scores: np.ndarray, atoms: ase.Atoms) -> str:
    """In words; scores (atoms,) of one structure, in the order of `atoms`."""
    bad = np.flatnonzero(~(scores <= limit))
    speed = np.nan_to_num((atoms.get_velocities() ** 2).sum(axis=1) * atoms.get_masses(), nan=np.inf)
    with np.errstate(invalid="ignore"):
        worst = bad[np.lexsort((-speed[bad], -np.nan_to_num(scores[bad], nan=np.inf)))]
    return guard.message.format(value=float(scores[worst[0]]), limit=limit, atoms=name_atoms(atoms, worst))


def name_atoms(atoms: ase.Atoms, indices: Sequence[int] | np.ndarray) -> str:
    """"atom 3 (Si)", "atoms 3 (Si), 7 (O) and 12 more"."""
    named = ", ".join(f"{a} ({atoms.symbols[a]})" for a in indices[:4])
    more = f" and {len(indices) - 4} more" if len(indices) > 4 else ""
    return f"{'atom' if len(indices) == 1 else 'atoms'} {named}{more}"
