"""The host's side of a run: blocks of steps on the device, files written while the next block runs, checkpoints, stops.

    begin, or restart.load ─► [ advance to the next event ─► (overflow: larger plan, the block again) ─► write, checkpoint ]*

Blocks end where a frame or a row is due, and after some seconds, so that Ctrl-C is heard.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import ase
import jax
import jax.numpy as jnp
import numpy as np

from adatom.md import engine, restart
from adatom.md.config import Settings
from adatom.md.conservation import energy_drift
from adatom.md.engine import Progress, Sample, Setup
from adatom.md.field import Field
from adatom.md.guards import Guard, complaint
from adatom.md.neighbours import Plan, allocate, enlarge
from adatom.md.output import Output, Paths, frame_of, write_frames
from adatom.md.prepare import Prepared, conditions_of, ensemble_of
from adatom.md.results import Interrupted, MDSummary, Stop
from adatom.md.state import State
from adatom.md.system import pack
from adatom.md.thermo import Thermo, read_log
from adatom.potential.device import atom_steps_at_once, atoms_at_once
from adatom.potential.evaluator import ExtrapolationWarning

SHRINK = 0.05


class Run:
    """Structures that move together, from the first step to the last."""

    def __init__(
        self, field: Field, prepared: Sequence[Prepared], chosen: Settings, paths: Sequence[Paths], checkpoint: Path | None,
        guards: Sequence[tuple[Guard, float]],
    ) -> None:  # fmt: skip
        self.field, self.prepared, self.chosen, self.paths, self.checkpoint = field, prepared, chosen, paths, checkpoint
        moves = [x.motion.movable for x in prepared]
        self.packed = pack([x.atoms for x in prepared], field.model.elements, movable=moves, block=atoms_at_once())
        conditions, guarding = conditions_of(chosen, prepared, self.packed, field, guards)
        self.field, self.system, self.conditions = jax.device_put((field, self.packed.system, conditions))
        self.length = field.cutoff + chosen.skin
        self.shrink = SHRINK if chosen.ensemble == "npt" else 0.0
        arrays = [(x.atoms.numbers, x.atoms.get_masses(), x.atoms.pbc, x.motion.velocities) for x in prepared]
        self.mark = restart.fingerprint(chosen, field, (self.packed.positions, self.packed.cell, arrays))
        self.setup = Setup(ensemble_of(chosen, prepared), Plan((1, 1, 1), (0, 0, 0), 1, ()), chosen.skin, guarding)
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
                at = int(saved.progress.state.step)
                raise ValueError(f"{self.checkpoint} is at step {at}, past the {self.chosen.steps} asked for")
            self.setup = self.setup._replace(plan=saved.plan)
            state, before, outputs = self._relisted(saved.progress), saved.elapsed, saved.outputs
        output = Output(self.paths, outputs)
        try:
            if resume:
                self._read_rows()
            state = self._loop(state, output, report, began - before)
        finally:
            output.close()
        self.wall = before + time.perf_counter() - began
        self._warn(state, many)
        stops = self._stops(state, many)
        return [self._summary(k, state, stops.get(k)) for k in range(len(self.prepared))]

    def _begin(self) -> Progress:
        velocities = self.packed.spread([x.motion.velocities for x in self.prepared])
        positions, cell = jnp.asarray(self.packed.positions), jnp.asarray(self.packed.cell)
        plan, neighbours = allocate(self.system, positions, cell, self.length, shrink=self.shrink)
        self.setup = self.setup._replace(plan=plan)
        return engine.begin(self.system, neighbours, positions, jnp.asarray(velocities), cell)

    def _loop(
        self, progress: Progress, output: Output, report: Callable[[int, int], None] | None, began: float
    ) -> Progress:
        """`pending` is a state whose frames and rows are still to be written: done while the device works on the next block."""
        chosen, step = self.chosen, int(progress.state.step)
        pending: tuple[Progress, Sample] | None = None
        saved, checkpointed = time.perf_counter(), step
        alive = np.asarray(progress.alive)
        try:
            while step < chosen.steps and alive.any():
                until = self._next_stop(step)
                attempt, sampled = engine.advance(
                    self.setup, self.field, self.system, self.conditions, progress, jnp.asarray(until, dtype=jnp.int32)
                )
                if pending is not None:
                    self._write(*pending, output)
                    pending = None
                    if time.perf_counter() - saved >= chosen.checkpoint_s:
                        self._save(progress, output, began)
                        saved, checkpointed = time.perf_counter(), step
                if bool(attempt.neighbours.overflow):
                    progress = self._enlarged(progress, attempt)
                    continue
                progress, step, alive = attempt, until, np.asarray(attempt.alive)
                pending = progress, sampled
                if report is not None and step:
                    report(step, chosen.steps)
        except KeyboardInterrupt as error:
            if pending is not None:
                self._write(*pending, output)
            raise self._interruption(progress, output, began) from error
        if pending is not None:
            self._write(*pending, output)
        if checkpointed < step:
            self._save(progress, output, began)
        return progress

    def _next_stop(self, step: int) -> int:
        """Where the next block ends; the first one ends at step 0."""
        c = self.chosen
        every = [c.interval, c.log_interval or c.interval, max(1, atom_steps_at_once() // self.system.n_rows)]
        return min([c.steps, *((step // n + 1) * n for n in every)])

    def _enlarged(self, progress: Progress, attempt: Progress) -> Progress:
        """The block overflowed: it is thrown away, and begins again with more room."""
        state = progress.state
        if not bool(attempt.neighbours.needs.fits):
            self.shrink = min(self.shrink + SHRINK, 0.9)
        where = self.system, state.positions, state.cell, self.length
        again = attempt
        while True:
            plan = enlarge(self.setup.plan, again.neighbours.needs, *where, shrink=self.shrink)
            self.setup = self.setup._replace(plan=plan)
            again = self._relisted(progress)
            if not bool(again.neighbours.overflow):
                return again

    def _relisted(self, progress: Progress) -> Progress:
        return engine.relist(self.setup, self.field, self.system, progress)

    def _frame(self, k: int, state: State, step: int) -> ase.Atoms:
        rows, x = self.packed.rows[k], self.prepared[k]
        return frame_of(
            x.atoms, positions=np.asarray(state.positions)[rows], velocities=np.asarray(state.velocities)[rows],
            cell=np.asarray(state.cell[k]), energy=float(state.energy[k]), forces=np.asarray(state.forces)[rows],
            virial=np.asarray(state.virial[k]), step=step, time_ps=step * self.chosen.timestep_fs * 1e-3,
        )  # fmt: skip

    def _write(self, progress: Progress, sampled: Sample, output: Output) -> None:
        """Frames and rows due at this step; a structure that has stopped is written no more."""
        c, step = self.chosen, int(progress.state.step)
        last = step == c.steps
        framed = (step % c.interval == 0 or last) and self.paths[0].trajectory is not None
        logged = step % (c.log_interval or c.interval) == 0 or last
        state = jax.device_get(progress.state) if framed else progress.state
        sampled, rebuilds = jax.device_get(sampled), int(progress.rebuilds)
        for k in np.flatnonzero(np.asarray(progress.alive)).tolist():
            frame = self._frame(k, state, step) if framed else None
            row = self._row(sampled, k, step, rebuilds) if logged else None
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
            float(s.spread[k]) if self.field.members is not None else math.nan, rebuilds,
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
                for r in zip(*(x.tolist() for x in table.values()), strict=True):
                    rows.append(Thermo(*r)._replace(step=int(r[0]), rebuilds=int(r[-1])))

    def _stops(self, progress: Progress, many: bool) -> dict[int, Stop]:
        found, scores = {}, np.asarray(progress.scores)
        for k in np.flatnonzero(~np.asarray(progress.alive)).tolist():
            n, step = int(progress.tripped[k]), int(progress.stopped_at[k])
            guard, limit = self.setup.guards[n], float(self.conditions.limits[n])
            offending = self._frame(k, progress.offending, step)
            last = self._frame(k, progress.state, step - 1) if step else offending
            about = f"structure {self.prepared[k].number} " if many else ""
            words = complaint(guard, limit, scores[self.packed.rows[k]], offending)
            message = f"{about}stopped at step {step} of {self.chosen.steps}: {words}"
            beside, saved = self.paths[k].trajectory or self.paths[k].log, None
            if beside is not None:
                saved = beside.with_name(beside.name + ".failed.extxyz")
                write_frames(saved, [last, offending])
                message += f"; the state at step {max(step - 1, 0)} and the offending one are in {saved}"
            found[k] = Stop(self.prepared[k].number, step, guard.name, message, last, offending, saved)
        return found

    def _warn(self, progress: Progress, many: bool) -> None:
        """Atoms came closer than they ever do in the training data."""
        approach = np.asarray(progress.state.approach)
        if (worst := int(approach.argmax())) >= 0 and approach[worst] > 1.02:
            about = f"structure {self.prepared[worst].number}: " if many else ""
            warnings.warn(
                f"extrapolation: {about}a pair of atoms came to {100.0 / approach[worst]:.0f} % of the shortest distance "
                "that the training data know of such a pair", ExtrapolationWarning, stacklevel=6,
            )  # fmt: skip

    def _summary(self, k: int, progress: Progress, stop: Stop | None) -> MDSummary:
        c, x, rows = self.chosen, self.prepared[k], self.rows[k]
        steps = c.steps if stop is None else max(stop.step - 1, 0)
        columns = np.array(rows).T if rows else np.full((len(Thermo._fields), 1), np.nan)
        table = dict(zip(Thermo._fields, columns, strict=True))
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
