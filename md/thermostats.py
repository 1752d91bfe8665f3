"""Thermostats: one whole step dt of the coupling between velocities and heat bath, the O of the B A O A B splitting.

Each acts on the velocities of the atoms and, under a barostat, of the cell v_g (mass W, tr v_g² W/2 is its kinetic energy,
n_g components). All symbols:

    | symbol | variable | |
    |---|---|---|
    | N_f | conditions.freedoms | degrees of freedom of the atoms |
    | kT | thermal | target at this step |
    | τ, τ_b | conditions.thermostat_time, barostat_time | |
    | 2K | twice | Σ m v² over the movable coordinates |
    | η, v_η | state.chain, chain_velocity | Nosé–Hoover chain; index 0 atoms, 1 cell |
    | W | cell_mass | of v_g |
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from adatom.md.barostats import cell_components, cell_mass, project
from adatom.md.state import Conditions, Ensemble, State, kinetic, trace
from adatom.md.system import System

Array = jax.Array
SUZUKI = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (SUZUKI, 1.0 - 2.0 * SUZUKI, SUZUKI)


def thermostat(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """Couple atoms and cell to the bath for one timestep."""
    if ensemble.thermostat == "none":
        return _held(ensemble, system, conditions, state)
    thermal, _ = conditions.at(state.step)
    before = _energies(ensemble, system, conditions, state, thermal)
    act = {"langevin": langevin, "nose-hoover": nose_hoover, "bussi": bussi, "berendsen": berendsen}[ensemble.thermostat]
    new = _held(ensemble, system, conditions, act(ensemble, system, conditions, state, thermal))
    if ensemble.thermostat == "nose-hoover":
        return new
    return replace(new, heat=state.heat + _energies(ensemble, system, conditions, new, thermal) - before)


def langevin(ensemble: Ensemble, system: System, conditions: Conditions, state: State, thermal: Array) -> State:
    """v ← c v + √((1 − c²) kT/m) ξ with c = exp(−dt/τ); the cell likewise with τ_b and W.

    With B A before and A B after it, this is BAOAB: Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34.
    Samples every degree of freedom by itself; total momentum is not conserved.
    """
    keep = jnp.exp(-conditions.timestep / conditions.thermostat_time)
    noise = _atom_noise(system, conditions, state.step)
    width = jnp.sqrt((1.0 - keep * keep) * thermal[system.structure] / system.masses)
    velocities = (keep * state.velocities + width[:, None] * noise) * system.movable
    state = replace(state, velocities=velocities)
    if ensemble.barostat not in ("isotropic", "flexible"):
        return state
    keep = jnp.exp(-conditions.timestep / conditions.barostat_time)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3, 3), dtype=thermal.dtype))(_keys(conditions, state.step, 1))
    noise = project(ensemble, 0.5 * (noise + noise.transpose(0, 2, 1)))
    width = jnp.sqrt((1.0 - keep * keep) * thermal / cell_mass(conditions, thermal))
    return replace(state, cell_velocity=keep * state.cell_velocity + width[:, None, None] * noise)


def bussi(ensemble: Ensemble, system: System, conditions: Conditions, state: State, thermal: Array) -> State:
    """Stochastic velocity rescaling, v ← α v, v_g ← α v_g:

        α² = c + (1 − c) (kT/2K) (R² + S) + 2 R √(c (1 − c) kT/2K),     c = exp(−dt/τ), R ~ N(0, 1), S ~ χ²(N − 1)

    α has the sign of R + √(c 2K/((1 − c) kT)). N and K count the cell, too. Bussi, Donadio, Parrinello, J. Chem. Phys. 126,
    014101 (2007), eq. A7; sign: Bussi, Parrinello, Comput. Phys. Commun. 179, 26 (2008); with a barostat: Bussi, Zykova-Timan,
    Parrinello, J. Chem. Phys. 130, 074101 (2009). Hardly changes time correlations.
    """
    twice, freedoms = trace(kinetic(system, state.velocities)), conditions.freedoms
    if ensemble.barostat in ("isotropic", "flexible"):
        twice = twice + cell_mass(conditions, thermal) * (state.cell_velocity**2).sum(axis=(1, 2))
        freedoms = freedoms + cell_components(ensemble)
    keep = jnp.exp(-conditions.timestep / conditions.thermostat_time)
    keys = jax.vmap(jax.random.split)(_keys(conditions, state.step, 0))
    r = jax.vmap(lambda key: jax.random.normal(key, (), dtype=thermal.dtype))(keys[:, 0])
    half = jnp.maximum(0.5 * (freedoms - 1.0), 1e-3)
    s = 2.0 * jax.vmap(lambda key, a: jax.random.gamma(key, a, dtype=thermal.dtype))(keys[:, 1], half)
    s = jnp.where(freedoms > 1.0, s, 0.0)
    moving = twice > 0.0
    ratio = thermal / jnp.where(moving, twice, 1.0)
    square = keep + (1.0 - keep) * ratio * (r * r + s) + 2.0 * r * jnp.sqrt(keep * (1.0 - keep) * ratio)
    sign = jnp.where(r + jnp.sqrt(keep / ((1.0 - keep) * ratio)) < 0.0, -1.0, 1.0)
    return _scaled(system, state, jnp.where(moving, sign * jnp.sqrt(jnp.maximum(square, 0.0)), 1.0))


def berendsen(ensemble: Ensemble, system: System, conditions: Conditions, state: State, thermal: Array) -> State:
    """v ← λ v, λ² = 1 + (dt/τ)(T_target/T − 1), between 0.8 and 1.25. For equilibration only: it samples no ensemble.

    Berendsen et al., J. Chem. Phys. 81, 3684 (1984), eq. 11.
    """
    twice = trace(kinetic(system, state.velocities))
    ratio = conditions.freedoms * thermal / jnp.where(twice > 0.0, twice, 1.0)
    square = 1.0 + conditions.timestep / conditions.thermostat_time * (ratio - 1.0)
    return _scaled(system, state, jnp.where(twice > 0.0, jnp.sqrt(jnp.clip(square, 0.64, 1.5625)), 1.0))


def nose_hoover(ensemble: Ensemble, system: System, conditions: Conditions, state: State, thermal: Array) -> State:
    """A chain of 3 on the atoms (Q₁ = N_f kT τ², Q_k = kT τ²) and one on the cell (n_g, τ_b); third-order Suzuki–Yoshida.

        dv/dt = −v_η₁ v,  Q₁ dv_η₁/dt = 2K − N_f kT − Q₁ v_η₁ v_η₂,  Q_k dv_ηk/dt = Q_{k−1} v²_η(k−1) − kT − Q_k v_ηk v_η(k+1)

    Conserved: H + Σ ½ Q_k v²_ηk + N_f kT η₁ + kT Σ_{k>1} η_k. Martyna, Tuckerman, Tobias, Klein, Mol. Phys. 87, 1117 (1996). Not
    ergodic for stiff, nearly harmonic systems: use langevin there.
    """
    twice = trace(kinetic(system, state.velocities))
    scale, eta, speed = _chain(
        twice, conditions.freedoms, thermal, conditions.thermostat_time, conditions.timestep,
        state.chain[:, 0], state.chain_velocity[:, 0],
    )  # fmt: skip
    new = replace(
        state, velocities=state.velocities * scale[system.structure][:, None],
        chain=state.chain.at[:, 0].set(eta), chain_velocity=state.chain_velocity.at[:, 0].set(speed),
    )  # fmt: skip
    if ensemble.barostat not in ("isotropic", "flexible"):
        return new
    twice = cell_mass(conditions, thermal) * (state.cell_velocity**2).sum(axis=(1, 2))
    freedoms = jnp.full_like(twice, cell_components(ensemble))
    scale, eta, speed = _chain(
        twice, freedoms, thermal, conditions.barostat_time, conditions.timestep, new.chain[:, 1], new.chain_velocity[:, 1]
    )
    return replace(
        new, cell_velocity=new.cell_velocity * scale[:, None, None],
        chain=new.chain.at[:, 1].set(eta), chain_velocity=new.chain_velocity.at[:, 1].set(speed),
    )  # fmt: skip


def _chain_masses(freedoms: Array, thermal: Array, time: Array, links: int) -> Array:
    first = np.zeros(links)
    first[0] = 1.0
    return thermal[:, None] * time * time * (1.0 + (freedoms[:, None] - 1.0) * jnp.asarray(first)[None, :])


def _chain(
    twice: Array, freedoms: Array, thermal: Array, time: Array, dt: Array, eta: Array, speed: Array
) -> tuple[Array, Array, Array]:
    """Scale factor of the velocities (s,), and the chain (s, c) after dt."""
    q = _chain_masses(freedoms, thermal, time, eta.shape[1])
    v = [speed[:, k] for k in range(eta.shape[1])]
    last, scale = len(v) - 1, jnp.ones_like(twice)

    def push(k: int, twice: Array, d: Array) -> None:
        force = twice - freedoms * thermal if k == 0 else q[:, k - 1] * v[k - 1] ** 2 - thermal
        drag = jnp.exp(-0.25 * d * v[k + 1]) if k < last else jnp.ones_like(force)
        v[k] = (v[k] * drag + 0.5 * d * force / q[:, k]) * drag

    for weight in WEIGHTS:
        d = weight * dt
        for k in range(last, -1, -1):
            push(k, twice, d)
        slower = jnp.exp(-d * v[0])
        scale, twice = scale * slower, twice * slower * slower
        eta = eta + d * jnp.stack(v, axis=1)
        for k in range(last + 1):
            push(k, twice, d)
    return scale, eta, jnp.stack(v, axis=1)


def chain_energy(ensemble: Ensemble, conditions: Conditions, state: State, thermal: Array) -> Array:
    """Energy of the chains (s,) eV, zero without any."""
    total = jnp.zeros_like(state.energy)
    if ensemble.thermostat != "nose-hoover":
        return total
    baths = [(0, conditions.freedoms, conditions.thermostat_time)]
    if ensemble.barostat in ("isotropic", "flexible"):
        baths.append((1, jnp.full_like(total, cell_components(ensemble)), conditions.barostat_time))
    for b, freedoms, time in baths:
        q = _chain_masses(freedoms, thermal, time, state.chain.shape[2])
        eta, v = state.chain[:, b], state.chain_velocity[:, b]
        total = total + 0.5 * (q * v * v).sum(axis=1) + thermal * ((freedoms - 1.0) * eta[:, 0] + eta.sum(axis=1))
    return total


def _energies(ensemble: Ensemble, system: System, conditions: Conditions, state: State, thermal: Array) -> Array:
    """Kinetic energy of atoms and cell (s,)."""
    total = 0.5 * trace(kinetic(system, state.velocities))
    if ensemble.barostat in ("isotropic", "flexible"):
        total = total + 0.5 * cell_mass(conditions, thermal) * (state.cell_velocity**2).sum(axis=(1, 2))
    return total


def _scaled(system: System, state: State, factor: Array) -> State:
    velocities = state.velocities * factor[system.structure][:, None]
    return replace(state, velocities=velocities, cell_velocity=state.cell_velocity * factor[:, None, None])


def _keys(conditions: Conditions, step: Array, purpose: int) -> Array:
    """A key of their own for every structure (s,), step and purpose: nothing is carried, a restart draws the same numbers."""
    fold = jax.vmap(lambda seed: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose))
    return fold(conditions.seeds)


def _atom_noise(system: System, conditions: Conditions, step: Array) -> Array:
    """Standard normal (a, 3); a structure gets the same numbers alone and in a batch."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (system.largest, 3), dtype=system.masses.dtype))
    noise = draw(_keys(conditions, step, 0)).reshape(-1, 3)
    return noise[system.structure * system.largest + system.rank]


def _held(ensemble: Ensemble, system: System, conditions: Conditions, state: State) -> State:
    """Total momentum, and angular momentum about the centre of mass, back to zero where they are kept there."""
    if not any(ensemble.held):
        return state
    mass = jnp.where(system.atom_mask, system.masses, 0.0)[:, None]
    total = system.total(mass)
    shift = jnp.where(conditions.still[:, :1], system.total(mass * state.velocities) / total, 0.0)
    v = state.velocities - shift[system.structure]
    if ensemble.held[1]:
        r = state.positions - (system.total(mass * state.positions) / total)[system.structure]
        momentum = system.total(mass * jnp.cross(r, v))
        square = (r * r).sum(axis=1)[:, None, None] * jnp.eye(3, dtype=r.dtype)[None]
        inertia = system.total(mass[:, :, None] * (square - r[:, :, None] * r[:, None, :]))
        size = 1e-10 * trace(inertia) + 1e-30  # a linear molecule has no inertia about its axis, and no momentum
        turn = jnp.linalg.solve(inertia + size[:, None, None] * jnp.eye(3, dtype=r.dtype)[None], momentum[:, :, None])[:, :, 0]
        v = v - jnp.cross(jnp.where(conditions.still[:, 1:], turn, 0.0)[system.structure], r)
    return replace(state, velocities=v * system.movable)
