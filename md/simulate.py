"""Run molecular dynamics: check the arguments, move the atoms, write, watch, and stop cleanly whatever happens."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import ase
import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError

from adatom.md.conservation import Drift, energy_drift
from adatom.md.ensembles import Barostat, Ensemble, Thermostat, initial_velocities, make_integrator
from adatom.md.guards import make_guard
from adatom.md.output import Output, check_paths, snapshot, write_frames
from adatom.md.thermo import Thermo, measure
from adatom.potential.structure import from_atoms

REACH = 3.0


class SimulationFailed(RuntimeError):
    """The run became unphysical at `step`, or the calculator gave up. `frames`: last good state, offending state."""

    def __init__(self, message: str, *, step: int, frames: list[ase.Atoms], saved: Path | None) -> None:
        super().__init__(message)
        self.step, self.frames, self.saved = step, frames, saved


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after `step` whole steps. `frame` is the state to go on from, also in the file `saved`."""

    def __init__(self, message: str, *, step: int, frame: ase.Atoms, saved: Path | None) -> None:
        super().__init__(message)
        self.step, self.frame, self.saved = step, frame, saved


@dataclass(frozen=True)
class MDSummary:
    """What a finished run was. Means are over the second half of the rows; `drift` is of the conserved energy.

    atoms: the last state, with calculator. velocities: where the initial ones came from, in words. rows: the whole
    table. Temperatures K, pressure GPa (nan without a 3-D cell), volume Å³, time ps, wall time s. drift: None where
    nothing is conserved (Langevin) or there are fewer than 4 rows.
    """

    atoms: ase.Atoms
    ensemble: Ensemble
    steps: int
    time_ps: float
    wall_s: float
    seed: int
    velocities: str
    temperature_mean: float
    temperature_std: float
    pressure_mean: float
    volume_mean: float
    min_distance: float
    drift: Drift | None
    rows: tuple[Thermo, ...]
    trajectory: Path | None
    log: Path | None


def run(
    atoms: ase.Atoms,
    *,
    ensemble: Ensemble,
    steps: int,
    temperature_K: float | None = None,
    pressure_GPa: float | None = None,
    timestep_fs: float = 1.0,
    thermostat: Thermostat = "langevin",
    thermostat_time_fs: float = 100.0,
    barostat: Barostat = "isotropic",
    barostat_time_fs: float = 1000.0,
    trajectory: Path | None = None,
    log: Path | None = None,
    interval: int = 10,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MDSummary:
    """Move a copy of `atoms` (with `atoms.calc` set, any ASE calculator) for `steps` steps.

    ensemble: "nve" (velocity Verlet), "nvt" (`thermostat`), "npt" (Martyna–Tobias–Klein with Nosé–Hoover chains;
    `barostat` "isotropic" scales the cell, "flexible" also changes its shape). thermostat_time_fs: 1/friction of
    Langevin, τ of the others. Every `interval` steps, and at the first and the last, a frame goes to `trajectory`
    (.traj, .xyz, .extxyz) and a row to `log` (CSV, columns of `Thermo`). progress(done, steps) is called every step.

    Raises ValueError for bad arguments, FileExistsError for output that is there already (unless `overwrite`),
    SimulationFailed when the run goes wrong (two frames in `<output>.failed.extxyz`), Interrupted on Ctrl-C
    (`<output>.restart.traj`). README.md says what is conserved and what is reproducible.
    """
    trajectory, log = (None if p is None else Path(p) for p in (trajectory, log))
    _check_choices(ensemble, thermostat, barostat)
    _check_numbers(steps=steps, interval=interval, seed=seed)
    _check_times(timestep_fs=timestep_fs, thermostat_time_fs=thermostat_time_fs, barostat_time_fs=barostat_time_fs)
    _check_targets(ensemble, temperature_K, pressure_GPa)
    _check_atoms(atoms, ensemble, thermostat)
    check_paths(trajectory, log, overwrite)
    moving = atoms.copy()
    moving.calc = atoms.calc
    for_velocities, for_thermostat = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    velocities = initial_velocities(moving, temperature_K, for_velocities)
    integrator = make_integrator(
        moving, ensemble=ensemble, temperature_K=temperature_K, pressure_GPa=pressure_GPa, timestep_fs=timestep_fs,
        thermostat=thermostat, thermostat_time_fs=thermostat_time_fs, barostat=barostat,
        barostat_time_fs=barostat_time_fs, rng=for_thermostat,
    )  # fmt: skip
    guard = make_guard(
        moving, temperature_K=temperature_K, timestep_fs=timestep_fs, degrees_of_freedom=integrator.degrees_of_freedom
    )
    saved_as = trajectory or log
    began, reach = time.perf_counter(), REACH
    states = integrator.dynamics.irun(steps)
    last_output = snapshot(moving, step=0, time_ps=0.0)
    last_whole = (0, moving.positions.copy(), moving.get_momenta(), moving.cell.array.copy())
    with Output(trajectory, log) as output:
        try:
            for step in range(steps + 1):
                time_ps = step * timestep_fs * 1e-3
                try:
                    next(states)
                    wrong, cause = guard.complaint(moving), None
                except Exception as error:
                    wrong, cause = f"{type(error).__name__}: {error}", error
                if wrong is not None:
                    frames = [last_output, snapshot(moving, step=step, time_ps=time_ps)]
                    raise _failure(f"stopped at step {step} of {steps}: {wrong}", step, frames, saved_as) from cause
                last_whole = (step, moving.positions.copy(), moving.get_momenta(), moving.cell.array.copy())
                if step % interval == 0 or step == steps:
                    row = measure(
                        moving, step=step, time_ps=time_ps, degrees_of_freedom=integrator.degrees_of_freedom,
                        conserved=integrator.conserved(), reach=reach,
                    )  # fmt: skip
                    reach = 1.2 * row.min_distance_A if np.isfinite(row.min_distance_A) else REACH
                    last_output = snapshot(moving, step=step, time_ps=time_ps)
                    output.add(last_output, row)
                if progress is not None and step:
                    progress(step, steps)
        except KeyboardInterrupt as error:
            done, positions, momenta, cell = last_whole  # Ctrl-C may have come half-way through a step
            moving.set_cell(cell)
            moving.set_positions(positions, apply_constraint=False)
            moving.set_momenta(momenta, apply_constraint=False)
            frame = snapshot(moving, step=done, time_ps=done * timestep_fs * 1e-3)
            raise _interruption(frame, steps, saved_as) from error
    return _summary(
        moving, output.rows, ensemble=ensemble, steps=steps, timestep_fs=timestep_fs,
        wall_s=time.perf_counter() - began, seed=seed, velocities=velocities, trajectory=trajectory, log=log,
    )  # fmt: skip


def _failure(message: str, step: int, frames: list[ase.Atoms], beside: Path | None) -> SimulationFailed:
    saved = None if beside is None else beside.with_name(beside.name + ".failed.extxyz")
    if saved is not None:
        write_frames(saved, frames)
        message += f"; the state at step {frames[0].info['step']} and the offending one are in {saved}"
    return SimulationFailed(message, step=step, frames=frames, saved=saved)


def _interruption(frame: ase.Atoms, steps: int, beside: Path | None) -> Interrupted:
    step = frame.info["step"]
    saved = None if beside is None else beside.with_name(beside.name + ".restart.traj")
    how = "there is no output, nothing is saved"
    if saved is not None:
        write_frames(saved, [frame])
        how = f"go on from {saved} with {steps - step} more steps"
    return Interrupted(f"interrupted after step {step} of {steps}; {how}", step=step, frame=frame, saved=saved)


def _summary(
    atoms: ase.Atoms, rows: list[Thermo], *, ensemble: Ensemble, steps: int, timestep_fs: float, wall_s: float,
    seed: int, velocities: str, trajectory: Path | None, log: Path | None,
) -> MDSummary:  # fmt: skip
    table = {name: np.array(column) for name, column in zip(Thermo._fields, zip(*rows, strict=True), strict=True)}
    late = {name: column[len(column) // 2 :] for name, column in table.items()}
    conserved = table["conserved_eV"]
    known = len(rows) >= 4 and bool(np.isfinite(conserved).all())
    drift = energy_drift(table["time_ps"], conserved, len(atoms)) if known else None
    return MDSummary(
        atoms, ensemble, steps, steps * timestep_fs * 1e-3, wall_s, seed, velocities,
        float(late["temperature_K"].mean()), float(late["temperature_K"].std()), float(late["pressure_GPa"].mean()),
        float(late["volume_A3"].mean()), float(table["min_distance_A"].min()), drift, tuple(rows), trajectory, log,
    )  # fmt: skip


def _check_choices(ensemble: str, thermostat: str, barostat: str) -> None:
    for name, value, choices in (
        ("ensemble", ensemble, get_args(Ensemble)),
        ("thermostat", thermostat, get_args(Thermostat)),
        ("barostat", barostat, get_args(Barostat)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _check_numbers(*, steps: int, interval: int, seed: int) -> None:
    for name, number, least in (("steps", steps, 1), ("interval", interval, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")


def _check_times(*, timestep_fs: float, thermostat_time_fs: float, barostat_time_fs: float) -> None:
    if not 0.0 < timestep_fs < np.inf:
        raise ValueError(f"timestep_fs must be positive, not {timestep_fs}")
    for name, time_fs in (("thermostat_time_fs", thermostat_time_fs), ("barostat_time_fs", barostat_time_fs)):
        if not 2.0 * timestep_fs <= time_fs < np.inf:
            raise ValueError(f"{name} must be at least two timesteps of {timestep_fs:g} fs, not {time_fs}")
    if timestep_fs > 20.0:
        warnings.warn(f"a timestep of {timestep_fs:g} fs is longer than atomic vibrations; 1 fs is usual", stacklevel=3)


def _check_targets(ensemble: Ensemble, temperature_K: float | None, pressure_GPa: float | None) -> None:
    if temperature_K is None and ensemble != "nve":
        raise ValueError(f"{ensemble} needs temperature_K")
    if temperature_K is not None and not 0.0 < temperature_K < np.inf:
        raise ValueError(f"temperature_K must be positive, not {temperature_K}")
    if pressure_GPa is not None and ensemble != "npt":
        raise ValueError(f"pressure_GPa is for npt only: {ensemble} keeps the cell")
    if ensemble == "npt" and (pressure_GPa is None or not np.isfinite(pressure_GPa)):
        raise ValueError(f"npt needs pressure_GPa, got {pressure_GPa}")


def _check_atoms(atoms: ase.Atoms, ensemble: Ensemble, thermostat: Thermostat) -> None:
    if atoms.calc is None:
        raise ValueError("the structure has no calculator: set atoms.calc first")
    from_atoms(atoms)
    chains = ensemble == "npt" or (ensemble == "nvt" and thermostat == "nose-hoover")
    if chains and atoms.constraints:
        raise ValueError(f"{type(atoms.constraints[0]).__name__} constraints work with nve, langevin and bussi only")
    if len(atoms) == 1 and ensemble != "nve" and (chains or thermostat == "bussi"):
        raise ValueError("a single atom has no thermostat but langevin: the others keep its centre of mass at rest")
    if ensemble != "npt":
        return
    if not atoms.pbc.all():
        raise ValueError(f"npt needs a cell periodic in three directions, pbc is {atoms.pbc.tolist()}")
    try:
        atoms.get_stress()
    except (PropertyNotImplementedError, NotImplementedError) as error:
        raise ValueError(f"npt needs stress, which {type(atoms.calc).__name__} does not have") from error
