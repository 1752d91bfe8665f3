"""Run molecular dynamics on the device, for one structure or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import ase
import jax

from adatom.md.config import COMPONENTS, Settings, settings
from adatom.md.field import Source, make_field
from adatom.md.guards import Guard
from adatom.md.output import check_paths, paths_for
from adatom.md.prepare import Prepared, groups_that_fit
from adatom.md.results import MDSummary, SimulationFailed
from adatom.md.run import Run


def simulate(
    potential: Source | Sequence[Source],
    atoms: ase.Atoms,
    *,
    ensemble: Literal["nve", "nvt", "npt"],
    steps: int,
    temperature_K: float | None = None,
    temperature_end_K: float | None = None,
    pressure_GPa: float = 0.0,
    pressure_end_GPa: float | None = None,
    timestep_fs: float = 1.0,
    thermostat: Literal["langevin", "nose-hoover", "bussi", "berendsen"] = "langevin",
    thermostat_time_fs: float = 100.0,
    fix_center_of_mass: bool = False,
    barostat: Literal["isotropic", "flexible", "berendsen"] = "isotropic",
    barostat_time_fs: float = 1000.0,
    components: Sequence[str] = COMPONENTS,
    compressibility_per_GPa: float = 0.01,
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
    spread_interval: int | None = None,
    guards: Sequence[tuple[Guard, float]] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_stop: Literal["raise", "return"] = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> MDSummary:
    """Move a copy of `atoms` under a potential for `steps` steps.

    potential: path of an `.adatom` file, Potential, analytic model, or several of the same shape: a committee, of which the first
    moves the atoms. With an `_end_`
    value, temperature and pressure are ramped. Everything else as in `adatom.md.config.Settings`. Every `interval` steps, and at
    the first and the last, a frame goes to `trajectory` (.extxyz, .traj, .h5), and every `log_interval` a row to `log` (as
    `Thermo`); `resume` goes on from the checkpoint beside them. guards: more reasons to stop, with their limits.
    on_stop="return" gives a summary with `stop` set instead of raising. progress(done, steps) is called after every block.

    Raises ValueError for bad arguments, FileExistsError for output that is there already (unless `overwrite` or `resume`),
    SimulationFailed when a guard stopped it (two frames in `<output>.failed.extxyz`), Interrupted on Ctrl-C.
    """
    given: dict[str, Any] = {
        "ensemble": ensemble, "steps": steps, "temperature_K": temperature_K, "temperature_end_K": temperature_end_K,
        "pressure_GPa": pressure_GPa, "pressure_end_GPa": pressure_end_GPa, "timestep_fs": timestep_fs,
        "thermostat": thermostat, "thermostat_time_fs": thermostat_time_fs, "fix_center_of_mass": fix_center_of_mass,
        "barostat": barostat, "barostat_time_fs": barostat_time_fs, "components": tuple(components),
        "compressibility_per_GPa": compressibility_per_GPa, "precision": precision, "skin": skin, "seed": seed,
        "interval": interval, "log_interval": log_interval, "checkpoint_s": checkpoint_s,
        "max_temperature_K": max_temperature_K, "min_distance": min_distance, "max_spread_eV_A": max_spread_eV_A,
        "spread_interval": spread_interval,
    }  # fmt: skip
    return simulate_many(
        potential, [atoms], settings(given), trajectory=trajectory, log=log, guards=guards, resume=resume, overwrite=overwrite,
        on_stop=on_stop, progress=progress,
    )[0]  # fmt: skip


def simulate_many(
    potential: Source | Sequence[Source],
    structures: Sequence[ase.Atoms],
    chosen: Settings,
    *,
    trajectory: str | Path | None = None,
    log: str | Path | None = None,
    guards: Sequence[tuple[Guard, float]] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_stop: Literal["raise", "return"] = "raise",
    progress: Callable[[int, int], None] | None = None,
    bias: float = 0.0,
) -> tuple[MDSummary, ...]:
    """The same for replicas or different structures together, as many at once as memory allows: one summary each.

    chosen: `adatom.md.config.Settings`; temperatures and pressures in it may be one for each. Every structure has its own
    random numbers, the same whatever it runs together with. Output goes to `name-0`, `name-1`, … A guard stops the structure it
    is about, the others go on to the end before SimulationFailed is raised. bias: atoms move on E − bias · σ_E (`field`); costs
    as much again as the committee has members.
    """
    if not structures:
        raise ValueError("no structures given")
    trajectory, log = (None if p is None else Path(p) for p in (trajectory, log))
    paths, base = paths_for(trajectory, log, len(structures)), trajectory or log
    checkpoint = None if base is None else base.with_name(base.name + ".restart")
    if resume and checkpoint is None:
        raise ValueError("nothing to resume: a run without trajectory and log leaves no checkpoint")
    if not resume:
        check_paths(paths, checkpoint, overwrite=overwrite)
    field = make_field(potential, precision=chosen.precision, bias=bias)
    with jax.enable_x64(True):
        prepared = [Prepared.of(x, s, len(structures), chosen) for s, x in enumerate(structures)]
        found: list[MDSummary] = []
        groups = groups_that_fit(field, prepared, chosen)
        for g, members in enumerate(groups):
            own = checkpoint if len(groups) == 1 or checkpoint is None else checkpoint.with_name(f"{checkpoint.name}-{g}")
            found += Run(field, [prepared[s] for s in members], chosen, [paths[s] for s in members], own, guards).go(
                resume=resume, report=progress, many=len(structures) > 1
            )
    stops = [x.stop for x in found if x.stop is not None]
    if stops and on_stop == "raise":
        raise SimulationFailed("; ".join(x.message for x in stops), stops)
    return tuple(found)
