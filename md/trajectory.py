"""Trajectories that survive a kill: append frames, remember a position, go on from it as if nothing had come after.

    writer = open_writer(path)                  # .xyz, .extxyz, .traj, .h5, .h5md
    writer.add(frames)                          # in the hands of the operating system on return
    writer.sync(); writer.position()            # on disk; the number that belongs into a checkpoint
    writer = open_writer(path, position=...)    # drops what came after the checkpoint, whole frames and halves

A process may be killed at any moment. Every frame whose `add` has returned is then in the file, and `read_frames` gets it
back. Extended XYZ may end in half a frame, which other programs stumble over until the run goes on; .traj is readable at any
moment; H5MD is described in `h5md`. An exception half-way through `add` (Ctrl-C, disk full) leaves the frames before it.

Extended XYZ and .traj keep every number to the last bit. Extended XYZ keeps FixAtoms and FixCartesian, .traj all
constraints that ASE can write, H5MD none. The position is bytes in extended XYZ, frames in the others.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ase
import ase.io
import numpy as np
from ase.constraints import FixAtoms, FixCartesian
from ase.data import chemical_symbols
from ase.io import ulm
from ase.io.extxyz import key_val_dict_to_str, per_atom_properties, per_config_properties
from ase.io.trajectory import Trajectory, TrajectoryWriter
from ase.stress import voigt_6_to_full_3x3_stress
from pydantic_core import to_json

from adatom.md.h5md import H5mdWriter, read_h5md

SUFFIXES = (".xyz", ".extxyz", ".traj", ".h5", ".h5md")
SYMBOLS = np.array(chemical_symbols)
KINDS = {"f": "R", "i": "I", "u": "I", "b": "L"}
ULM_CAPACITY = 42
"""The table of offsets in a ULM file, the format of .traj, has room for 1, 42, 42², … frames."""


class FrameWriter(Protocol):
    """An open trajectory. The number of atoms is the same in all frames; the cell may change."""

    def add(self, frames: Sequence[ase.Atoms]) -> None:
        """Append; on return everything is flushed to the operating system."""

    def position(self) -> int:
        """Where the file ends, for a checkpoint: opaque, not negative."""

    def sync(self) -> None:
        """Return when everything is on the disk."""

    def close(self) -> None:
        """May be called again."""


def open_writer(path: Path, *, position: int | None = None) -> FrameWriter:
    """A new file, replacing one that is there; or, at the `position` of a checkpoint, go on and drop what came later.

    Raises ValueError for another suffix, and where the file to go on with is missing, shorter than `position`, damaged
    before it, or something else.
    """
    check_suffix(path)
    if position is not None and position < 0:
        raise ValueError(f"{path}: position must not be negative, got {position}")
    if position is not None and not path.is_file():
        raise ValueError(
            f"{path}: the checkpoint goes on with this trajectory, but there is no such file; "
            "put it back, or start a new run from the checkpoint's last frame"
        )
    if path.suffix == ".traj":
        return TrajWriter(path, position)
    return XyzWriter(path, position) if path.suffix in (".xyz", ".extxyz") else H5mdWriter(path, position)


def read_frames(path: Path) -> list[ase.Atoms]:
    """All whole frames, also of a file whose writer was killed or is still writing.

    Raises ValueError for an unknown suffix, and whatever ASE or h5py say of a file they cannot read.
    """
    check_suffix(path)
    if path.suffix in (".h5", ".h5md"):
        return read_h5md(path)
    if path.suffix == ".traj":
        with Trajectory(path, "r") as frames:
            return list(frames)
    whole = _whole_frames(path.read_bytes())
    return list(ase.io.iread(io.StringIO(whole.decode()), ":", format="extxyz")) if whole else []


def check_suffix(path: Path) -> None:
    """Raises ValueError for a file that no writer here writes."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"trajectory {path}: the suffix must be one of {', '.join(SUFFIXES)}")


class XyzWriter:
    """Extended XYZ, columns and keys as ASE names them. The position is bytes."""

    def __init__(self, path: Path, position: int | None) -> None:
        self._position = position or 0
        if position is not None:
            _check_end_of_frame(path, position)
        self._file: BinaryIO = open(path, "wb" if position is None else "r+b", buffering=0)  # noqa: SIM115
        self._cut()

    def add(self, frames: Sequence[ase.Atoms]) -> None:
        end = self._position
        try:
            for frame in frames:
                text = memoryview(format_xyz(frame))
                end += len(text)
                while text:
                    text = text[self._file.write(text) :]
        except BaseException:
            self._cut()
            raise
        self._position = end

    def position(self) -> int:
        return self._position

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _cut(self) -> None:
        self._file.truncate(self._position)
        self._file.seek(self._position)


class TrajWriter:
    """ASE's .traj through ASE's own writer. The position is the number of frames."""

    def __init__(self, path: Path, position: int | None) -> None:
        self._path, self._position = path, position or 0
        self._writer = self._open()

    def add(self, frames: Sequence[ase.Atoms]) -> None:
        try:
            for frame in frames:
                # named, or ASE compares positions with the calculator's and leaves the results of a NaN frame out
                self._writer.write(frame, **(frame.calc.results if frame.calc is not None else {}))
        except BaseException:
            with suppress(OSError):  # its close() would complete half a frame
                self._writer.backend.fd.close()
            self._writer = self._open()
            raise
        self._position += len(frames)

    def position(self) -> int:
        return self._position

    def sync(self) -> None:
        os.fsync(self._writer.backend.fd.fileno())

    def close(self) -> None:
        if not self._writer.backend.fd.closed:
            self._writer.close()

    def _open(self) -> TrajectoryWriter:
        if self._position:
            _cut_traj(self._path, self._position)
        return Trajectory(self._path, "a" if self._position else "w")


def format_xyz(frame: ase.Atoms) -> bytes:
    """One frame of extended XYZ: what ASE writes, with the fewest digits that read back to the same bits.

    pydantic_core is the fastest writer of such digits among what is installed anyway.
    """
    columns = {"species": SYMBOLS[frame.numbers], "pos": frame.positions} | _move_mask(frame)
    columns |= {k: v for k, v in frame.arrays.items() if k not in ("numbers", "positions")}
    keys = dict(frame.info)
    for name, value in (frame.calc.results if frame.calc is not None else {}).items():
        if name in per_atom_properties:
            columns[name] = np.asarray(value)
        elif name in per_config_properties:
            keys[name] = voigt_6_to_full_3x3_stress(value) if name == "stress" and np.shape(value) == (6,) else value
    properties: list[str] = []
    table: list[list[Any]] = []
    for name, column in columns.items():
        kind = "S" if name == "species" else KINDS.get(column.dtype.kind)
        if kind is None:
            raise ValueError(f"extended XYZ cannot hold the array {name!r} of type {column.dtype}: remove it from the frame")
        flat = column.reshape(len(frame), -1) if len(frame) else column.reshape(0, 1)
        properties += [name, kind, str(flat.shape[1])]
        table += (np.where(flat, "T", "F") if kind == "L" else flat).T.tolist()
    lattice = f'Lattice="{" ".join(map(repr, frame.cell.array.ravel().tolist()))}" ' if frame.cell.array.any() else ""
    comment = f"{lattice}Properties={':'.join(properties)} {key_val_dict_to_str(keys | {'pbc': frame.pbc})}"
    rows = to_json(list(zip(*table, strict=True)), inf_nan_mode="constants")
    rows = rows[2:-2].replace(b"],[", b"\n").replace(b'"', b"").replace(b",", b" ")
    return f"{len(frame)}\n{comment}\n".encode() + (rows + b"\n" if len(frame) else b"")


def _move_mask(frame: ase.Atoms) -> dict[str, np.ndarray]:
    """ASE's column for FixAtoms and FixCartesian: true (atoms,) or (atoms, 3) where an atom may move; none if all may."""
    free = np.ones((len(frame), 3), bool)
    for constraint in frame.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            fixed = constraint.mask if isinstance(constraint, FixCartesian) else np.ones(3, bool)
            free[constraint.index] &= ~fixed
    if free.all():
        return {}
    return {"move_mask": free[:, 0] if (free == free[:, :1]).all() else free}


def _check_end_of_frame(path: Path, position: int) -> None:
    size = path.stat().st_size
    if size < position:
        raise _too_short(path, f"{size} bytes", f"{position}")
    with open(path, "rb") as file:
        file.seek(max(position - 1, 0))
        if position and file.read(1) != b"\n":
            raise ValueError(
                f"{path}: no frame ends at byte {position}, so this is not the file the checkpoint was written for; "
                "put that one back, or start a new run from the checkpoint's last frame"
            )


def _whole_frames(text: bytes) -> bytes:
    """Without the half frame at the end."""
    lines = text.split(b"\n")  # the last one is empty, or not finished
    begin = 0
    while begin < len(lines) - 1:
        end = begin + 2 + int(lines[begin])
        if end > len(lines) - 1:
            break
        begin = end
    return b"\n".join([*lines[:begin], b""])


def _cut_traj(path: Path, position: int) -> None:
    """Make a .traj file end after `position` ≥ 1 frames, in place; a kill at any moment leaves it readable.

    The layout is described in `ase.io.ulm`. The number of frames, 8 bytes, is written first; only then is cut off what no
    one reads any more.
    """
    with open(path, "r+b") as file:
        try:
            tag, _, n_frames, table, offsets = ulm.read_header(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a trajectory of ASE, or damaged ({error})") from error
        if tag != "ASE-Trajectory":
            raise ValueError(f"{path}: not a trajectory of ASE, its tag is {tag!r}")
        if n_frames < position:
            raise _too_short(path, f"{n_frames} frames", f"{position}")
        size = file.seek(0, os.SEEK_END)
        file.seek(last := int(offsets[position - 1]))
        end = last + 8 + int.from_bytes(file.read(8), "little")
        if end > size:
            raise _too_short(path, f"{size} bytes", f"{position} frames, {end} bytes")
        capacity = 1
        while capacity < position:
            capacity *= ULM_CAPACITY
        file.seek(32)
        file.write(position.to_bytes(8, "little"))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(max(end, int(table) + 8 * capacity))


def _too_short(path: Path, has: str, needs: str) -> ValueError:
    return ValueError(
        f"{path}: {has}, but the checkpoint goes on after {needs}: the file was cut or replaced since; "
        "put the one that belongs to the checkpoint back, or start a new run from the checkpoint's last frame"
    )
