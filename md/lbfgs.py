"""L-BFGS: quasi-Newton steps from the last MEMORY changes of the gradient, for every structure of a batch by itself.

Nocedal, Wright, Numerical Optimization (2006), algorithm 7.4 (two-loop recursion), eq. 7.20 for the first inverse Hessian γ 1:

    s_k = x_{k+1} − x_k     y_k = g_{k+1} − g_k     ρ_k = 1/(s_k·y_k)     γ = s·y/(y·y) of the last pair
    q ← g;   new to old: a_k = ρ_k s_k·q, q ← q − a_k y_k;   q ← γ q;   old to new: q ← q + (a_k − ρ_k y_k·q) s_k;   step −q

    | symbol | variable | |
    |---|---|---|
    | s_k, y_k | steps, changes | Vectors with a leading axis of MEMORY places, filled in turn |
    | ρ_k | weight (m, s) | 0: this structure does not use that pair |
    | γ | scale (s,) Å²/eV | before the first pair 1/70, as in ASE |

There is no line search. The atom that moves most moves by `radius` at most (0.2 Å, as in ASE). A step that raises the energy is
taken back, and the next is half as long at most; what it taught about the curvature is kept. If the next raises the energy as
well, older pairs are forgotten. So they are where the curvature is not positive, s·y ≤ 0; that pair is of no use either, and
γ = s·s/|s·y|, as a Newton step away from a saddle would have it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from adatom.md.fire import MAX_STEP_A, Method, Vector, choose, dot, limited, longest, scaled
from adatom.md.system import System

Array = jax.Array
MEMORY = 20
FIRST_SCALE, LARGEST_SCALE = 1.0 / 70.0, 1.0


class LbfgsMemory(NamedTuple):
    """steps, changes: Vectors (m, …); weight (m, s); scale, radius (s,); refused (s,): the last step; stored (): pairs ever."""

    steps: Vector
    changes: Vector
    weight: Array
    scale: Array
    radius: Array
    refused: Array
    stored: Array


def _init(system: System, gradient: Vector) -> LbfgsMemory:
    pairs = jax.tree.map(lambda x: jnp.zeros((MEMORY, *x.shape), dtype=x.dtype), gradient)
    like = jnp.ones(system.n_structures, dtype=gradient.atoms.dtype)
    return LbfgsMemory(
        pairs, pairs, jnp.zeros((MEMORY, system.n_structures), dtype=like.dtype), FIRST_SCALE * like, MAX_STEP_A * like,
        like < 0.0, jnp.zeros((), dtype=jnp.int32),
    )  # fmt: skip


def _propose(system: System, memory: LbfgsMemory, gradient: Vector) -> tuple[LbfgsMemory, Vector]:
    known, newest = jnp.minimum(memory.stored, MEMORY), memory.stored - 1

    def pair(k: Array) -> tuple[Vector, Vector, Array]:
        return *(Vector(x.atoms[k], x.cell[k]) for x in (memory.steps, memory.changes)), memory.weight[k]  # type: ignore[return-value]

    def minus(x: Vector, factor: Array, y: Vector) -> Vector:
        return jax.tree.map(jnp.subtract, x, scaled(system, factor, y))

    def new_to_old(n: Array, carry: tuple[Vector, Array]) -> tuple[Vector, Array]:
        q, parts = carry
        k = (newest - n) % MEMORY
        s, y, weight = pair(k)
        part = weight * dot(system, s, q)
        return minus(q, part, y), parts.at[k].set(part)

    def old_to_new(n: Array, carry: tuple[Vector, Array]) -> tuple[Vector, Array]:
        q, parts = carry
        k = (newest - known + 1 + n) % MEMORY
        s, y, weight = pair(k)
        return minus(q, weight * dot(system, y, q) - parts[k], s), parts

    start, zero = (gradient, jnp.zeros_like(memory.weight)), jnp.zeros((), dtype=jnp.int32)
    q, parts = lax.fori_loop(zero, known, new_to_old, start)
    q, _ = lax.fori_loop(zero, known, old_to_new, (scaled(system, memory.scale, q), parts))
    q = choose(system, dot(system, q, gradient) > 0.0, q, scaled(system, memory.scale, gradient))
    return memory, limited(system, jax.tree.map(jnp.negative, q), memory.radius)


def _learn(system: System, memory: LbfgsMemory, step: Vector, before: Vector, after: Vector, good: Array) -> LbfgsMemory:
    change = jax.tree.map(jnp.subtract, after, before)
    ss, sy, yy = dot(system, step, step), dot(system, step, change), dot(system, change, change)
    convex = sy > 1e-12 * jnp.sqrt(ss * yy)
    change = choose(system, convex, change, jax.tree.map(jnp.zeros_like, change))
    one, k = jnp.ones_like(sy), memory.stored % MEMORY
    sy, yy = jnp.where(convex | (sy < 0.0), sy, one), jnp.where(convex, yy, one)
    saddle = jnp.where(good & (sy < 0.0), jnp.clip(ss / jnp.abs(sy), FIRST_SCALE, LARGEST_SCALE), FIRST_SCALE)
    radius = jnp.where(good, jnp.minimum(2.0 * memory.radius, MAX_STEP_A), 0.5 * longest(system, step))
    forget = jnp.where(good, ~convex, memory.refused)

    def placed(old: Vector, new: Vector) -> Vector:
        return Vector(old.atoms.at[k].set(new.atoms), old.cell.at[k].set(new.cell))

    weight = jnp.where(forget[None, :], 0.0, memory.weight).at[k].set(jnp.where(convex, one / sy, 0.0))
    return LbfgsMemory(
        placed(memory.steps, step), placed(memory.changes, change), weight, jnp.where(convex, sy / yy, saddle), radius, ~good,
        memory.stored + 1,
    )  # fmt: skip


LBFGS = Method(_init, _propose, _learn, descends=True)
