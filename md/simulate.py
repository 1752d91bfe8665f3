"""Run molecular dynamics on the device: check, move in blocks of steps, write while the next block runs, stop, go on.

    settings ─► motion, pack ─► begin ─► [ advance to the next event ─► (overflow: larger plan, again) ─► write, checkpoint ]*

Blocks end where a frame or a row is due, and often enough for Ctrl-C to be answered; where they end changes nothing in the result.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase import units

from adatom.md import engine, restart
from adatom.md.config import COMPONENTS, Settings, settings
from adatom.md.conservation import Drift, energy_drift
from adatom.md.engine import Progress, Sample, Setup
from adatom.md.field import Field, Source, make_field
from adatom.md.guards import SPREAD, STANDARD, Guard, complaint, standard_limits
from adatom.md.neighbours import Plan, allocate, enlarge
from adatom.md.output import Output, Paths, check_paths, frame_of, paths_for, write_frames
from adatom.md.state import Conditions, Ensemble, State
from adatom.md.system import Packed, pack
from adatom.md.thermo import Thermo, read_log
from adatom.md.velocities import Motion, motion, movable
from adatom.potential.evaluator import BLOCK

ATOM_STEPS = 100_000
"""Atoms × steps of a block at most: some seconds, after which Ctrl-C is heard."""
SHRINK = 0.05
LEAST_HOT_K = 20_000.0


class SimulationFailed(RuntimeError):
    """Structures became unphysical, or a guard stopped them. `stops`: one for each of them."""

    def __init__(self, message: str, stops: Sequence[Stop]) -> None:
        super().__init__(message)
        self.stops = tuple(stops)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after `step` whole steps. `frames` is the state to go on from; the checkpoint is the file `saved`."""

    def __init__(self, message: str, *, step: int, frames: list[ase.Atoms], saved: Path | None) -> None:
        super().__init__(message)
        self.step, self.frames, self.saved = step, frames, saved


class Stop(NamedTuple):
    """Why a structure stopped: at which step, by which guard, in words; its last good state, the offending one, their file."""

    structure: int
    step: int
    guard: str
    message: str
    last: ase.Atoms
    offending: ase.Atoms
    saved: Path | None


@dataclass(frozen=True)
class MDSummary:
    """What a run of one structure was. Means are over the second half of the rows; `drift` is of the conserved energy.

    atoms: the last state, with energy, forces and stress. velocities: where the first ones came from, in words. rows: the whole table.
    Temperatures K, pressure GPa (nan without a 3-D cell), volume Å³, time ps, wall time s. drift: None where nothing is
    conserved or there are fewer than 4 rows. stop: None unless a guard stopped it. checkpoint: the file `resume` goes on from.
    """

    atoms: ase.Atoms
    ensemble: str
    steps: int
    time_ps: float
    wall_s: float
    seed: int
    velocities: str
    degrees_of_freedom: int
    temperature_mean: float
    temperature_std: float
    pressure_mean: float
    volume_mean: float
    min_distance: float
    drift: Drift | None
    rows: tuple[Thermo, ...]
    trajectory: Path | None
    log: Path | None
    checkpoint: Path | None
    stop: Stop | None


@overload
def simulate(potential: Source | Sequence[Source], atoms: ase.Atoms, **_: Any) -> MDSummary: ...
@overload
def simulate(potential: Source | Sequence[Source], atoms: Sequence[ase.Atoms], **_: Any) -> tuple[MDSummary, ...]: ...
def simulate(
    potential: Source | Sequence[Source],
    atoms: ase.Atoms | Sequence[ase.Atoms],
    *,
    ensemble: Literal["nve", "nvt", "npt"],
    steps: int,
    temperature_K: float | Sequence[float] | None = None,
    temperature_end_K: float | Sequence[float] | None = None,
    pressure_GPa: float | Sequence[float] = 0.0,
    pressure_end_GPa: float | Sequence[float] | None = None,
    timestep_fs: float = 1.0,
    thermostat: Literal["langevin", "nose-hoover", "bussi", "berendsen"] = "langevin",
    thermostat_time_fs: float = 100.0,
    fix_center_of_mass: bool = False,
    barostat: Literal["isotropic", "flexible", "berendsen"] = "isotropic",
    barostat_time_fs: float = 1000.0,
    components: Sequence[str] = COMPONENTS,
    precision: Literal["float32", "float64"] = "float32",
    skin: float = 0.5,
    seed: int = 0,
    trajectory: str | Path | None = None,
    log: str | Path | None = None,
    interval: int = 10,
    log_interval: int | None = None,
    checkpoint_s: float = 30.0,
    max_temperature_K: float | None = None,
    min_distance: float = 0.5,
    max_spread_eV_A: float | None = None,
    guards: Sequence[tuple[Guard, float]] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_stop: Literal["raise", "return"] = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> MDSummary | tuple[MDSummary, ...]:
    """Move copies of one or several structures under a potential for `steps` steps.

    potential: path of an `.adatom` file, Potential, analytic model, or several of the same shape: a committee. atoms: one
    structure gives one summary; a sequence (replicas, different structures) runs together, as many at once as memory
    allows, each with its own random numbers, and gives a tuple. temperatures and pressures: one for all or one each; with
    an `_end_` value they are ramped. Everything else as in `adatom.md.config.Settings`. Every `interval` steps, and at the first and
    the last, a frame goes to `trajectory` (.extxyz, .traj, .h5), and every `log_interval` a row to `log` (columns of `Thermo`); of
    several structures to `name-0`, `name-1`, … guards: more reasons to stop, with their limits. on_stop="return" gives a summary with
    `stop` set instead of raising. progress(done, steps) after every block.

    Raises ValueError for bad arguments, FileExistsError for output that is there already (unless `overwrite` or `resume`),
    SimulationFailed when guards stopped structures (two frames each in `<output>.failed.extxyz`), Interrupted on Ctrl-C.
    """
    many = not isinstance(atoms, ase.Atoms)
    structures: list[ase.Atoms] = list(atoms) if many else [atoms]  # type: ignore[arg-type]
    chosen = settings(
        ensemble=ensemble, steps=steps, temperature_K=_tuple(temperature_K), temperature_end_K=_tuple(temperature_end_K),
        pressure_GPa=_tuple(pressure_GPa), pressure_end_GPa=_tuple(pressure_end_GPa), timestep_fs=timestep_fs,
        thermostat=thermostat, thermostat_time_fs=thermostat_time_fs, fix_center_of_mass=fix_center_of_mass,
        barostat=barostat, barostat_time_fs=barostat_time_fs, components=tuple(components), precision=precision, skin=skin,
        seed=seed, interval=interval, log_interval=log_interval, checkpoint_s=checkpoint_s,
        max_temperature_K=max_temperature_K, min_distance=min_distance, max_spread_eV_A=max_spread_eV_A,
    )  # fmt: skip
    out = run(
        potential, structures, chosen, trajectory=trajectory, log=log, guards=guards, resume=resume, overwrite=overwrite,
        on_stop=on_stop, progress=progress,
    )  # fmt: skip
    return out if many else out[0]


def run(
    potential: Source | Sequence[Source], structures: Sequence[ase.Atoms], chosen: Settings, *, trajectory: str | Path | None = None,
    log: str | Path | None = None, guards: Sequence[tuple[Guard, float]] = (), resume: bool = False, overwrite: bool = False,
    on_stop: Literal["raise", "return"] = "raise", progress: Callable[[int, int], None] | None = None,
) -> tuple[MDSummary, ...]:  # fmt: skip
    """`simulate` for settings that are checked already."""
    if not structures:
        raise ValueError("no structures given")
    paths = paths_for(*(None if p is None else Path(p) for p in (trajectory, log)), structures=len(structures))
    base = trajectory or log
    checkpoint = None if base is None else Path(base).with_name(Path(base).name + ".restart")
    if resume and checkpoint is None:
        raise ValueError("nothing to resume: a run without trajectory and log leaves no checkpoint")
    if not resume:
        check_paths(paths, checkpoint, overwrite=overwrite)
    field = make_field(potential, precision=chosen.precision)
    with jax.enable_x64(True):
        prepared = [_Prepared.of(x, s, len(structures), chosen) for s, x in enumerate(structures)]
        found: list[MDSummary] = []
        groups = _groups(field, prepared, chosen)
        for g, members in enumerate(groups):
            own = checkpoint if len(groups) == 1 or checkpoint is None else checkpoint.with_name(f"{checkpoint.name}-{g}")
            found += _Run(field, [prepared[s] for s in members], chosen, [paths[s] for s in members], own, guards).go(
                resume=resume, report=progress, many=len(structures) > 1
            )
    stops = [x.stop for x in found if x.stop is not None]
    if stops and on_stop == "raise":
        raise SimulationFailed("; ".join(x.message for x in stops), stops)
    return tuple(found)


def _tuple(x: Any) -> Any:
    return tuple(x) if isinstance(x, Sequence | np.ndarray) else x


class _Prepared(NamedTuple):
    """A structure, its number, what moves in it, and its own targets: (start, end) K and GPa."""

    index: int
    atoms: ase.Atoms
    motion: Motion
    temperature: tuple[float, float]
    pressure: tuple[float, float]

    @staticmethod
    def of(atoms: ase.Atoms, s: int, structures: int, chosen: Settings) -> _Prepared:
        name = f"structure {s}" if structures > 1 else "the structure"

        def own(key: str) -> float | None:
            value = getattr(chosen, key)
            if not isinstance(value, tuple):
                return value
            if len(value) != structures:
                raise ValueError(f"{key} has {len(value)} values for {structures} structures")
            return value[s]

        temperature, pressure = own("temperature_K"), own("pressure_GPa") or 0.0
        ends = own("temperature_end_K"), own("pressure_end_GPa")
        conserving = chosen.thermostat_or_none != "langevin" or chosen.fix_center_of_mass
        if chosen.ensemble == "npt" and not atoms.pbc.all():
            raise ValueError(f"{name}: npt needs a cell periodic in three directions, pbc is {atoms.pbc.tolist()}")
        if chosen.ensemble == "npt" and (movable(atoms, name=name)[0] == 0.0).any():
            raise ValueError(f"{name}: npt moves all atoms with the cell, so none can be fixed")
        moving = motion(
            atoms, temperature_K=temperature, conserving=conserving, thermostatted=chosen.ensemble != "nve", name=name,
            seed=(chosen.seed, s),
        )  # fmt: skip
        start = temperature or 0.0
        return _Prepared(
            s, atoms, moving, (start, start if ends[0] is None else ends[0]), (pressure, pressure if ends[1] is None else ends[1])
        )


def _groups(field: Field, prepared: Sequence[_Prepared], chosen: Settings) -> list[list[int]]:
    """Structures that run together: as many as fit into half of the memory there is."""
    length, allowed = field.cutoff + chosen.skin, 0.5 * available_memory()
    groups, used = [[0]], 0.0
    for s, x in enumerate(prepared):
        volume = x.atoms.get_volume() if x.atoms.pbc.all() else len(x.atoms) * 10.0
        neighbours = 1.3 * 4.19 * length**3 * len(x.atoms) / volume
        need = len(x.atoms) * bytes_per_atom(neighbours, chosen.precision)
        if s and used + need > allowed:
            groups.append([])
            used = 0.0
        if s:
            groups[-1].append(s)
        used += need
    return groups


def bytes_per_atom(neighbours: float, precision: str) -> float:
    """Memory of a run: two neighbour tables, three arrays of pair gradients, some thirty numbers an atom."""
    return neighbours * (24.0 + 9.0 * (4.0 if precision == "float32" else 8.0)) + 1000.0


def available_memory() -> float:
    """Bytes free on the device, or in the machine."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4e9


def _ensemble(chosen: Settings, prepared: Sequence[_Prepared]) -> Ensemble:
    allowed = [[False] * 3 for _ in range(3)]
    for name in chosen.components:
        a, b = ("xyz".index(c) for c in name)
        allowed[a][b] = allowed[b][a] = True
    still = np.array([x.motion.still for x in prepared])
    return Ensemble(
        chosen.thermostat_or_none, chosen.barostat_or_none, tuple(tuple(x) for x in allowed),  # type: ignore[arg-type]
        chosen.temperature_end_K is not None or chosen.pressure_end_GPa is not None,
        (bool(still[:, 0].any()), bool(still[:, 1].any())),
    )  # fmt: skip


def _conditions(
    chosen: Settings, prepared: Sequence[_Prepared], packed: Packed, field: Field, guards: Sequence[tuple[Guard, float]]
) -> tuple[Conditions, tuple[Guard, ...]]:
    warmest = max(max(x.temperature) for x in prepared)
    for x in prepared:
        twice = float((x.atoms.get_masses()[:, None] * x.motion.velocities**2).sum())
        warmest = max(warmest, twice / (units.kB * x.motion.freedoms))
    hottest = chosen.max_temperature_K or max(LEAST_HOT_K, 10.0 * warmest)
    watched = [*zip(STANDARD, standard_limits(hottest), strict=True), *guards]
    if chosen.max_spread_eV_A is not None:
        if field.members == 1:
            raise ValueError("max_spread_eV_A needs a committee: give several potentials")
        watched.append((SPREAD, chosen.max_spread_eV_A))
    extent = [np.ptp(x.atoms.positions, axis=0).max() for x in prepared]
    conditions = Conditions(
        timestep=chosen.timestep_fs * units.fs, thermostat_time=chosen.thermostat_time_fs * units.fs,
        barostat_time=chosen.barostat_time_fs * units.fs, compressibility=chosen.compressibility_per_GPa / units.GPa,
        steps=float(chosen.steps), thermal=np.array([x.temperature for x in prepared]) * units.kB,
        pressure=np.array([x.pressure for x in prepared]) * units.GPa,
        freedoms=np.array([float(x.motion.freedoms) for x in prepared]), still=np.array([x.motion.still for x in prepared]),
        seeds=np.array([np.random.SeedSequence((chosen.seed, x.index, 1)).generate_state(1)[0] for x in prepared]),
        limits=np.array([limit for _, limit in watched]), shortest=chosen.min_distance * np.asarray(field.shortest_seen),
        first_volume=np.abs(np.linalg.det(packed.cell)), first_extent=np.array(extent),
    )  # fmt: skip
    return jax.tree.map(jnp.asarray, conditions), tuple(guard for guard, _ in watched)


class _Run:
    """Structures that move together, from the first step to the last."""

    def __init__(
        self, field: Field, prepared: Sequence[_Prepared], chosen: Settings, paths: Sequence[Paths], checkpoint: Path | None,
        guards: Sequence[tuple[Guard, float]],
    ) -> None:  # fmt: skip
        self.field, self.prepared, self.chosen, self.paths, self.checkpoint = field, prepared, chosen, paths, checkpoint
        moves = [x.motion.movable for x in prepared]
        self.packed = pack([x.atoms for x in prepared], field.model.elements, movable=moves, block=BLOCK)
        conditions, guarding = _conditions(chosen, prepared, self.packed, field, guards)
        self.field, self.system, self.conditions = jax.device_put((field, self.packed.system, conditions))
        self.length = field.cutoff + chosen.skin
        self.shrink = SHRINK if chosen.ensemble == "npt" else 0.0
        self.mark = restart.fingerprint(chosen, field, (self.packed, [x.motion.velocities for x in prepared]))
        self.setup = Setup(_ensemble(chosen, prepared), Plan((1, 1, 1), (0, 0, 0), 1, ()), chosen.skin, guarding)
        self.rows: list[list[Thermo]] = [[] for _ in prepared]
        self.written = 0

    def go(self, *, resume: bool, report: Callable[[int, int], None] | None, many: bool) -> list[MDSummary]:
        """From the beginning, or from the checkpoint."""
        began, before, outputs = time.perf_counter(), 0.0, None
        state = self._begin()
        if resume:
            assert self.checkpoint is not None
            saved = restart.load(self.checkpoint, state, self.mark)
            if int(saved.progress.state.step) > self.chosen.steps:
                raise ValueError(f"{self.checkpoint} is at step {saved.progress.state.step}, past the {self.chosen.steps} asked for")
            self.setup = self.setup._replace(plan=saved.plan)
            state, before, outputs = engine.relist(self.setup, self.field, self.system, saved.progress), saved.elapsed, saved.outputs
        output = Output(self.paths, outputs)
        try:
            if resume:
                self._read_rows()
            state = self._loop(state, output, report, began - before, fresh=not resume)
        finally:
            output.close()
        self.wall = before + time.perf_counter() - began
        stops = self._stops(state, many)
        return [self._summary(k, state, stops.get(k)) for k in range(len(self.prepared))]

    def _begin(self) -> Progress:
        velocities = self.packed.spread([x.motion.velocities for x in self.prepared])
        positions, cell = jnp.asarray(self.packed.positions), jnp.asarray(self.packed.cell)
        plan, neighbours = allocate(self.system, positions, cell, self.length, shrink=self.shrink)
        self.setup = self.setup._replace(plan=plan)
        return engine.begin(
            self.setup, self.field, self.system, self.conditions, neighbours, positions, jnp.asarray(velocities), cell
        )

    def _loop(
        self, progress: Progress, output: Output, report: Callable[[int, int], None] | None, began: float, *, fresh: bool
    ) -> Progress:
        """`pending` is a state whose frames and rows are still to be written: done while the device works on the next block."""
        chosen, step = self.chosen, int(progress.state.step)
        pending: Progress | None = progress if fresh else None
        saved, checkpointed = time.perf_counter(), step if not fresh else -1
        alive = np.asarray(progress.alive)
        try:
            while step < chosen.steps and alive.any():
                until = self._next_stop(step)
                attempt = engine.advance(
                    self.setup, self.field, self.system, self.conditions, progress, jnp.asarray(until, dtype=jnp.int32)
                )
                if pending is not None:
                    self._write(pending, output)
                    pending = None
                    if time.perf_counter() - saved >= chosen.checkpoint_s:
                        self._save(progress, output, began)
                        saved, checkpointed = time.perf_counter(), step
                if bool(attempt.neighbours.overflow):
                    progress = self._enlarged(progress, attempt)
                    continue
                progress, step, alive = attempt, until, np.asarray(attempt.alive)
                pending = progress
                if report is not None:
                    report(step, chosen.steps)
        except KeyboardInterrupt as error:
            if pending is not None:
                self._write(pending, output)
            raise self._interruption(progress, output, began) from error
        if pending is not None:
            self._write(pending, output)
        if checkpointed < step:
            self._save(progress, output, began)
        return progress

    def _next_stop(self, step: int) -> int:
        c = self.chosen
        every = [c.interval, c.log_interval or c.interval, max(1, ATOM_STEPS // self.system.n_rows)]
        return min([c.steps, *((step // n + 1) * n for n in every)])

    def _enlarged(self, progress: Progress, attempt: Progress) -> Progress:
        """The block overflowed: it is thrown away, and begins again with more room."""
        state = progress.state
        if not bool(attempt.neighbours.needs.fits):
            self.shrink += SHRINK
        where = self.system, state.positions, state.cell, self.length
        again = attempt
        while True:
            plan = enlarge(self.setup.plan, again.neighbours.needs, *where, shrink=self.shrink)
            self.setup = self.setup._replace(plan=plan)
            again = engine.relist(self.setup, self.field, self.system, progress)
            if not bool(again.neighbours.overflow):
                return again

    def _frame(self, k: int, state: State, step: int) -> ase.Atoms:
        rows, x = self.packed.rows[k], self.prepared[k]
        return frame_of(
            x.atoms, positions=np.asarray(state.positions)[rows], velocities=np.asarray(state.velocities)[rows],
            cell=np.asarray(state.cell[k]), energy=float(state.energy[k]), forces=np.asarray(state.forces)[rows],
            virial=np.asarray(state.virial[k]), step=step, time_ps=step * self.chosen.timestep_fs * 1e-3,
        )  # fmt: skip

    def _write(self, progress: Progress, output: Output) -> None:
        """Frames and rows due at this step; a structure that has stopped is written no more."""
        c, step = self.chosen, int(progress.state.step)
        last = step == c.steps
        state = jax.device_get(progress.state)
        framed = step % c.interval == 0 or last
        logged = step % (c.log_interval or c.interval) == 0 or last
        sampled: Sample | None = None
        if logged:
            sampled = jax.device_get(engine.sample(self.setup, self.system, self.conditions, progress.state))
        alive, rebuilds = np.asarray(progress.alive), int(progress.rebuilds)
        for k in np.flatnonzero(alive):
            frame = self._frame(k, state, step) if framed and self.paths[k].trajectory is not None else None
            row = None if sampled is None else self._row(sampled, k, step, rebuilds)
            if row is not None:
                self.rows[k].append(row)
            output.add(k, frame, row)

    def _row(self, s: Sample, k: int, step: int, rebuilds: int) -> Thermo:
        nearest = float(s.nearest[k])
        potential, moving = float(s.potential[k]), float(s.kinetic[k])
        return Thermo(
            step, step * self.chosen.timestep_fs * 1e-3, float(s.temperature[k]), potential, moving, potential + moving,
            float(s.conserved[k]), float(s.pressure[k]), float(s.volume[k]),
            nearest if nearest < 1.999 * self.field.cutoff else math.nan,
            float(s.spread[k]) if self.field.members > 1 else math.nan, rebuilds,
        )  # fmt: skip

    def _save(self, progress: Progress, output: Output, began: float) -> None:
        if self.checkpoint is not None:
            elapsed = time.perf_counter() - began
            restart.save(self.checkpoint, restart.Restart(progress, self.setup.plan, output.position(), elapsed), self.mark)

    def _interruption(self, progress: Progress, output: Output, began: float) -> Interrupted:
        step = int(progress.state.step)
        self._save(progress, output, began)
        frames = [self._frame(k, progress.state, step) for k in range(len(self.prepared))]
        how = "there is no output, nothing is saved" if self.checkpoint is None else "resume it to go on"
        message = f"interrupted after step {step} of {self.chosen.steps}; {how}"
        return Interrupted(message, step=step, frames=frames, saved=self.checkpoint)

    def _read_rows(self) -> None:
        for rows, path in zip(self.rows, self.paths, strict=True):
            if path.log is not None:
                table = read_log(path.log)
                rows += [Thermo(int(r[0]), *r[1:-1], int(r[-1])) for r in zip(*table.values(), strict=True)]

    def _stops(self, progress: Progress, many: bool) -> dict[int, Stop]:
        found, scores = {}, np.asarray(progress.scores)
        for k in np.flatnonzero(~np.asarray(progress.alive)):
            n, step = int(progress.tripped[k]), int(progress.stopped_at[k])
            guard, limit = self.setup.guards[n], float(self.conditions.limits[n])
            last, offending = self._frame(k, progress.state, max(step - 1, 0)), self._frame(k, progress.offending, step)
            about = f"structure {self.prepared[k].index} " if many else ""
            words = complaint(guard, limit, scores[self.packed.rows[k]], offending)
            message = f"{about}stopped at step {step} of {self.chosen.steps}: {words}"
            beside, saved = self.paths[k].trajectory or self.paths[k].log, None
            if beside is not None:
                saved = beside.with_name(beside.name + ".failed.extxyz")
                write_frames(saved, [last, offending])
                message += f"; the state at step {max(step - 1, 0)} and the offending one are in {saved}"
            found[int(k)] = Stop(self.prepared[k].index, step, guard.name, message, last, offending, saved)
        return found

    def _summary(self, k: int, progress: Progress, stop: Stop | None) -> MDSummary:
        c, x, rows = self.chosen, self.prepared[k], self.rows[k]
        steps = c.steps if stop is None else max(stop.step - 1, 0)
        table = {name: np.array(column) for name, column in zip(Thermo._fields, zip(*rows, strict=True), strict=True)}
        table = table or {name: np.full(1, np.nan) for name in Thermo._fields}
        late = {name: column[len(column) // 2 :] for name, column in table.items()}
        conserved = table["conserved_eV"]
        known = len(rows) >= 4 and bool(np.isfinite(conserved).all())
        drift = energy_drift(table["time_ps"], conserved, len(x.atoms)) if known else None
        shortest = table["min_distance_A"]
        return MDSummary(
            self._frame(k, progress.state, steps), c.ensemble, steps, steps * c.timestep_fs * 1e-3, self.wall, c.seed,
            x.motion.source, x.motion.freedoms, float(late["temperature_K"].mean()), float(late["temperature_K"].std()),
            float(late["pressure_GPa"].mean()), float(late["volume_A3"].mean()),
            float(np.nanmin(shortest)) if np.isfinite(shortest).any() else math.nan, drift, tuple(rows),
            self.paths[k].trajectory, self.paths[k].log, self.checkpoint, stop,
        )  # fmt: skip
