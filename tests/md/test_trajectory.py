"""Trajectories in all formats: every bit comes back, going on equals not having stopped, and a kill loses nothing.

Run as a program, this file is the process that the tests kill.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian

from adatom.md.trajectory import FrameWriter, XyzWriter, check_suffix, format_xyz, open_writer, read_frames

SUFFIXES = [".xyz", ".extxyz", ".traj", ".h5", ".h5md"]
KINDS = ["crystal", "molecule", "slab", "atom", "diverged"]
ONE_OF_EACH = [".xyz", ".traj", ".h5"]


def needs_h5py(suffix: str) -> None:
    if suffix.startswith(".h5"):
        pytest.importorskip("h5py", reason="pip install 'adatom[h5md]'")


@pytest.fixture(params=ONE_OF_EACH)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    needs_h5py(request.param)
    return tmp_path / f"run{request.param}"


def make(k: int, kind: str = "crystal", *, n: int = 7, constraints: bool = False) -> ase.Atoms:
    """Frame `k` of a run that has seen everything a frame may be; the same every time."""
    rng = np.random.default_rng([k, *kind.encode()])
    n = {"molecule": 3, "atom": 1}.get(kind, n)
    frame = molecule("H2O") if kind == "molecule" else ase.Atoms(np.resize([14, 8, 1, 79], n))
    frame.positions[:] = rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-12, 4, size=(n, 3))
    frame.set_momenta(rng.normal(size=(n, 3)))
    frame.info.update(step=10 * k, time_ps=10 * k * 0.7e-3)
    results: dict[str, Any] = {"energy": rng.normal() * 1e3, "forces": rng.normal(size=(n, 3))}
    if kind == "crystal":
        frame.pbc, frame.cell[:] = True, 5.0 * np.eye(3) + rng.normal(size=(3, 3))
        frame.set_masses(rng.uniform(1.0, 2.0, n))
        frame.positions[0] = 0.0, -0.0, 5e-324
        frame.positions[1] = 1e300, -3.0, 0.1 + 0.2
        results |= {"free_energy": rng.normal(), "stress": rng.normal(size=6)}
        frame.set_constraint([FixAtoms([1, 3]), FixAtoms([2])] if constraints else None)
    if kind == "slab":
        frame.pbc, frame.cell[:2] = (True, True, False), rng.normal(size=(2, 3))
        frame.set_constraint([FixCartesian([0, 2], (True, False, True))] if constraints else None)
    if kind == "diverged":
        frame.positions[0], results["energy"], results["forces"][1] = (np.nan, np.inf, -np.inf), np.nan, np.nan
    if kind != "molecule":
        frame.calc = SinglePointCalculator(frame, **results)
    return frame


def assert_same(got: ase.Atoms, want: ase.Atoms, *, momenta_rtol: float = 0.0, constraints: bool = False) -> None:
    def bits(x: Any) -> tuple[tuple[int, ...], bytes]:
        array = np.where(np.isnan(x), np.nan, x)
        return array.shape, array.tobytes()

    assert got.numbers.tolist() == want.numbers.tolist()
    assert got.pbc.tolist() == want.pbc.tolist()
    assert bits(got.cell.array) == bits(want.cell.array)
    assert got.arrays.keys() == want.arrays.keys()
    for name in got.arrays.keys() - {"numbers"}:
        if name == "momenta" and momenta_rtol:
            np.testing.assert_allclose(got.arrays[name], want.arrays[name], rtol=momenta_rtol)
        else:
            assert bits(got.arrays[name]) == bits(want.arrays[name]), name
    assert got.info == want.info
    assert (got.calc is None) == (want.calc is None)
    if want.calc is not None:
        assert got.calc.results.keys() == want.calc.results.keys()
        for name, value in want.calc.results.items():
            assert bits(got.calc.results[name]) == bits(value), name
    if constraints:
        free = [np.ones((len(want), 3)) for _ in range(2)]
        for forces, atoms in zip(free, (got, want), strict=True):
            for c in atoms.constraints:
                c.adjust_forces(atoms, forces)
        np.testing.assert_array_equal(*free)
        assert bool(got.constraints) == bool(want.constraints)


def assert_file(path: Path, want: list[ase.Atoms], *, constraints: bool = False) -> None:
    h5md = path.suffix.startswith(".h5")
    got = read_frames(path)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b, momenta_rtol=1e-14 if h5md else 0.0, constraints=constraints and not h5md)


def write(path: Path, frames: list[ase.Atoms], *, position: int | None = None) -> int:
    writer = open_writer(path, position=position)
    for frame in frames:
        writer.add([frame])
    writer.close()
    return writer.position()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_comes_back(suffix: str, kind: str, tmp_path: Path) -> None:
    needs_h5py(suffix)
    path = tmp_path / f"run{suffix}"
    frames = [make(k, kind, constraints=True) for k in range(5)]
    writer = open_writer(path)
    writer.add(frames[:1])
    assert_file(path, frames[:1], constraints=True)  # flushed, and readable while it is written
    writer.add([])
    writer.add(frames[1:3])
    writer.add(frames[3:])
    writer.sync()
    assert_file(path, frames, constraints=True)
    writer.close()
    writer.close()
    assert_file(path, frames, constraints=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".xyz", ".traj"])
def test_ase_reads_it_by_itself(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    frames = [make(k, kind) for k in range(3)]
    write(path, frames)
    for got, want in zip(ase.io.read(path, ":"), frames, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_extended_xyz_has_the_columns_and_keys_that_ase_writes(kind: str) -> None:
    frame = make(0, kind, constraints=True)
    text = io.StringIO()
    ase.io.write(text, frame, format="extxyz")
    ours, theirs = format_xyz(frame).decode().splitlines(), text.getvalue().splitlines()
    assert len(ours) == len(theirs)
    assert ours[0] == theirs[0]
    assert ours[1].split(" step=")[0] == theirs[1].split(" step=")[0]  # Lattice and Properties
    assert ours[1].endswith(f'pbc="{" ".join("T" if p else "F" for p in frame.pbc)}"')
    assert all(a.split()[0] == b.split()[0] for a, b in zip(ours[2:], theirs[2:], strict=True))


def test_extended_xyz_holds_whole_numbers_and_refuses_what_it_cannot_hold() -> None:
    frame = make(0)
    frame.set_tags(range(7))
    frame.arrays["hot"] = np.arange(7) > 3
    got = ase.io.read(io.StringIO(format_xyz(frame).decode()), format="extxyz")
    assert got.arrays["tags"].tolist() == list(range(7))
    assert got.arrays["hot"].tolist() == frame.arrays["hot"].tolist()
    frame.arrays["label"] = np.array(["a b"] * 7)
    with pytest.raises(ValueError, match="cannot hold the array 'label'"):
        format_xyz(frame)


def test_traj_keeps_every_constraint(tmp_path: Path) -> None:
    frames = [make(k) for k in range(3)]
    for frame in frames:
        frame.set_constraint(FixBondLengths([(0, 1)]))
    write(tmp_path / "a.traj", frames)
    assert [type(f.constraints[0]) for f in read_frames(tmp_path / "a.traj")] == [FixBondLengths] * 3


@pytest.mark.parametrize("stop", [0, 1, 3, 41, 42, 43, 50])
def test_going_on_equals_not_having_stopped(stop: int, path: Path) -> None:
    """Also where the table of a .traj grows: at 1 and 42 frames."""
    frames = [make(k) for k in range(50)]
    whole = path.with_name(f"whole{path.suffix}")
    end = write(whole, frames)
    position = write(path, frames[:stop])
    writer = open_writer(path, position=position)
    assert writer.position() == position
    writer.add(frames[stop:])
    assert writer.position() == end
    writer.close()
    assert_file(path, frames)
    if path.suffix == ".xyz":
        assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", ["none", "garbage", "half"])
@pytest.mark.parametrize(("stop", "extra"), [(0, 3), (1, 1), (3, 2), (3, 45), (42, 1), (42, 8), (44, 2)])
def test_what_came_after_the_checkpoint_is_dropped(stop: int, extra: int, damage: str, path: Path) -> None:
    frames = [make(k) for k in range(stop + 3)]
    writer = open_writer(path)
    writer.add(frames[:stop])
    writer.sync()
    position, size = writer.position(), path.stat().st_size
    for k in range(extra):
        writer.add([make(1000 + k)])
    writer.close()
    if damage == "garbage":
        with open(path, "ab") as file:
            file.write(b"7\nhalf a fr\0\xff")
    if damage == "half":
        os.truncate(path, (size + path.stat().st_size) // 2)
        if path.suffix == ".traj" and (stop, extra) in [(1, 1), (3, 45)]:
            with pytest.raises(ValueError, match="damaged"):  # the table of offsets was in what is gone; no kill does that
                open_writer(path, position=position)
            return
    assert write(path, frames[stop:], position=position) > position
    assert_file(path, frames)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_traj_does_not_grow_by_what_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "run.traj"
    write(path, [make(k) for k in range(10)])
    size = path.stat().st_size
    for _ in range(5):
        write(path, [make(k) for k in range(5, 10)], position=5)
        assert path.stat().st_size == size


def test_a_half_frame_at_the_end_is_not_read(tmp_path: Path) -> None:
    frames = [make(k) for k in range(3)]
    text = [format_xyz(frame) for frame in frames]
    ends = np.cumsum([len(t) for t in text])
    for end in sorted({0, 1, 2, 3, 30, *(e + d for e in ends for d in (-1, 0, 1, 2))}):
        (tmp_path / "a.xyz").write_bytes(b"".join(text)[:end])
        assert_file(tmp_path / "a.xyz", frames[: np.searchsorted(ends, end, side="right")])


def test_new_replaces(path: Path) -> None:
    write(path, [make(k) for k in range(4)])
    write(path, [make(9)])
    assert_file(path, [make(9)])


def test_an_exception_leaves_the_frames_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(path)
    writer.add([make(0)])
    for first in (1, 2):
        interrupt(writer, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            writer.add([make(100), make(101)])
        monkeypatch.undo()
        assert_file(path, [make(k) for k in range(first)])
        writer.add([make(first)])
    interrupt(writer, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        writer.add([make(100), make(101)])
    monkeypatch.undo()
    writer.close()
    assert_file(path, [make(k) for k in range(3)])


def interrupt(writer: FrameWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the second frame that is written from now on."""
    calls = itertools.count(1)

    def stop(real: Any, *args: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    if isinstance(writer, XyzWriter):
        half = HalfWritten(writer._file)
        monkeypatch.setattr(writer, "_file", half)
        return
    name = "ase.io.ulm.Writer.sync" if hasattr(writer, "_writer") else "h5py.Dataset.__setitem__"
    module, attribute = name.rsplit(".", 1)
    real = getattr(pytest.importorskip(module.rsplit(".", 1)[0]), module.rsplit(".", 1)[1]).__dict__[attribute]
    monkeypatch.setattr(name, lambda *args: stop(real, *args))


class HalfWritten:
    """A file whose first write takes 100 bytes, as the operating system may, and the second is interrupted."""

    def __init__(self, file: Any) -> None:
        self.file, self.calls = file, 0

    def write(self, text: memoryview) -> int:
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return self.file.write(text[:100])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_sync_is_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), real(file))[1])
    writer = open_writer(path)
    writer.add([make(0)])
    assert synced == []
    writer.sync()
    assert synced == [path.stat().st_ino]
    writer.close()


def test_wrong_files_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        open_writer(path, position=3)
    position = write(path, [make(k) for k in range(4)])
    with pytest.raises(ValueError, match="not be negative"):
        open_writer(path, position=-1)
    with pytest.raises(ValueError, match=rf"but the checkpoint goes on after {position + 1}"):
        open_writer(path, position=position + 1)
    before = path.read_bytes()
    for end in (len(before) - 20, len(before) // 3):
        os.truncate(path, end)
        with pytest.raises(ValueError, match=path.name):
            open_writer(path, position=position)
        assert path.read_bytes() == before[:end]
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(ValueError, match=path.name):
        open_writer(path, position=position)
    assert path.read_bytes() == b"something else " * 1000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    for function in (check_suffix, open_writer, read_frames):
        with pytest.raises(ValueError, match=r"one of \.xyz, \.extxyz, \.traj, \.h5, \.h5md"):
            function(tmp_path / "run.dcd")


def test_a_traj_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with ase.io.ulm.open(tmp_path / "a.traj", "w", tag="gpaw") as file:
        file.write(a=1)
    before = (tmp_path / "a.traj").read_bytes()
    with pytest.raises(ValueError, match="its tag is 'gpaw'"):
        open_writer(tmp_path / "a.traj", position=1)
    assert (tmp_path / "a.traj").read_bytes() == before


@pytest.fixture(scope="module")
def victims() -> Iterator[subprocess.Popen]:
    """A process that forks, on request, processes that write frames until they are killed."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


def test_a_kill_loses_nothing(path: Path, victims: subprocess.Popen) -> None:
    """Killed 10 times, also while it opens, and gone on from some checkpoint before: what was acknowledged is there."""
    kill_often(path, victims, random.Random(path.suffix), kills=10)


def kill_often(path: Path, victims: subprocess.Popen, rng: random.Random, *, kills: int) -> None:
    assert victims.stdin is not None
    assert victims.stdout is not None
    rtol = 1e-14 if path.suffix == ".h5" else 0.0
    checkpoints = [(0, -1)]  # frames, position
    for _ in range(kills):
        start, alive = checkpoints[-1], rng.choice([0, 1, 2, 20, 40])
        print(path, *start, file=victims.stdin)
        pid = int(victims.stdout.readline())
        lines: list[str] = []
        while True:
            if len(lines) == alive:
                time.sleep(rng.uniform(0.0, 3e-3))
                os.kill(pid, signal.SIGKILL)
            line = victims.stdout.readline()
            assert line, "the server of victims is gone"
            if line == "dead\n":
                break
            lines.append(line)
        assert len(lines) >= alive
        checkpoints += [(int(a), int(b)) for a, b in map(str.split, lines)]
        acknowledged = checkpoints[-1][0]
        if acknowledged:
            got = read_frames(path)
            assert acknowledged <= len(got)
            assert len(got) <= acknowledged + 1 or not lines
            for k, frame in enumerate(got):
                assert_same(frame, make(k, n=100), momenta_rtol=rtol)
        checkpoints = checkpoints[: rng.randrange(len(checkpoints) // 2, len(checkpoints)) + 1]
    frames, position = checkpoints[-1]
    assert write(path, [make(k, n=100) for k in range(frames, frames + 2)], position=position) > position
    assert_file(path, [make(k, n=100) for k in range(frames + 2)])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def serve() -> None:
    """Lines `path frames position` in; out: the pid of a child, `frames position` after every add, `dead`."""
    signal.alarm(900)
    for line in sys.stdin:
        path, frames, position = line.split()
        if child := os.fork():
            os.waitpid(child, 0)
            os.write(1, b"dead\n")
            continue
        signal.alarm(300)
        os.write(1, b"%d\n" % os.getpid())
        writer = open_writer(Path(path), position=None if position == "-1" else int(position))
        for k in itertools.count(int(frames)):
            writer.add([make(k, n=100)])
            os.write(1, b"%d %d\n" % (k + 1, writer.position()))


if __name__ == "__main__":
    serve()
