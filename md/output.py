"""Files of a run: trajectory (.traj, .xyz, .extxyz), thermodynamic table (.csv), and single frames.

Every frame and row is on disk when the next step begins. A frame holds numbers, positions, velocities, cell and this
run's energy, forces and stress, and nothing else of the structure the run began with: labels of a data set do not leak
into a trajectory.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory, TrajectoryWriter

from adatom.md.thermo import Thermo

TRAJECTORY_SUFFIXES = (".traj", ".xyz", ".extxyz")
PROPERTIES = ("energy", "free_energy", "forces", "stress")


def check_paths(trajectory: Path | None, log: Path | None, overwrite: bool) -> None:
    """Raises ValueError for a path that cannot be written, FileExistsError for one that is there already."""
    if trajectory is not None and trajectory.suffix not in TRAJECTORY_SUFFIXES:
        raise ValueError(f"trajectory {trajectory}: the suffix must be one of {', '.join(TRAJECTORY_SUFFIXES)}")
    if trajectory is not None and log is not None and trajectory.resolve() == log.resolve():
        raise ValueError(f"trajectory and log are both {log}")
    for path in (trajectory, log):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
        if path.exists() and (path.is_dir() or not overwrite):
            raise FileExistsError(f"{path} exists already: choose another name or allow overwriting (--overwrite)")


def snapshot(atoms: ase.Atoms, *, step: int, time_ps: float) -> ase.Atoms:
    """A copy for a file, with the calculator's results for exactly this configuration, where it has them."""
    frame = ase.Atoms(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, masses=atoms.get_masses(),
        momenta=atoms.get_momenta(), constraint=[c.copy() for c in atoms.constraints],
    )  # fmt: skip
    frame.info.update(step=step, time_ps=time_ps)
    if not atoms.has("masses"):
        del frame.arrays["masses"]
    calc = atoms.calc
    if calc is not None and not calc.calculation_required(atoms, ["energy"]):
        results = {k: calc.results[k] for k in PROPERTIES if calc.results.get(k) is not None}
        frame.calc = SinglePointCalculator(frame, **results)
    return frame


def write_frames(path: Path, frames: Sequence[ase.Atoms]) -> None:
    """Write whole frames to a file of their own, replacing it."""
    ase.io.write(path, list(frames), format="traj" if path.suffix == ".traj" else "extxyz")


class Output:
    """Opens what was asked for, and closes it. Use as a context manager."""

    def __init__(self, trajectory: Path | None, log: Path | None) -> None:
        self.rows: list[Thermo] = []
        self._binary: TrajectoryWriter | None = None
        self._text: IO[str] | None = None
        self._log: IO[str] | None = None
        if trajectory is not None and trajectory.suffix == ".traj":
            self._binary = Trajectory(trajectory, "w")
        elif trajectory is not None:
            self._text = open(trajectory, "w", encoding="utf-8")  # noqa: SIM115
        if log is not None:
            self._log = open(log, "w", newline="", encoding="utf-8")  # noqa: SIM115
            csv.writer(self._log).writerow(Thermo._fields)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._binary, self._text, self._log):
            if file is not None:
                file.close()

    def add(self, frame: ase.Atoms, row: Thermo) -> None:
        """One frame and one row, flushed."""
        self.rows.append(row)
        if self._binary is not None:
            self._binary.write(frame)
        if self._text is not None:
            ase.io.write(self._text, frame, format="extxyz")
            self._text.flush()
        if self._log is not None:
            fields = ("" if math.isnan(x) else f"{x:.10g}" if isinstance(x, float) else x for x in row)
            csv.writer(self._log).writerow(fields)
            self._log.flush()


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a thermodynamic table, (rows,) each, nan where a field is empty. ValueError for any other file."""
    with open(path, newline="", encoding="utf-8") as f:
        header, *rows = list(csv.reader(f)) or [[]]
    if tuple(header) != Thermo._fields:
        raise ValueError(f"{path} is not a table written by adatom md: its first line is {','.join(header)[:80]!r}")
    whole = [r for r in rows if len(r) == len(header)]  # a killed run may leave half a line
    table = np.array([[float(x) if x else np.nan for x in r] for r in whole]).reshape(len(whole), len(header))
    return dict(zip(header, table.T, strict=True))
