"""Going downhill on the device: coordinates of atoms and cell, the accepted point, steps taken back.

Coordinates are where atoms are before the cell is deformed, u, and the deformation F, symmetric so that the cell does not turn:

    r = u F    h = h₀ F    dH/du = −f F    dH/dF = P[½(F⁻¹ W + W F⁻¹)],  W = V·stress + p V 1

Tadmor, Smith, Bernstein, Kaxiras, Phys. Rev. B 59, 235 (1999), as ASE's UnitCellFilter. P keeps the components that may change,
or trace/3 · 1 for "isotropic"; the other components of F stay as they are, exactly. Methods see F in Å, as c F with
c = √N (V/N)^⅓ (Sheppard, Xiao, Chemelewski, Johnson, Henkelman, J. Chem. Phys. 136, 074103 (2012)): the cell is then about as
stiff as a bond, in a supercell too. With c = N, as in ASE, it becomes softer the more atoms there are, and relaxes slower.

    | symbol | variable | |
    |---|---|---|
    | u, c F | x.atoms, x.cell | |
    | r, h, h₀ | positions, cell, goal.reference | rows are lattice vectors |
    | V·stress, p | virial, goal.pressure | eV, eV/Å³ |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adatom.md.field import Field
from adatom.md.fire import Method, Vector, add, choose
from adatom.md.neighbours import NeighbourList, Plan, build, stale
from adatom.md.state import trace, volumes
from adatom.md.system import System
from adatom.potential.compilation import jit

Array = jax.Array
NOISE = {"float32": 1e-5, "float64": 1e-9}
"""eV an atom by which an energy may be above the lowest so far: rounding."""
TRIES = 20
"""Steps that may be taken back one after the other, each half as long as the last."""
SWELLING = 10.0
MOVING, NOT_FINITE, STUCK, SWOLLEN = range(4)


class Setup(NamedTuple):
    """Static: what decides the compiled code."""

    method: Method
    cell: str
    components: tuple[tuple[bool, bool, bool], ...]
    plan: Plan
    skin: float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Goal:
    """reference (s, 3, 3) h₀ Å; factor (s,) c Å; pressure (s,) eV/Å³; noise (s,) eV; limits (2,) of force and stress."""

    reference: Array
    factor: Array
    pressure: Array
    noise: Array
    limits: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """x and dH/dx; energy, enthalpy (s,) eV; positions (a, 3), cell (s, 3, 3) Å; forces (a, 3) eV/Å; virial (s, 3, 3) eV.

    force, stress (s,): what is compared with the limits; swelling (s,): V/V₀ or its inverse.
    """

    x: Vector
    gradient: Vector
    energy: Array
    enthalpy: Array
    positions: Array
    cell: Array
    forces: Array
    virial: Array
    force: Array
    stress: Array
    swelling: Array

    def finite(self, system: System) -> Array:
        """(s,)."""
        numbers = jnp.isfinite(self.forces).all(axis=1)
        return jnp.isfinite(self.enthalpy) & jnp.isfinite(self.gradient.cell).all(axis=(1, 2)) & (
            system.highest(jnp.where(numbers, 0.0, 1.0)) == 0.0
        )  # fmt: skip

    def done(self, limits: Array | np.ndarray) -> Array:
        """(s,)."""
        return (self.force <= limits[0]) & (self.stress <= limits[1])

    @staticmethod
    def choose(system: System, which: Array, new: Point, old: Point) -> Point:
        """`new` for the structures where `which` (s,)."""

        def pick(x: Array, y: Array) -> Array:
            one = which[system.structure] if x.ndim == 2 else which  # atoms have (a, 3), structures (s,) and (s, 3, 3)
            return jnp.where(one.reshape(-1, *(1,) * (x.ndim - 1)), x, y)

        return jax.tree.map(pick, new, old)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Progress:
    """Carried through the loop. (s,) all: active, still moving; lowest enthalpy so far; steps; tries taken back, less those
    accepted since; broken, how many led to what is not a number; ended, why. step ()."""

    point: Point
    memory: Any
    neighbours: NeighbourList
    active: Array
    lowest: Array
    steps: Array
    tries: Array
    broken: Array
    ended: Array
    step: Array


def project(setup: Setup, x: Array) -> Array:
    """P of a symmetric tensor (s, 3, 3)."""
    if setup.cell == "isotropic":
        return (trace(x) / 3.0)[:, None, None] * jnp.eye(3, dtype=x.dtype)[None]
    return jnp.where(jnp.asarray(setup.components)[None], x, 0.0)


def deformed(system: System, goal: Goal, x: Vector) -> tuple[Array, Array, Array]:
    """F (s, 3, 3), positions (a, 3) and cell (s, 3, 3) Å."""
    f = x.cell / goal.factor[:, None, None]
    positions = jnp.einsum("ac,acd->ad", x.atoms, f[system.structure], precision="highest")
    return f, positions, jnp.einsum("scd,sde->sce", goal.reference, f, precision="highest")


def evaluate(setup: Setup, field: Field, system: System, goal: Goal, x: Vector, neighbours: NeighbourList) -> Point:
    """Everything at x."""
    deformation, positions, cell = deformed(system, goal, x)
    out, inverse = field.evaluate(system, neighbours, positions, cell), jnp.linalg.inv(deformation)
    volume = volumes(cell)
    work = goal.pressure * volume
    down = -jnp.einsum("ac,acd->ad", out.forces, deformation[system.structure], precision="highest") * system.movable
    force = jnp.einsum("ac,acd->ad", down, inverse[system.structure], precision="highest")
    pull, stress = jnp.zeros_like(cell), jnp.zeros_like(volume)
    if setup.cell != "fixed":
        w = out.virial + work[:, None, None] * jnp.eye(3, dtype=cell.dtype)[None]
        half = jnp.einsum("scd,sde->sce", inverse, w, precision="highest")
        slope = project(setup, 0.5 * (half + half.transpose(0, 2, 1)))
        pull = slope / goal.factor[:, None, None]
        left = slope if setup.cell == "flexible" and not np.all(setup.components) else project(setup, w)
        stress = jnp.abs(left).max(axis=(1, 2)) / volume
    swelling = jnp.exp(jnp.abs(jnp.log(jnp.maximum(jnp.linalg.det(deformation), 1e-300))))
    longest = jnp.sqrt(jnp.maximum(system.highest((force * force).sum(axis=1)), 0.0))
    return Point(
        x, Vector(down, pull), out.energy, out.energy + work, positions, cell, out.forces, out.virial, longest, stress, swelling
    )


@partial(jit, static_argnames=("setup",))
def begin(setup: Setup, field: Field, system: System, goal: Goal, neighbours: NeighbourList, positions: Array) -> Progress:
    """The first point."""
    one = jnp.eye(3, dtype=positions.dtype)[None] * goal.factor[:, None, None]
    point = evaluate(setup, field, system, goal, Vector(positions, one), neighbours)
    fine, zero = point.finite(system), jnp.zeros(system.n_structures, dtype=jnp.int32)
    return Progress(
        point, setup.method.init(system, point.gradient), neighbours, fine & ~point.done(goal.limits), point.enthalpy,
        zero, zero, zero, jnp.where(fine, MOVING, NOT_FINITE), jnp.zeros((), dtype=jnp.int32),
    )  # fmt: skip


@partial(jit, static_argnames=("setup",))
def relist(setup: Setup, field: Field, system: System, progress: Progress) -> Progress:
    """The same list in the capacities of the plan."""
    old, length = progress.neighbours, field.cutoff + setup.skin
    return replace(progress, neighbours=build(system, setup.plan, old.positions, old.cell, length))


@partial(jit, static_argnames=("setup",))
def advance(setup: Setup, field: Field, system: System, goal: Goal, progress: Progress, until: Array) -> Progress:
    """To step `until`, or to where nothing moves any more, or where the list overflowed (check: then discard the result)."""
    method, length = setup.method, field.cutoff + setup.skin

    def going(p: Progress) -> Array:
        return (p.step < until) & p.active.any() & ~p.neighbours.overflow

    def step(p: Progress) -> Progress:
        old = p.point
        memory, move = method.propose(system, p.memory, old.gradient)
        move = choose(system, p.active, move, jax.tree.map(jnp.zeros_like, move))
        x = add(old.x, move)
        _, positions, cell = deformed(system, goal, x)
        outdated = stale(system, p.neighbours, positions, cell, cutoff=field.cutoff, skin=setup.skin)
        neighbours = lax.cond(outdated, lambda: build(system, setup.plan, positions, cell, length), lambda: p.neighbours)
        trial = evaluate(setup, field, system, goal, x, neighbours)
        fine = trial.finite(system)
        good = p.active & fine & (trial.enthalpy <= p.lowest + goal.noise if method.descends else True)
        memory = method.learn(system, memory, move, old.gradient, trial.gradient, good)
        point = Point.choose(system, good, trial, old)
        tries = jnp.where(good, jnp.maximum(p.tries - 1, 0), p.tries + 1)
        why = jnp.where(tries < TRIES, MOVING, jnp.where(fine, STUCK, NOT_FINITE))
        why = jnp.where(point.swelling > SWELLING, SWOLLEN, why)
        ended = jnp.where(p.active, why, p.ended)
        active = p.active & (ended == MOVING) & ~point.done(goal.limits)
        steps, broken = p.steps + p.active.astype(jnp.int32), p.broken + (p.active & ~fine).astype(jnp.int32)
        lowest = jnp.minimum(p.lowest, point.enthalpy)
        return Progress(point, memory, neighbours, active, lowest, steps, tries, broken, ended, p.step + 1)

    return lax.while_loop(going, step, progress)
