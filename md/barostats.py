"""Barostats: how the cell moves with the atoms, the B and A of the B A O A B splitting.

Martyna–Tobias–Klein, J. Chem. Phys. 101, 4177 (1994), in the measure-preserving splitting of Tuckerman et al., J. Phys. A 39,
5629 (2006). With the symmetric rate of deformation v_g, the projection P on the components that may change (trace/3 · 1 for
"isotropic"), and the N_f degrees of freedom of the atoms:

    dr/dt = v + v_g r          dv/dt = F/m − (v_g + tr(v_g)/N_f) v          dh/dt = v_g h
    W dv_g/dt = P[Σ m v⊗v − V·stress − V p + (2K/N_f) 1]                    W = (N_f + 3) kT τ_b²/3

    | symbol | variable | |
    |---|---|---|
    | v_g | state.cell_velocity | symmetric: the cell does not turn |
    | V·stress | state.virial | dE/dε |
    | p | pressure | target at this step |
    | h | state.cell, transposed | columns are lattice vectors |
    | Σ m v⊗v, 2K | kinetic(…), its trace | |

Conserved: E + K + ½ W tr v_g² + p V, plus what the thermostat adds. `isotropic` (one component) and `flexible` (those chosen)
give the isothermal–isobaric ensemble with any of langevin, nose-hoover and bussi, which then act on v_g as well.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from adatom.md.state import Conditions, Ensemble, State, kinetic, trace, volumes
from adatom.md.system import System

Array = jax.Array


def cell_components(ensemble: Ensemble) -> float:
    """n_g: independent components of v_g."""
    if ensemble.barostat == "isotropic":
        return 1.0
    return float(np.triu(np.array(ensemble.components)).sum()) if ensemble.barostat == "flexible" else 0.0


def cell_mass(conditions: Conditions, thermal: Array) -> Array:
    """W (s,)."""
    return (conditions.freedoms + 3.0) * thermal * conditions.barostat_time**2 / 3.0


def project(ensemble: Ensemble, x: Array) -> Array:
    """P of a symmetric tensor (s, 3, 3)."""
    if ensemble.barostat == "isotropic":
        return trace(x)[:, None, None] / 3.0 * jnp.eye(3, dtype=x.dtype)[None]
    return jnp.where(jnp.asarray(ensemble.components)[None], x, 0.0)


def kick(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """B: v under the forces for half a timestep (and v_g)."""
    half = 0.5 * conditions.timestep
    push = state.forces / system.masses[:, None]
    if ensemble.barostat not in ("isotropic", "flexible"):
        return replace(state, velocities=(state.velocities + half * push) * system.movable)
    rate, turn = jnp.linalg.eigh(state.cell_velocity)
    drag = rate + (rate.sum(axis=1) / conditions.freedoms)[:, None]
    along, q = turn[system.structure], 0.5 * half * drag
    v = jnp.einsum("ad,adc->ac", state.velocities, along, precision="highest")
    f = jnp.einsum("ad,adc->ac", push, along, precision="highest")
    v = v * jnp.exp(-2.0 * q)[system.structure] + half * f * (jnp.exp(-q) * _sinhc(q))[system.structure]
    return replace(state, velocities=jnp.einsum("ac,adc->ad", v, along, precision="highest"))


def kick_cell(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """The part of B that moves v_g: half a timestep under the pressure."""
    if ensemble.barostat not in ("isotropic", "flexible"):
        return state
    thermal, pressure = conditions.at(state.step)
    twice = kinetic(system, state.velocities)
    one = jnp.eye(3, dtype=twice.dtype)[None]
    excess = (trace(twice) / conditions.freedoms - volumes(state.cell) * pressure)[:, None, None] * one
    force = project(ensemble, twice - state.virial + excess)
    mass = cell_mass(conditions, thermal)[:, None, None]
    return replace(state, cell_velocity=state.cell_velocity + 0.5 * conditions.timestep * force / mass)


def drift(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """A: positions (and cell) at their velocities for half a timestep."""
    half = 0.5 * conditions.timestep
    if ensemble.barostat not in ("isotropic", "flexible"):
        return replace(state, positions=state.positions + half * state.velocities)
    rate, turn = jnp.linalg.eigh(state.cell_velocity)
    along, q = turn[system.structure], 0.5 * half * rate
    r = jnp.einsum("ad,adc->ac", state.positions, along, precision="highest")
    v = jnp.einsum("ad,adc->ac", state.velocities, along, precision="highest")
    r = r * jnp.exp(2.0 * q)[system.structure] + half * v * (jnp.exp(q) * _sinhc(q))[system.structure]
    grow = jnp.einsum("sce,se,sde->scd", turn, jnp.exp(2.0 * q), turn, precision="highest")
    return replace(
        state, positions=jnp.einsum("ac,adc->ad", r, along, precision="highest"),
        cell=jnp.einsum("scd,sde->sce", state.cell, grow, precision="highest"),
    )  # fmt: skip


def berendsen(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """Cell and positions scaled by μ = [1 − (κ dt/τ_b)(p_target − p)]^⅓, at most 1 % a step. Equilibration only.

    Berendsen et al., J. Chem. Phys. 81, 3684 (1984), eq. 21; κ is conditions.compressibility.
    """
    if ensemble.barostat != "berendsen":
        return state
    _, pressure = conditions.at(state.step)
    volume = volumes(state.cell)
    now = trace(kinetic(system, state.velocities) - state.virial) / (3.0 * volume)
    change = conditions.compressibility * conditions.timestep / conditions.barostat_time * (pressure - now)
    scale = jnp.clip(1.0 - change, 0.97, 1.03) ** (1.0 / 3.0)
    positions = state.positions * scale[system.structure][:, None]
    return replace(state, positions=positions, cell=state.cell * scale[:, None, None])


def _sinhc(x: Array) -> Array:
    """sinh(x)/x, by its series near zero."""
    small = jnp.abs(x) < 1e-2
    y = jnp.where(small, 1.0, x)
    return jnp.where(small, 1.0 + x * x / 6.0 * (1.0 + x * x / 20.0), jnp.sinh(y) / y)
