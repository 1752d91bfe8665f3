"""Before the first step: what may move, how many degrees of freedom that is, and velocities drawn or checked.

NVE, Nosé–Hoover and Bussi conserve the total momentum, molecules (no periodicity) the total angular momentum as well. Where
that is so and both are zero, 3 or 6 degrees of freedom never move and are not counted: 5 for two atoms, but 6 for more in a line,
which soon bend and then stay in a plane. Langevin moves them all, unless asked not to.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import ase
import numpy as np
from ase import units
from ase.constraints import FixAtoms, FixCartesian, FixCom

Array = np.ndarray


class Motion(NamedTuple):
    """velocities (atoms, 3) √(eV/u); movable (atoms, 3) 1 or 0; freedoms; still: whether total momentum, angular momentum are
    kept at zero; source of the velocities, in words."""

    velocities: Array
    movable: Array
    freedoms: int
    still: tuple[bool, bool]
    source: str


def movable(atoms: ase.Atoms, *, name: str = "the structure") -> tuple[Array, bool]:
    """What the constraints leave: (atoms, 3) of 1 and 0, and whether the centre of mass is held.

    FixAtoms, FixCartesian and FixCom are honoured; ValueError for any other.
    """
    moves, held = np.ones((len(atoms), 3)), False
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            moves[constraint.index] = 0.0
        elif isinstance(constraint, FixCartesian):
            moves[constraint.index] *= ~np.broadcast_to(np.asarray(constraint.mask, dtype=bool), (len(constraint.index), 3))
        elif isinstance(constraint, FixCom):
            held = True
        else:
            raise ValueError(
                f"{name}: the constraint {type(constraint).__name__} is not supported; FixAtoms, FixCartesian and FixCom are"
            )
    if held and (moves == 0.0).any():
        raise ValueError(f"{name}: fixed atoms and a fixed centre of mass exclude each other")
    return moves, held


def motion(
    atoms: ase.Atoms, *, temperature_K: float | None, conserving: bool, thermostatted: bool, seed: tuple[int, ...],
    name: str = "the structure",
) -> Motion:  # fmt: skip
    """Velocities and degrees of freedom of one structure.

    Velocities of the structure are kept; where there are none they are drawn from Maxwell–Boltzmann at temperature_K, not
    rescaled: the fluctuation belongs to the distribution. conserving: the equations of motion conserve momentum; thermostatted:
    and then a thermostat would rather not see it. Raises ValueError without velocities and temperature, or for velocities
    that are not finite.
    """
    moves, held = movable(atoms, name=name)
    free, masses = bool((moves == 1.0).all()), atoms.get_masses()[:, None]
    if not (masses > 0.0).all():
        raise ValueError(f"{name}: {int((masses <= 0.0).sum())} atoms have no mass")
    momenta = atoms.get_momenta()
    if not np.isfinite(momenta).all():
        raise ValueError(f"{name} has velocities that are not finite")
    drawn = not (momenta != 0.0).any()
    if drawn:
        if temperature_K is None:
            raise ValueError(f"{name} has no velocities: give temperature_K to draw some")
        noise = np.random.default_rng(np.random.SeedSequence(seed)).standard_normal((len(atoms), 3))
        velocities, source = noise * np.sqrt(units.kB * temperature_K / masses), f"Maxwell–Boltzmann at {temperature_K:g} K"
    else:
        velocities, source = momenta / masses, "those of the structure"
    velocities = velocities * moves
    linear = turning = free and len(atoms) > 1
    linear, turning = linear and (conserving or held), turning and conserving and not atoms.pbc.any()
    if turning and drawn:
        velocities = without_rotation(atoms.positions, masses, velocities)
    if linear and drawn:
        velocities = without_drift(masses, velocities)
    moving = (linear and drifts(masses, velocities), turning and rotates(atoms.positions, masses, velocities))
    if any(moving) and (thermostatted or held):
        what = " and ".join(x for x, y in zip(("moves", "turns"), moving, strict=True) if y)
        warnings.warn(f"{name} as a whole {what}: that is taken away", stacklevel=4)
        velocities = without_rotation(atoms.positions, masses, velocities) if moving[1] else velocities
        velocities, moving = without_drift(masses, velocities), (False, False)
    still = linear and not moving[0], turning and not moving[1]
    freedoms = int(moves.sum()) - 3 * still[0] - ((2 if len(atoms) == 2 else 3) if still[1] else 0)
    if freedoms < 1:
        raise ValueError(f"{name}: nothing can move ({len(atoms)} atoms, {freedoms} degrees of freedom)")
    return Motion(velocities, moves, freedoms, still, source)


def without_drift(masses: Array, velocities: Array) -> Array:
    """Velocities (atoms, 3) without that of the centre of mass; masses (atoms, 1)."""
    return velocities - (masses * velocities).sum(axis=0) / masses.sum()


def without_rotation(positions: Array, masses: Array, velocities: Array) -> Array:
    """Velocities without the rigid rotation about the centre of mass."""
    r, momentum, inertia = _rotation(positions, masses, velocities)
    return velocities - np.cross(np.linalg.pinv(inertia, rcond=1e-10, hermitian=True) @ momentum, r)


def drifts(masses: Array, velocities: Array) -> bool:
    """Whether more than rounding of the kinetic energy is in the motion of the centre of mass."""
    total = (masses * velocities).sum(axis=0)
    return bool(total @ total / masses.sum() > 1e-10 * (masses * velocities**2).sum())


def rotates(positions: Array, masses: Array, velocities: Array) -> bool:
    """Whether more than rounding of the kinetic energy is in the rotation about the centre of mass."""
    _, momentum, inertia = _rotation(positions, masses, without_drift(masses, velocities))
    turn = np.linalg.pinv(inertia, rcond=1e-10, hermitian=True) @ momentum
    return bool(turn @ momentum > 1e-10 * (masses * velocities**2).sum())


def _rotation(positions: Array, masses: Array, velocities: Array) -> tuple[Array, Array, Array]:
    r = positions - (masses * positions).sum(axis=0) / masses.sum()
    inertia = np.eye(3) * (masses * r * r).sum() - (masses * r).T @ r
    return r, np.cross(r, masses * velocities).sum(axis=0), inertia
