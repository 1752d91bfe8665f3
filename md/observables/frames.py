"""A trajectory as arrays: what the time-dependent observables are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols

from adatom.md.trajectory import SUFFIXES, read_frames

Array = np.ndarray
PER_PS = 1e3 * units.fs
"""Å/ps of one ASE unit of velocity."""


@dataclass(frozen=True)
class Frames:
    """The frames of one run, same atoms in the same order.

    time_ps (frames,); numbers, masses [u] (atoms,); positions (frames, atoms, 3) Å, not wrapped; cells (frames, 3, 3) Å;
    pbc (3,); velocities (frames, atoms, 3) Å/ps; stress (frames, 3, 3) GPa, with the kinetic part, positive in tension.
    velocities and stress are None where the frames have none. Raises ValueError for shapes that do not fit.
    """

    time_ps: Array
    numbers: Array
    masses: Array
    positions: Array
    cells: Array
    pbc: Array
    velocities: Array | None = None
    stress: Array | None = None

    def __post_init__(self) -> None:
        f, n = len(self.time_ps), len(self.numbers)
        shapes = {"masses": (n,), "positions": (f, n, 3), "velocities": (f, n, 3), "pbc": (3,)}
        shapes |= {"cells": (f, 3, 3), "stress": (f, 3, 3)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, {f} frames of {n} atoms need {shape}")
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"{name} has {int((~np.isfinite(array)).sum())} values that are not finite")

    def __len__(self) -> int:
        return len(self.time_ps)

    @property
    def interval_ps(self) -> float:
        """Time between frames. Raises ValueError where there are fewer than 2 or they are not evenly spaced."""
        if len(self) < 2:
            raise ValueError(f"{len(self)} frames have no interval: at least 2 are needed")
        steps = np.diff(self.time_ps)
        mean = float(steps.mean())
        worst = int(np.argmax(np.abs(steps - mean)))
        if not mean > 0.0 or abs(steps[worst] - mean) > 1e-3 * mean:
            raise ValueError(
                f"the frames are not evenly spaced: {steps[worst]:g} ps after frame {worst}, {mean:g} ps on average; "
                "take every n-th frame of one run"
            )
        return mean

    @property
    def elements(self) -> dict[str, Array]:
        """The indices (n,) of the atoms of each element, lightest element first."""
        return {chemical_symbols[z]: np.flatnonzero(self.numbers == z) for z in np.unique(self.numbers)}

    def since(self, time_ps: float) -> Frames:
        """The frames from a time on: without the equilibration. Raises ValueError where none is left."""
        keep = self.time_ps >= time_ps - 1e-9 * max(1.0, abs(time_ps))
        if not keep.any():
            raise ValueError(f"nothing is left: the last frame is at {self.time_ps[-1]:g} ps, {time_ps:g} ps are discarded")
        return self._take(keep)

    def even(self) -> Frames:
        """Without a last frame that is nearer than the others: a run writes its last step whatever the interval."""
        if len(self) > 2:
            last, before = np.diff(self.time_ps)[[-1, 0]]
            if last < (1.0 - 1e-3) * before:
                return self._take(np.arange(len(self)) < len(self) - 1)
        return self

    def _take(self, keep: Array) -> Frames:
        return replace(
            self, time_ps=self.time_ps[keep], positions=self.positions[keep], cells=self.cells[keep],
            velocities=None if self.velocities is None else self.velocities[keep],
            stress=None if self.stress is None else self.stress[keep],
        )  # fmt: skip


def read_trajectory(path: Path, *, interval_ps: float | None = None) -> Frames:
    """Read a whole trajectory: of this package (also one whose writer was killed), or anything that ASE reads.

    Times are those of the frames (info `time_ps`), or multiples of `interval_ps` where that is given. Raises
    ValueError where there is no time, no frame, or the atoms change.
    """
    frames = read_frames(path) if path.suffix in SUFFIXES else list(ase.io.iread(path, index=":"))
    if not frames:
        raise ValueError(f"{path} has no frames")
    return frames_of(frames, name=str(path), interval_ps=interval_ps)


def frames_of(atoms: list[ase.Atoms], *, name: str = "the trajectory", interval_ps: float | None = None) -> Frames:
    """Arrays of a list of ASE Atoms, as `read_trajectory`."""
    first = atoms[0]
    for k, frame in enumerate(atoms):
        if len(frame) != len(first) or (frame.numbers != first.numbers).any():
            raise ValueError(f"{name}: frame {k} is {frame.symbols}, the first is {first.symbols}; atoms must stay the same")
        if (frame.pbc != first.pbc).any():
            raise ValueError(f"{name}: frame {k} has pbc {frame.pbc.tolist()}, the first {first.pbc.tolist()}")
        if interval_ps is None and "time_ps" not in frame.info:
            raise ValueError(f"{name}: frame {k} has no time_ps; give the time between frames as interval_ps")
    if interval_ps is None:
        time: Array = np.array([frame.info["time_ps"] for frame in atoms], dtype=np.float64)
    else:
        time = np.arange(len(atoms)) * float(interval_ps)
    moving = all(frame.has("momenta") for frame in atoms)
    stress = [_stress(frame) for frame in atoms]
    return Frames(
        time, np.array(first.numbers), first.get_masses(), np.array([frame.positions for frame in atoms]),
        np.array([frame.cell.array for frame in atoms]), np.array(first.pbc),
        np.array([frame.get_velocities() for frame in atoms]) * PER_PS if moving else None,
        None if any(s is None for s in stress) else np.array(stress),
    )  # fmt: skip


def _stress(atoms: ase.Atoms) -> Array | None:
    if atoms.calc is None or not atoms.pbc.all():
        return None
    try:
        return np.array(atoms.get_stress(voigt=False, include_ideal_gas=atoms.has("momenta"))) / units.GPa
    except (PropertyNotImplementedError, NotImplementedError):
        return None
