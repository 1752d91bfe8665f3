"""Files of a run: trajectory and table of every structure, single frames, and which names they have.

Frames are on disk (handed to the operating system) before the next but one block of steps. A frame holds numbers, positions
(unwrapped), velocities, cell and this run's energy, forces and stress, and nothing else of the structure the run began with:
labels of a data set do not leak into a trajectory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from adatom.md.thermo import Log, Thermo
from adatom.md.trajectory import FrameWriter, check_suffix, open_writer


class Paths(NamedTuple):
    """Of one structure."""

    trajectory: Path | None
    log: Path | None


def paths_for(trajectory: Path | None, log: Path | None, structures: int) -> tuple[Paths, ...]:
    """One pair per structure: run.extxyz, or run-0.extxyz, run-1.extxyz, …"""
    if structures == 1:
        return (Paths(trajectory, log),)
    digits = len(str(structures - 1))

    def numbered(path: Path | None, s: int) -> Path | None:
        return None if path is None else path.with_name(f"{path.stem}-{s:0{digits}d}{path.suffix}")

    return tuple(Paths(numbered(trajectory, s), numbered(log, s)) for s in range(structures))


def check_paths(paths: Sequence[Paths], restart: Path | None, *, overwrite: bool) -> None:
    """Raises ValueError for a path that cannot be written, FileExistsError for one that is there already."""
    first = paths[0]
    if first.trajectory is not None:
        check_suffix(first.trajectory)
    if first.trajectory is not None and first.log is not None and first.trajectory.resolve() == first.log.resolve():
        raise ValueError(f"trajectory and log are both {first.log}")
    for path in [x for pair in paths for x in pair] + [restart]:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
        if path.exists() and (path.is_dir() or not overwrite):
            raise FileExistsError(f"{path} exists already: choose another name, or --resume or --overwrite it")


def frame_of(
    like: ase.Atoms, *, positions: np.ndarray, velocities: np.ndarray, cell: np.ndarray, energy: float, forces: np.ndarray,
    virial: np.ndarray, step: int, time_ps: float,
) -> ase.Atoms:  # fmt: skip
    """Atoms for a file; numbers, masses, periodicity and constraints of `like`. Units as in `State`."""
    frame = ase.Atoms(
        numbers=like.numbers, positions=positions, cell=np.where(like.pbc[:, None], cell, like.cell.array), pbc=like.pbc,
        constraint=[c.copy() for c in like.constraints],
    )  # fmt: skip
    if like.has("masses"):
        frame.set_masses(like.get_masses())
    frame.set_momenta(velocities * like.get_masses()[:, None], apply_constraint=False)
    frame.info.update(step=step, time_ps=time_ps)
    results = {"energy": energy, "free_energy": energy, "forces": forces}
    if like.pbc.all():
        results["stress"] = full_3x3_to_voigt_6_stress(virial / abs(np.linalg.det(cell)))
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def write_frames(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Write whole frames to a file of their own, replacing it."""
    ase.io.write(path, list(frames), format="traj" if path.suffix == ".traj" else "extxyz")


class Output:
    """The open files of all structures. positions: where to go on, from `position()` of an earlier Output."""

    def __init__(self, paths: Sequence[Paths], positions: Sequence[Sequence[int]] | None = None) -> None:
        self.frames: list[FrameWriter | None] = []
        self.logs: list[Log | None] = []
        for s, (trajectory, log) in enumerate(paths):
            at, row = positions[s] if positions is not None else (None, None)
            self.frames.append(None if trajectory is None else open_writer(trajectory, position=at))
            self.logs.append(None if log is None else Log(log, position=row))

    def add(self, s: int, frame: ase.Atoms | None, row: Thermo | None) -> None:
        """What structure s has to say at this step."""
        writer, log = self.frames[s], self.logs[s]
        if writer is not None and frame is not None:
            writer.add([frame])
        if log is not None and row is not None:
            log.add(row)

    def position(self) -> list[list[int]]:
        """Of every file; all that was written before is on the disk."""
        for file in (*self.frames, *self.logs):
            if file is not None:
                file.sync()
        return [[0 if x is None else x.position() for x in pair] for pair in zip(self.frames, self.logs, strict=True)]

    def close(self) -> None:
        for file in (*self.frames, *self.logs):
            if file is not None:
                file.close()
