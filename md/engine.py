"""The loop on the device: many steps in one call, lists rebuilt when atoms have moved, guards watched at every step.

    B   v += F/m · dt/2      (and v_g under a barostat)
    A   r += v · dt/2        (and the cell)
    O   thermostat, dt
    A   r += v · dt/2
        forces, from a list that is rebuilt first if it might miss a pair
    B   v += F/m · dt/2

Without thermostat and barostat this is velocity Verlet: Swope et al., J. Chem. Phys. 76, 637 (1982). With one it is the "middle"
scheme of Zhang, Liu, Yan, Tuckerman, Liu, J. Phys. Chem. A 123, 6056 (2019), whose configurations are more accurate than those
of thermostats at the ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ase import units
from jax import lax

from adatom.md.barostats import berendsen, cell_mass, drift, kick, kick_cell
from adatom.md.field import Field, Forces
from adatom.md.guards import Guard
from adatom.md.neighbours import NeighbourList, Plan, build, stale
from adatom.md.state import CHAIN, Conditions, Ensemble, State, kinetic, trace, volumes
from adatom.md.system import System
from adatom.md.thermostats import chain_energy, thermostat
from adatom.potential.compilation import jit

Array = jax.Array


class Setup(NamedTuple):
    """Static: what decides the compiled code."""

    ensemble: Ensemble
    plan: Plan
    skin: float
    guards: tuple[Guard, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Progress:
    """Carried through the loop. alive (s,): not stopped by a guard; tripped (s,) which guard, −1 for none; stopped_at (s,) step;
    offending: the state each stopped structure had there; scores (a,) of that guard; rebuilds ()."""

    state: State
    neighbours: NeighbourList
    alive: Array
    tripped: Array
    stopped_at: Array
    offending: State
    scores: Array
    rebuilds: Array


class Sample(NamedTuple):
    """One row of the table per structure (s,): eV, K, GPa, Å³, Å, eV/Å."""

    temperature: Array
    potential: Array
    kinetic: Array
    conserved: Array
    pressure: Array
    stress: Array
    volume: Array
    nearest: Array
    spread: Array


def _with(state: State, system: System, field: Field, forces: Forces) -> State:
    approach = (field.shortest_seen[system.species] / jnp.maximum(forces.nearest, 1e-9)).max(axis=1)
    return replace(
        state, forces=forces.forces, energy=forces.energy, virial=forces.virial, spread=forces.spread,
        nearest=-system.highest(-forces.nearest.min(axis=1)),
        approach=jnp.maximum(state.approach, system.highest(approach)),
    )  # fmt: skip


def move(setup: Setup, system: System, conditions: Conditions, state: State) -> State:
    """B A O A, and Berendsen's scaling of the cell: to where the next forces are needed."""
    e = setup.ensemble
    state = kick(e, system, conditions, kick_cell(e, system, conditions, state))
    if e.thermostat == "none" and e.barostat == "none" and not any(e.held):
        return replace(state, positions=state.positions + conditions.timestep * state.velocities)
    state = drift(e, system, conditions, state)
    state = drift(e, system, conditions, thermostat(e, system, conditions, state))
    return berendsen(e, system, conditions, state)


def finish(setup: Setup, system: System, conditions: Conditions, state: State) -> State:
    """The last B."""
    e = setup.ensemble
    return kick_cell(e, system, conditions, kick(e, system, conditions, state))


def watch(setup: Setup, system: System, conditions: Conditions, state: State, forces: Forces) -> tuple[Array, Array]:
    """Which guard each structure trips (s,), −1 for none, the first of several; and its scores (a,)."""
    tripped = jnp.full(system.n_structures, -1, dtype=jnp.int32)
    shown = jnp.zeros(system.n_rows, dtype=state.positions.dtype)
    for n, guard in enumerate(setup.guards):
        score = guard.score(system, conditions, state, forces)
        over = jnp.where(system.atom_mask & ~(score <= conditions.limits[n]), 1.0, 0.0)
        now = (system.highest(over) > 0.0) & (tripped < 0)
        tripped = jnp.where(now, n, tripped)
        shown = jnp.where(now[system.structure], score, shown)
    return tripped, shown


def begin(system: System, neighbours: NeighbourList, positions: Array, velocities: Array, cell: Array) -> Progress:
    """Before step 0: forces are not known yet; the first `advance` finds them without moving anything."""
    s, a = system.n_structures, system.n_rows
    zero, tensor = jnp.zeros(s, dtype=positions.dtype), jnp.zeros((s, 3, 3), dtype=positions.dtype)
    chain, per_atom = jnp.zeros((s, 2, CHAIN), dtype=positions.dtype), jnp.zeros(a, dtype=positions.dtype)
    none = jnp.zeros((), dtype=jnp.int32)
    state = State(
        none - 1, positions, velocities, jnp.zeros_like(positions), per_atom, cell, tensor, chain, chain,
        zero, zero, tensor, zero, zero,
    )  # fmt: skip
    nobody = jnp.full(s, -1, dtype=jnp.int32)
    return Progress(state, neighbours, nobody < 0, nobody, nobody, state, per_atom, none)


@partial(jit, static_argnames=("setup",))
def relist(setup: Setup, field: Field, system: System, progress: Progress) -> Progress:
    """The same list in the capacities of the plan: of the atoms where it was built."""
    old, length = progress.neighbours, field.cutoff + setup.skin
    return replace(progress, neighbours=build(system, setup.plan, old.positions, old.cell, length))


@partial(jit, static_argnames=("setup",))
def advance(
    setup: Setup, field: Field, system: System, conditions: Conditions, progress: Progress, until: Array
) -> tuple[Progress, Sample]:
    """To step `until`, or to where every structure has stopped, or where the list overflowed (check: then discard the result)."""
    length, several = field.cutoff + setup.skin, system.n_structures > 1

    def going(p: Progress) -> Array:
        return (p.state.step < until) & p.alive.any() & ~p.neighbours.overflow

    def step(p: Progress) -> Progress:
        first = p.state.step < 0
        moved = lax.cond(first, lambda: p.state, lambda: move(setup, system, conditions, p.state))
        if several:
            moved = State.choose(p.alive, system, moved, p.state)
        old = stale(
            system, p.neighbours, moved.positions, moved.cell, cutoff=field.cutoff, skin=setup.skin,
            moving_cell=setup.ensemble.barostat != "none",
        )  # fmt: skip
        neighbours = lax.cond(
            old, lambda: build(system, setup.plan, moved.positions, moved.cell, length), lambda: p.neighbours
        )
        due = (p.state.step + 1) % conditions.spread_every == 0
        forces = field.evaluate(system, neighbours, moved.positions, moved.cell, due=due, before=p.state.spread)
        there = _with(moved, system, field, forces)
        new = lax.cond(first, lambda: there, lambda: finish(setup, system, conditions, there))
        new = replace(new, step=p.state.step + 1)
        tripped, scores = watch(setup, system, conditions, new, forces)
        trips = p.alive & (tripped >= 0)
        state = State.choose(p.alive & ~trips, system, new, p.state)
        offending, shown = lax.cond(
            trips.any(),
            lambda: (State.choose(trips, system, new, p.offending), jnp.where(trips[system.structure], scores, p.scores)),
            lambda: (p.offending, p.scores),
        )
        return Progress(
            state, neighbours, p.alive & ~trips, jnp.where(trips, tripped, p.tripped),
            jnp.where(trips, new.step, p.stopped_at), offending, shown, p.rebuilds + old.astype(jnp.int32),
        )  # fmt: skip

    there = lax.while_loop(going, step, progress)
    return there, sample(setup, system, conditions, there.state)


def sample(setup: Setup, system: System, conditions: Conditions, state: State) -> Sample:
    """What the table says about this moment."""
    ensemble = setup.ensemble
    twice, volume = kinetic(system, state.velocities), volumes(state.cell)
    solid = system.pbc.all(axis=1)
    energy = 0.5 * trace(twice)
    thermal, pressure = conditions.at(state.step)
    conserved = state.energy + energy - state.heat + chain_energy(ensemble, conditions, state, thermal)
    if ensemble.barostat in ("isotropic", "flexible"):
        moving = 0.5 * cell_mass(conditions, thermal) * (state.cell_velocity**2).sum(axis=(1, 2))
        conserved = conserved + moving + pressure * volume
    fixed = ensemble.thermostat == "nose-hoover" or ensemble.barostat != "none"
    if ensemble.barostat == "berendsen" or (ensemble.ramped and fixed):
        conserved = jnp.full_like(conserved, jnp.nan)
    stress = jnp.where(solid[:, None, None], (state.virial - twice) / volume[:, None, None], jnp.nan)
    return Sample(
        trace(twice) / (units.kB * jnp.maximum(conditions.freedoms, 1.0)), state.energy, energy, conserved,
        -trace(stress) / (3.0 * units.GPa), stress / units.GPa, jnp.where(solid, volume, jnp.nan), state.nearest,
        system.highest(state.spread),
    )  # fmt: skip
