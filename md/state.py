"""What is carried from step to step, and the conditions it is carried under."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from adatom.md.system import System

Array = jax.Array
Thermostat = Literal["none", "langevin", "nose-hoover", "bussi", "berendsen"]
Barostat = Literal["none", "isotropic", "flexible", "berendsen"]
CHAIN = 3
"""Length of Nosé–Hoover chains."""


class Ensemble(NamedTuple):
    """Static. components (3, 3) of the cell's deformation that may change, as nested tuples of bool (flexible barostat)."""

    thermostat: Thermostat
    barostat: Barostat
    components: tuple[tuple[bool, bool, bool], ...] = ((True,) * 3,) * 3
    ramped: bool = False
    held: tuple[bool, bool] = (False, False)
    """Whether in some structure the total momentum, and the total angular momentum, is kept at zero."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditions:
    """Time in Å√(u/eV), energy eV, pressure eV/Å³, positive compresses.

    timestep, thermostat_time, barostat_time (); compressibility () Å³/eV, Berendsen's only; steps () of the whole run, for
    ramps; thermal (s, 2): k_B·T at the start and the end; pressure (s, 2) likewise; freedoms (s,) degrees of freedom; still
    (s, 2): whether total momentum and angular momentum are kept at zero; seeds (s,) uint32; spread_every () steps from one look
    at the committee to the next. For the guards: limits (g,);
    shortest (t, t) Å allowed; first_volume (s,) Å³, first_extent (s,) Å when the run began.
    """

    timestep: Array
    thermostat_time: Array
    barostat_time: Array
    compressibility: Array
    steps: Array
    thermal: Array
    pressure: Array
    freedoms: Array
    still: Array
    seeds: Array
    spread_every: Array
    limits: Array
    shortest: Array
    first_volume: Array
    first_extent: Array

    def at(self, step: Array) -> tuple[Array, Array]:
        """k_B·T and pressure (s,) wanted at a step."""
        x = jnp.clip(step.astype(self.steps.dtype) / jnp.maximum(self.steps, 1.0), 0.0, 1.0)
        return tuple(v[:, 0] + (v[:, 1] - v[:, 0]) * x for v in (self.thermal, self.pressure))  # type: ignore[return-value]


PER_ATOM = ("positions", "velocities", "forces", "spread")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """One moment. a atoms (with padding), s structures, c chain links.

    step () int32; positions (a, 3) Å, unwrapped; velocities (a, 3) √(eV/u); forces (a, 3) eV/Å; spread (a,) eV/Å of a
    committee's forces; cell (s, 3, 3) Å; cell_velocity (s, 3, 3) v_g, symmetric; chain, chain_velocity (s, 2, c): of atoms and of
    the cell; heat (s,) eV put in by stochastic and Berendsen couplings; energy (s,) eV; virial (s, 3, 3) eV = V·stress; nearest
    (s,) Å; approach (s,) largest ratio so far of a pair's shortest distance in the training data to its distance here.
    """

    step: Array
    positions: Array
    velocities: Array
    forces: Array
    spread: Array
    cell: Array
    cell_velocity: Array
    chain: Array
    chain_velocity: Array
    heat: Array
    energy: Array
    virial: Array
    nearest: Array
    approach: Array

    @staticmethod
    def choose(which: Array, system: System, new: State, old: State) -> State:
        """`new` for the structures where `which` (s,), `old` for the others; the step is `new`'s."""
        picked = {"step": new.step}
        of_atoms = which[system.structure]
        for f in fields(State)[1:]:
            x, y = getattr(new, f.name), getattr(old, f.name)
            one = of_atoms if f.name in PER_ATOM else which
            picked[f.name] = jnp.where(one.reshape(-1, *(1,) * (x.ndim - 1)), x, y)
        return State(**picked)


def kinetic(system: System, velocities: Array) -> Array:
    """Twice the kinetic energy as a tensor, Σ m v ⊗ v: (s, 3, 3) eV."""
    v = jnp.where(system.atom_mask[:, None], velocities, 0.0)
    return system.total((system.masses[:, None] * v)[:, :, None] * v[:, None, :])


def volumes(cell: Array) -> Array:
    """(s,) Å³."""
    return jnp.abs(jnp.linalg.det(cell))


def trace(x: Array) -> Array:
    """(s, 3, 3) -> (s,)."""
    return x[:, 0, 0] + x[:, 1, 1] + x[:, 2, 2]
