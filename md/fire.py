"""What a method of relaxation is, and FIRE. All structures of a batch move at once, each with step sizes of its own.

A method sees points of a vector space, a `Vector` for every structure: where atoms are before the cell is deformed, and the
deformation, both in Å. It proposes a step, the loop of `adatom.md.relax` evaluates it and accepts it or goes back, and the
method learns from that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adatom.md.system import System

Array = jax.Array
MAX_STEP_A = 0.2
"""Å that neighbouring atoms may move apart in one step."""


class Vector(NamedTuple):
    """atoms (a, 3); cell (s, 3, 3), symmetric. Also with leading axes, where it says so."""

    atoms: Array
    cell: Array


class Method(NamedTuple):
    """Static. Memory is a pytree of the method's own.

    init(system, gradient) -> memory; propose(system, memory, gradient) -> (memory, step);
    learn(system, memory, step, before, after, good) -> memory: gradients at both ends of the step; good (s,): it was accepted.
    descends: a step that raises the energy is not accepted.
    """

    init: Callable[[System, Vector], Any]
    propose: Callable[[System, Any, Vector], tuple[Any, Vector]]
    learn: Callable[[System, Any, Vector, Vector, Vector, Array], Any]
    descends: bool


def dot(system: System, x: Vector, y: Vector) -> Array:
    """(s,)."""
    return system.total((x.atoms * y.atoms).sum(axis=1)) + (x.cell * y.cell).sum(axis=(1, 2))


def scaled(system: System, factor: Array, x: Vector) -> Vector:
    """Each structure's part times its own factor (s,)."""
    return Vector(factor[system.structure][:, None] * x.atoms, factor[:, None, None] * x.cell)


def add(x: Vector, y: Vector) -> Vector:
    return Vector(x.atoms + y.atoms, x.cell + y.cell)


def choose(system: System, which: Array, x: Vector, y: Vector) -> Vector:
    """x for the structures where `which` (s,), y for the others."""
    return Vector(
        jnp.where(which[system.structure][:, None], x.atoms, y.atoms), jnp.where(which[:, None, None], x.cell, y.cell)
    )


def longest(system: System, x: Vector) -> Array:
    """How far neighbours move apart in a step: (s,) Å. The cell's part is √N L δF; L δF is what L = (V/N)^⅓ is strained by."""
    atoms = jnp.sqrt(jnp.maximum(system.highest((x.atoms * x.atoms).sum(axis=1)), 0.0))
    count = system.total(jnp.where(system.atom_mask, 1.0, 0.0).astype(atoms.dtype))
    return jnp.maximum(atoms, jnp.sqrt((x.cell * x.cell).sum(axis=(1, 2)) / count))


def limited(system: System, step: Vector, radius: Array | float) -> Vector:
    """The step, in its direction, no longer than radius."""
    return scaled(system, jnp.minimum(1.0, radius / jnp.maximum(longest(system, step), 1e-300)), step)


FIRST_DT, DT_MIN, DT_MAX = 0.1, 2e-3, 1.0
GROW, CUT, PATIENCE = 1.1, 0.5, 20
MIXING, LESS_MIXING = 0.25, 0.99


class FireMemory(NamedTuple):
    """velocity; dt (s,) √(u/eV)·Å, all masses being 1 u; mixing (s,) α; downhill (s,) steps since the way led up."""

    velocity: Vector
    dt: Array
    mixing: Array
    downhill: Array


def _init(system: System, gradient: Vector) -> FireMemory:
    rest, like = jax.tree.map(jnp.zeros_like, gradient), jnp.ones(system.n_structures, dtype=gradient.atoms.dtype)
    return FireMemory(rest, FIRST_DT * like, MIXING * like, jnp.zeros(system.n_structures, dtype=jnp.int32))


def _propose(system: System, memory: FireMemory, gradient: Vector) -> tuple[FireMemory, Vector]:
    v, force = memory.velocity, jax.tree.map(jnp.negative, gradient)
    moving = dot(system, v, v) > 0.0
    uphill = moving & (dot(system, force, v) <= 0.0)
    downhill = jnp.where(uphill, 0, memory.downhill + moving.astype(jnp.int32))
    faster = downhill > PATIENCE
    dt = jnp.where(faster, jnp.minimum(GROW * memory.dt, DT_MAX), memory.dt)
    dt = jnp.where(uphill, jnp.maximum(CUT * memory.dt, DT_MIN), dt)
    mixing = jnp.where(uphill, MIXING, jnp.where(faster, LESS_MIXING * memory.mixing, memory.mixing))
    back = scaled(system, jnp.where(uphill, -0.5 * dt, 0.0), v)
    v = add(scaled(system, jnp.where(uphill, 0.0, 1.0).astype(dt.dtype), v), scaled(system, dt, force))
    speed = jnp.sqrt(dot(system, v, v) / jnp.maximum(dot(system, force, force), 1e-300))
    v = add(scaled(system, 1.0 - mixing, v), scaled(system, mixing * speed, force))
    step = limited(system, add(scaled(system, dt, v), back), MAX_STEP_A)
    return FireMemory(v, dt, mixing, downhill), step


def _learn(system: System, memory: FireMemory, step: Vector, before: Vector, after: Vector, good: Array) -> FireMemory:
    return FireMemory(
        scaled(system, jnp.where(good, 1.0, 0.0).astype(memory.dt.dtype), memory.velocity),
        jnp.where(good, memory.dt, CUT * memory.dt), jnp.where(good, memory.mixing, MIXING),
        jnp.where(good, memory.downhill, 0),
    )  # fmt: skip


FIRE = Method(_init, _propose, _learn, descends=False)
"""The fast inertial relaxation engine: dynamics with unit masses, steered downhill and stopped where the way leads up.

Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201 (2006), in the form "2.0" of Guénolé et al., Comput.
Mater. Sci. 175, 109584 (2020): semi-implicit Euler, and half a step back after going up. With the power P = F·v, and parameters
as in ASE's FIRE2:

    P > 0     after 20 such steps dt ← min(1.1 dt, 1), α ← 0.99 α
    P ≤ 0     dt ← max(dt/2, 0.002), α ← 0.25, x ← x − v dt/2, v ← 0
    then      v ← v + F dt;  v ← (1 − α) v + α |v| F/|F|;  x ← x + v dt

F is that before the half step back, as in LAMMPS; ASE computes it anew.
A step that leads to where nothing can be computed is taken back, and begins again at rest with half of dt.
"""
