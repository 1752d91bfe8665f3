"""H5MD 1.1 (https://www.nongnu.org/h5md/h5md.html): trajectories in HDF5, written so that a kill cannot spoil them.

    h5md                        version, author, creator
    particles/all/              species, position, velocity, force, mass (where the frame has masses of its own)
    particles/all/box/          dimension, boundary (per direction), edges (frames, 3, 3), rows are lattice vectors
    observables/all/            energy, free_energy, stress (frames, 3, 3); of the whole system, not per atom

Every element is a group of `value`, `step` and `time` (ps; the same two datasets everywhere). Units are attributes: Å,
Å/fs, eV, eV/Å, eV/Å³, u. Momenta are kept as velocities, equal to rounding; the rest to the last bit. Strings are of
variable length, as h5py and with it most readers expect, where the specification says fixed.

What a kill cannot spoil: HDF5 writes in an order that is readable at any moment once a file is in SWMR mode (single writer,
multiple readers), where no dataset can be created any more: the first frame decides what the file holds. A frame counts
when its `step` is written, which is last. A kill tears a write at a multiple of 4096 bytes: metadata are laid out so that no
block crosses one. A file that was not closed is marked as open, and other programs must open it with
`h5py.File(path, "r", swmr=True)`; we read it as `hdf5_killed` says. HDF5 has no safe way to write on in it: going on copies its
frames to a file beside, which then takes its place.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from adatom.md import hdf5_killed

BOX = "particles/all/box"
CLOCK = "particles/all/position"
STEP, TIME = f"{CLOCK}/step", f"{CLOCK}/time"
UNITS = {
    "particles/all/species": None,
    "particles/all/position": "Angstrom",
    "particles/all/box/edges": "Angstrom",
    "particles/all/velocity": "Angstrom fs-1",
    "particles/all/mass": "u",
    "particles/all/force": "eV Angstrom-1",
    "observables/all/energy": "eV",
    "observables/all/free_energy": "eV",
    "observables/all/stress": "eV Angstrom-3",
}
RESULTS = {"energy": "observables/all/energy", "free_energy": "observables/all/free_energy", "forces": "particles/all/force"}
NOT_WRITTEN = -1
"""In `step`: HDF5 may make room for a step before it is there."""
LIBVER = ("v110", "v110")
"""The first version with SWMR; newer ones cannot be read by older libraries."""
PAGE_BYTES = 4096
"""What Linux writes as a whole, whatever is killed."""
CHUNK_BYTES = 1 << 16
COPY_BYTES = 1 << 26
LENGTH_SLACK = 1 << 20
"""HDF5 notes a length a little before the file has it."""
TRIALS, PAUSE_S = 5, 0.05
"""Of reading a file whose writer may be at work: between two of its writes, blocks may not fit each other."""


class H5mdWriter:
    """See `adatom.md.trajectory.FrameWriter`. The position is the number of frames."""

    def __init__(self, path: Path, position: int | None) -> None:
        self._path, self._position = path, position or 0
        self._h5py = _h5py(path)
        self._file = _copy(self._h5py, path, position) if position else _create(self._h5py, path)
        self._datasets = _datasets(self._file)
        self._boundary = list(self._file[BOX].attrs["boundary"]) if self._datasets else []
        self._torn = False

    def add(self, frames: Sequence[ase.Atoms]) -> None:
        """Raises ValueError for a frame that does not hold the same as the first one of the file."""
        if not frames:
            return
        elements = [_elements(frame) for frame in frames]
        if not self._datasets:
            self._boundary = _boundary(frames[0])
            self._datasets = _lay_out(self._file, {k: (v.shape, v.dtype) for k, v in elements[0].items()}, self._boundary)
        for frame, values in zip(frames, elements, strict=True):
            self._check(frame, values)
        columns = {name: np.stack([values[name] for values in elements]) for name in elements[0]}
        clock = np.array([f.info["step"] for f in frames]), np.array([f.info["time_ps"] for f in frames])
        self._torn = True
        _append(self._file, self._datasets, self._position, columns, *clock)
        if not self._position:
            self._file.swmr_mode = True
        self._torn = False
        self._position += len(frames)

    def position(self) -> int:
        return self._position

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())

    def close(self) -> None:
        self._file.close()
        if self._torn:  # an exception half-way through add: whole again before others read it
            with self._h5py.File(self._path, "r+", libver=LIBVER) as file:
                for dataset in _datasets(file).values():
                    dataset.resize(self._position, axis=0)
            self._torn = False

    def _check(self, frame: ase.Atoms, values: dict[str, np.ndarray]) -> None:
        what = f"{self._path}: step {frame.info['step']}"
        first = self._datasets.keys() - {STEP, TIME}
        if odd := sorted(first ^ values.keys()):
            said = ", ".join(f"{name} is {'missing' if name in first else 'new'}" for name in odd)
            raise ValueError(f"{what} must hold what the first frame holds: {said}")
        for name, value in values.items():
            shape = self._datasets[name].shape[1:]
            if value.shape != shape:
                raise ValueError(
                    f"{what} has {name} of shape {value.shape}, the first frame {shape}: the number of atoms is fixed"
                )
        if self._boundary != _boundary(frame):
            raise ValueError(f"{what} has pbc {frame.pbc.tolist()}, the first frame is {self._boundary}: an H5MD file holds one")


def read_h5md(path: Path) -> list[ase.Atoms]:
    """All whole frames of a file written here, also of one whose writer was killed or is still writing."""
    h5py = _h5py(path)
    trials = TRIALS
    while True:
        try:
            return _read(h5py, path)
        except (OSError, RuntimeError, KeyError) as error:
            trials -= 1
            if not trials or not _marked(path):
                raise OSError(f"{path}: cannot be read as H5MD ({error})") from error
        time.sleep(PAUSE_S)


def _read(h5py: Any, path: Path) -> list[ase.Atoms]:
    with _open(h5py, path) as file:
        n = _n_frames(file)
        _check_length(path, file, n)
        have = {name: file[f"{name}/value"][:n] for name in UNITS if name in file}
        step, picoseconds = (file[STEP][:n], file[TIME][:n]) if n else ((), ())
        pbc = [b == "periodic" for b in file[BOX].attrs["boundary"]] if n else []
    frames = []
    for k in range(n):
        values = {name.rsplit("/", 1)[1]: column[k] for name, column in have.items()}
        frame = ase.Atoms(
            values["species"], positions=values["position"], cell=values["edges"], pbc=pbc, masses=values.get("mass")
        )
        frame.info.update(step=int(step[k]), time_ps=float(picoseconds[k]))
        if "velocity" in values:
            frame.arrays["momenta"] = values["velocity"] / units.fs * frame.get_masses()[:, None]
        results = {key: values[name.rsplit("/", 1)[1]] for key, name in RESULTS.items() if name in have}
        if "stress" in values:
            results["stress"] = full_3x3_to_voigt_6_stress(values["stress"])
        if results:
            frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    return frames


def _h5py(path: Path) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ValueError(f"{path}: H5MD needs h5py, which is not installed: pip install 'adatom[h5md]'") from error


def _boundary(frame: ase.Atoms) -> list[str]:
    return ["periodic" if p else "none" for p in frame.pbc]


def _elements(frame: ase.Atoms) -> dict[str, np.ndarray]:
    """What is written of a frame. Raises ValueError for what the file could not hold."""
    results = frame.calc.results if frame.calc is not None else {}
    odd = (results.keys() - RESULTS.keys() - {"stress"}) | (frame.arrays.keys() - {"numbers", "positions", "momenta", "masses"})
    odd |= frame.info.keys() ^ {"step", "time_ps"}
    if odd:
        raise ValueError(f"a frame for H5MD holds step, time_ps, energy, free_energy, forces and stress; wrong: {sorted(odd)}")
    values = {
        "particles/all/species": frame.numbers.astype(np.int32),
        "particles/all/position": frame.positions,
        "particles/all/box/edges": frame.cell.array,
    }
    if frame.has("momenta"):
        values["particles/all/velocity"] = frame.arrays["momenta"] / frame.get_masses()[:, None] * units.fs
    if frame.has("masses"):
        values["particles/all/mass"] = frame.arrays["masses"]
    values |= {name: np.asarray(results[key], float) for key, name in RESULTS.items() if key in results}
    if "stress" in results:
        stress = np.asarray(results["stress"], float)
        values["observables/all/stress"] = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    return values


def _create(h5py: Any, path: Path) -> Any:
    """A file with metadata and no frames."""
    file = h5py.File(path, "w", libver=LIBVER, fs_strategy="page", fs_page_size=PAGE_BYTES)
    file.create_group("h5md").attrs["version"] = np.array([1, 1])
    file.create_group("h5md/author").attrs["name"] = "N/A"
    file.create_group("h5md/creator").attrs["name"] = "adatom"
    try:
        file["h5md/creator"].attrs["version"] = version("adatom")
    except PackageNotFoundError:
        file["h5md/creator"].attrs["version"] = "not installed"
    file.flush()
    return file


def _lay_out(file: Any, shapes: dict[str, tuple[tuple[int, ...], np.dtype]], boundary: list[str]) -> dict[str, Any]:
    """Empty datasets for frames of these shapes; returns `_datasets`."""

    def dataset(name: str, shape: tuple[int, ...], dtype: Any, unit: str | None, fill: int | None = None) -> None:
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        chunks = (max(1, min(1024, CHUNK_BYTES // size)), *shape)
        new = file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks, fillvalue=fill)
        if unit is not None:
            new.attrs["unit"] = unit

    dataset(STEP, (), np.int64, None, NOT_WRITTEN)
    dataset(TIME, (), np.float64, "ps")
    for name, (shape, dtype) in shapes.items():
        dataset(f"{name}/value", shape, dtype, UNITS[name])
        if name != CLOCK:
            file[f"{name}/step"], file[f"{name}/time"] = file[STEP], file[TIME]  # hard links
    file[BOX].attrs["dimension"] = 3
    file[BOX].attrs["boundary"] = boundary
    return _datasets(file)


def _datasets(file: Any) -> dict[str, Any]:
    """The elements' values, and STEP and TIME; empty before the first frame."""
    found = {name: file[f"{name}/value"] for name in UNITS if name in file}
    return found | {STEP: file[STEP], TIME: file[TIME]} if found else {}


def _append(
    file: Any, datasets: dict[str, Any], begin: int, columns: dict[str, np.ndarray], step: np.ndarray, time: np.ndarray
) -> None:
    """Write frames from index `begin` on, and their steps when all the rest is with the operating system."""
    for part in ({**columns, TIME: time}, {STEP: step}):
        for name, column in part.items():
            dataset, end = datasets[name], begin + len(column)
            if len(dataset) < end:  # longer where an exception came half-way through an add
                dataset.resize(end, axis=0)
            dataset[begin:end] = column
        file.flush()


def _marked(path: Path) -> bool:
    with open(path, "rb") as file:
        return hdf5_killed.marked(file.read(hdf5_killed.SUPERBLOCK))


def _open(h5py: Any, path: Path) -> Any:
    """To read, closed by its writer or not."""
    if not _marked(path):
        return h5py.File(path, "r", libver=LIBVER)
    view, size = hdf5_killed.KilledFile(path), path.stat().st_size
    if view.size > size + LENGTH_SLACK:
        raise OSError(f"the file was cut: {size} bytes of {view.size}")
    return h5py.File(view, "r", libver=LIBVER)


def _check_length(path: Path, file: Any, n: int) -> None:
    """Raises OSError where the file ends before its first `n` frames do: HDF5 would read zeros there."""
    for name, dataset in _datasets(file).items() if n else ():
        begin = ((n - 1) // dataset.chunks[0] * dataset.chunks[0], *[0] * (dataset.ndim - 1))
        chunk = dataset.id.get_chunk_info_by_coord(begin)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > path.stat().st_size:
            raise OSError(f"the file was cut: {name} of frame {n} is not in it")


def _copy(h5py: Any, path: Path, n: int) -> Any:
    """The first `n` ≥ 1 frames in a new file, open, in the place of the old one."""
    beside = path.with_name(f".{path.name}.tmp")
    new = None
    try:
        with _open(h5py, path) as old:
            if (found := _n_frames(old)) < n:
                raise ValueError(
                    f"{path}: {found} frames, but the checkpoint goes on after {n}: the file was cut or replaced since; "
                    "put the one that belongs to the checkpoint back, or start a new run from the checkpoint's last frame"
                )
            _check_length(path, old, n)
            new = _create(h5py, beside)
            _copy_frames(old, new, n)
        new.swmr_mode = True
        os.fsync(new.id.get_vfd_handle())
        os.replace(beside, path)
    except BaseException as error:
        if new is not None:
            new.close()
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError | KeyError):
            raise ValueError(
                f"{path}: cannot go on with this H5MD file ({error}); start a new run from the checkpoint's last frame"
            ) from error
        raise
    return new


def _copy_frames(old: Any, new: Any, n: int) -> None:
    source = _datasets(old)
    shapes = {k: (v.shape[1:], v.dtype) for k, v in source.items() if k in UNITS}
    datasets = _lay_out(new, shapes, list(old[BOX].attrs["boundary"]))
    block = max(1, COPY_BYTES // sum(v.nbytes // len(v) for v in source.values()))
    for begin in range(0, n, block):
        part = {k: v[begin : min(begin + block, n)] for k, v in source.items()}
        _append(new, datasets, begin, {k: part[k] for k in shapes}, part[STEP], part[TIME])


def _n_frames(file: Any) -> int:
    """Of frames that are there as a whole."""
    return int((file[STEP][:] != NOT_WRITTEN).sum()) if STEP in file else 0
