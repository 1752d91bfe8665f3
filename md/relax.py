"""Relaxation on the device: atoms and cell to a minimum of the energy, or of the enthalpy H = E + p V; many structures at once.

    relaxed = relax("model.adatom", atoms, cell="isotropic")

The equations are in `descent`, the methods in `fire` and `lbfgs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args, overload

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase import units

from adatom.md.config import COMPONENTS
from adatom.md.descent import MOVING, NOISE, NOT_FINITE, STUCK, SWELLING, SWOLLEN, Goal, Point, Setup, advance, begin, relist
from adatom.md.field import Field, Source, make_field
from adatom.md.fire import FIRE, Method
from adatom.md.lbfgs import LBFGS, MEMORY
from adatom.md.neighbours import Plan, allocate, enlarge
from adatom.md.output import check_paths, frame_of, paths_for
from adatom.md.prepare import available_memory, memory_needed
from adatom.md.system import Packed, pack
from adatom.md.trajectory import open_writer
from adatom.md.velocities import movable
from adatom.potential.device import atom_steps_at_once, atoms_at_once
from adatom.potential.evaluator import Precision

Array = jax.Array
Algorithm = Literal["lbfgs", "fire"]
Cell = Literal["fixed", "isotropic", "flexible"]
METHODS: dict[str, Method] = {"fire": FIRE, "lbfgs": LBFGS}
SHRINK, ROOM = 0.1, 1.3
"""How much smaller cells may become, and how many more neighbours get room where there was none: less is compiled anew."""


@dataclass(frozen=True)
class Relaxation:
    """What became of one structure.

    atoms: the last one accepted, with energy, forces and stress. max_force_eV_A: the longest force on an atom, without what
    constraints hold; max_stress_GPa: the largest component of stress + pressure (with some `components` only, of dH/dF/V), nan
    where the cell is fixed. steps: evaluations after the first. message: converged or why not, in words.
    """

    atoms: ase.Atoms
    converged: bool
    steps: int
    energy: float
    enthalpy: float
    max_force_eV_A: float
    max_stress_GPa: float
    message: str


@overload
def relax(
    potential: Source | Sequence[Source], atoms: ase.Atoms, *, algorithm: Algorithm = ..., cell: Cell = ...,
    components: Sequence[str] = ..., pressure_GPa: float = ..., max_force_eV_A: float = ..., max_stress_GPa: float = ...,
    max_steps: int = ..., precision: Precision = ..., skin: float = ..., trajectory: str | Path | None = ..., interval: int = ...,
    overwrite: bool = ..., progress: Callable[[int, int], None] | None = ...,
) -> Relaxation: ...  # fmt: skip
@overload
def relax(
    potential: Source | Sequence[Source], atoms: Sequence[ase.Atoms], *, algorithm: Algorithm = ..., cell: Cell = ...,
    components: Sequence[str] = ..., pressure_GPa: float | Sequence[float] = ..., max_force_eV_A: float = ...,
    max_stress_GPa: float = ..., max_steps: int = ..., precision: Precision = ..., skin: float = ...,
    trajectory: str | Path | None = ..., interval: int = ..., overwrite: bool = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> tuple[Relaxation, ...]: ...  # fmt: skip
def relax(
    potential: Source | Sequence[Source],
    atoms: ase.Atoms | Sequence[ase.Atoms],
    *,
    algorithm: Algorithm = "lbfgs",
    cell: Cell = "fixed",
    components: Sequence[str] = COMPONENTS,
    pressure_GPa: float | Sequence[float] = 0.0,
    max_force_eV_A: float = 0.01,
    max_stress_GPa: float = 0.01,
    max_steps: int = 500,
    precision: Precision = "float32",
    skin: float = 0.5,
    trajectory: str | Path | None = None,
    interval: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Relaxation | tuple[Relaxation, ...]:
    """Relax copies of one or several structures until forces, and stress where the cell may change, are below their limits.

    potential: path of an `.adatom` file, Potential, analytic model, or several of the same shape: a committee, whose mean counts.
    atoms: one structure gives one result; a sequence is relaxed together, as many at once as memory allows, and gives a
    tuple; one that has converged waits for the others. cell: "isotropic" keeps the shape, "flexible" changes `components` (of
    xx yy zz yz xz xy) of the deformation. pressure_GPa: one for all or one each. precision: of the potential; atoms move in
    float64. FixAtoms, FixCartesian and FixCom hold atoms, which still move with the cell. Every `interval` steps a frame goes to
    `trajectory` (.extxyz, .traj, .h5), of several structures to `name-0`, `name-1`, … progress(step, structures that still move)
    after every block of steps.

    Raises ValueError for bad arguments, FileExistsError for a trajectory that is there already (unless `overwrite`). A structure
    that does not converge, or becomes unphysical, is returned as it was last, with `converged` False and the reason in `message`.
    """
    many = not isinstance(atoms, ase.Atoms)
    structures: list[ase.Atoms] = list(atoms) if many else [atoms]  # type: ignore[list-item]
    _check(algorithm, cell, components, precision, max_force_eV_A, max_stress_GPa, max_steps, interval, skin)
    pressures = np.asarray(pressure_GPa, dtype=float)
    if pressures.ndim > 1 or (pressures.ndim == 1 and len(pressures) != len(structures)):
        raise ValueError(f"pressure_GPa has shape {pressures.shape} for {len(structures)} structures")
    if not np.isfinite(pressures).all() or (cell == "fixed" and pressures.any()):
        raise ValueError(f"pressure_GPa must be finite, and 0 where the cell is fixed, got {pressure_GPa}")
    starts = [
        _start(x, f"structure {s}" if many else "the structure", cell, float(p) * units.GPa)
        for s, (x, p) in enumerate(zip(structures, np.broadcast_to(pressures, len(structures)), strict=True))
    ]
    if not starts:
        raise ValueError("no structures given")
    paths = paths_for(None if trajectory is None else Path(trajectory), None, structures=len(starts))
    check_paths(paths, None, overwrite=overwrite)
    allowed = np.eye(3, dtype=bool) if cell == "isotropic" else np.zeros((3, 3), dtype=bool)
    for a, b in (map("xyz".index, name) for name in (components if cell == "flexible" else ())):
        allowed[a, b] = allowed[b, a] = True
    mask = tuple(tuple(row) for row in allowed.tolist())
    setup = Setup(METHODS[algorithm], cell, mask, Plan((1, 1, 1), (0, 0, 0), 1, ()), float(skin))  # type: ignore[arg-type]
    limits = np.array([max_force_eV_A, max_stress_GPa * units.GPa])
    with jax.enable_x64(True):
        field = make_field(potential, precision=precision)
        out: list[Relaxation] = []
        for group in _groups(field, starts, setup.skin, precision):
            batch = _Batch(setup, field, [starts[s] for s in group], limits, [paths[s].trajectory for s in group])
            out += batch.go(max_steps, interval if trajectory is not None else max_steps, progress)
    return tuple(out) if many else out[0]


def _check(
    algorithm: str, cell: str, components: Sequence[str], precision: str, force: float, stress: float, steps: int, interval: int,
    skin: float,
) -> None:  # fmt: skip
    known = ("algorithm", algorithm, get_args(Algorithm)), ("cell", cell, get_args(Cell)), ("precision", precision, tuple(NOISE))
    for name, value, choices in known:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if isinstance(components, str) or not components or set(components) - set(COMPONENTS):
        raise ValueError(f"components must be some of {', '.join(COMPONENTS)}, got {components!r}")
    if cell != "flexible" and set(components) != set(COMPONENTS):
        raise ValueError(f"components are for cell='flexible', not for {cell!r}")
    numbers = {"max_force_eV_A": force, "max_stress_GPa": stress, "max_steps": steps, "interval": interval, "skin": skin}
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0.0):
            raise ValueError(f"{name} must be positive and finite, got {number}")


class _Start(NamedTuple):
    """One structure: what moves in it (atoms, 3), whether its centre of mass is held, eV/Å³ on it."""

    atoms: ase.Atoms
    movable: np.ndarray
    held: bool
    pressure: float


def _start(atoms: ase.Atoms, name: str, cell: str, pressure: float) -> _Start:
    if cell != "fixed" and not atoms.pbc.all():
        raise ValueError(f"{name}: cell={cell!r} needs a cell periodic in three directions, pbc is {atoms.pbc.tolist()}")
    return _Start(atoms, *movable(atoms, name=name), pressure)


def _groups(field: Field, starts: Sequence[_Start], skin: float, precision: str) -> list[list[int]]:
    """Structures that run together: as many as fit into half of the memory there is."""
    length, allowed, used = field.cutoff + skin, 0.5 * available_memory(), 0.0
    groups: list[list[int]] = [[]]
    for s, x in enumerate(starts):
        need = memory_needed(x.atoms, length, precision) + len(x.atoms) * 2 * MEMORY * 24.0
        if groups[-1] and used + need > allowed:
            groups.append([])
            used = 0.0
        groups[-1].append(s)
        used += need
    return groups


class _Batch:
    """Structures that are relaxed together."""

    def __init__(
        self, setup: Setup, field: Field, starts: Sequence[_Start], limits: np.ndarray, paths: Sequence[Path | None]
    ) -> None:
        self.starts, self.paths, self.shrink = starts, paths, SHRINK if setup.cell != "fixed" else 0.0
        self.packed: Packed = pack(
            [x.atoms for x in starts], field.model.elements, movable=[x.movable for x in starts], block=atoms_at_once()
        )
        counts, volume = np.array([float(len(x.atoms)) for x in starts]), np.abs(np.linalg.det(self.packed.cell))
        factor = np.sqrt(counts) * np.cbrt(volume / counts) if setup.cell != "fixed" else np.ones(len(starts))
        pressure, noise = np.array([x.pressure for x in starts]), NOISE[field.precision] * counts
        goal = Goal(*map(jnp.asarray, (self.packed.cell, factor, pressure, noise, limits)))
        self.field, self.system, self.goal = jax.device_put((field, self.packed.system, goal))
        self.length = field.cutoff + setup.skin
        positions = jnp.asarray(self.packed.positions)
        plan, neighbours = allocate(self.system, positions, self.goal.reference, self.length, shrink=self.shrink)
        self.setup = setup._replace(plan=plan)
        self.progress = begin(self.setup, self.field, self.system, self.goal, neighbours, positions)

    def go(self, max_steps: int, interval: int, report: Callable[[int, int], None] | None) -> list[Relaxation]:
        """All steps; frames every `interval`, of structures that have moved since the last."""
        writers = [None if path is None else open_writer(path) for path in self.paths]
        block, step, moved = max(1, atom_steps_at_once() // self.system.n_rows), 0, np.ones(len(self.starts), dtype=bool)
        try:
            while True:
                active = np.asarray(self.progress.active)
                over = step >= max_steps or not active.any()
                if step % interval == 0 or over:
                    point = jax.device_get(self.progress.point)
                    for k in np.flatnonzero(moved).tolist():
                        writer = writers[k]
                        if writer is not None:
                            writer.add([self._frame(k, point)])
                    moved = active
                if report is not None:
                    report(step, int(active.sum()))
                if over:
                    break
                self._advance(min(max_steps, (step // interval + 1) * interval, (step // block + 1) * block))
                step = int(self.progress.step)
        finally:
            for writer in writers:
                if writer is not None:
                    writer.close()
        point = jax.device_get(self.progress.point)
        return [self._result(k, point) for k in range(len(self.starts))]

    def _advance(self, until: int) -> None:
        """A block of steps; one that overflowed is thrown away and repeated with more room."""
        where, shrink = (self.system, self.progress.point.positions, self.progress.point.cell, self.length), self.shrink
        while True:
            attempt = advance(self.setup, self.field, self.system, self.goal, self.progress, jnp.asarray(until, dtype=jnp.int32))
            if not bool(attempt.neighbours.overflow):
                self.progress = attempt
                return
            if not bool(attempt.neighbours.needs.fits):
                shrink = min(shrink + SHRINK, 0.9)
            while bool(attempt.neighbours.overflow):
                needs = attempt.neighbours.needs
                needs = replace(needs, slots=np.ceil(ROOM * np.asarray(needs.slots)).astype(np.int32))
                plan = enlarge(self.setup.plan, needs, *where, shrink=shrink)
                self.setup = self.setup._replace(plan=plan)
                attempt = relist(self.setup, self.field, self.system, self.progress)
            self.progress = attempt

    def _frame(self, k: int, point: Point) -> ase.Atoms:
        start, rows = self.starts[k], self.packed.rows[k]
        positions, cell = np.asarray(point.positions[rows]), np.asarray(point.cell[k])
        if start.held:
            masses = start.atoms.get_masses()
            undeformed = positions @ np.linalg.solve(cell, self.packed.cell[k])
            away = masses @ (undeformed - start.atoms.positions) / masses.sum()
            positions = positions - away @ np.linalg.solve(self.packed.cell[k], cell)
        frame = frame_of(
            start.atoms, positions=positions, velocities=np.zeros_like(positions), cell=cell, energy=float(point.energy[k]),
            forces=np.asarray(point.forces[rows]), virial=np.asarray(point.virial[k]),
            step=int(np.asarray(self.progress.steps)[k]), time_ps=0.0,
        )  # fmt: skip
        del frame.arrays["momenta"], frame.info["time_ps"]
        return frame

    def _result(self, k: int, point: Point) -> Relaxation:
        limits, free = np.asarray(self.goal.limits), self.setup.cell != "fixed"
        p = self.progress
        steps, why, broken = (int(np.asarray(x)[k]) for x in (p.steps, p.ended, p.broken))
        force, stress = float(point.force[k]), float(point.stress[k]) / units.GPa
        converged = why == MOVING and bool(point.done(limits)[k])
        left = f"largest force {force:.3g} eV/Å (limit {limits[0]:g})"
        if free:
            left += f", stress {stress:.3g} GPa off (limit {limits[1] / units.GPa:g})"
        if broken and why == MOVING:
            left += f"; {broken} of the steps led to where energy, forces or stress are not numbers, and were taken back"
        reasons = {
            NOT_FINITE: f"stopped at step {steps}: energy, forces or stress are not numbers",
            STUCK: f"stopped at step {steps}: the energy does not fall along the forces (in {self.field.precision})",
            SWOLLEN: f"stopped at step {steps}: the volume has changed {SWELLING:g} times",
        }
        how = f"converged in {steps} steps" if converged else reasons.get(why, f"not converged in {steps} steps")
        return Relaxation(
            self._frame(k, point), converged, steps, float(point.energy[k]), float(point.enthalpy[k]), force,
            stress if free else math.nan, f"{how}: {left}",
        )  # fmt: skip
