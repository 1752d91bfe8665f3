"""What a run gives back: a summary, or why it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ase

from adatom.md.conservation import Drift
from adatom.md.thermo import Thermo


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

    atoms: the last state, with energy, forces and stress. velocities: where the first ones came from, in words. rows: the whole
    table. Temperatures K, pressure GPa (nan without a 3-D cell), volume Å³, time ps, wall time s. drift: None where nothing is
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
