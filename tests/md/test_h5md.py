"""H5MD: the layout of the specification, read by another program; what a file can and cannot hold, and how it ends."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from adatom.md import h5md, hdf5_killed
from adatom.md.trajectory import open_writer, read_frames

h5py = pytest.importorskip("h5py", reason="pip install 'adatom[h5md]'")

EVERYTHING = {
    "particles/all/species": ((4,), None),
    "particles/all/position": ((4, 3), "Angstrom"),
    "particles/all/velocity": ((4, 3), "Angstrom fs-1"),
    "particles/all/force": ((4, 3), "eV Angstrom-1"),
    "particles/all/mass": ((4,), "u"),
    "particles/all/box/edges": ((3, 3), "Angstrom"),
    "observables/all/energy": ((), "eV"),
    "observables/all/free_energy": ((), "eV"),
    "observables/all/stress": ((3, 3), "eV Angstrom-3"),
}


def make(k: int, *, n: int = 4, pbc: Any = True, masses: bool = True) -> ase.Atoms:
    rng = np.random.default_rng(k)
    frame = ase.Atoms(np.resize([3, 17], n), positions=20.0 * rng.normal(size=(n, 3)), pbc=pbc)
    frame.cell[:] = 6.0 * np.eye(3) + rng.normal(size=(3, 3))
    if masses:
        frame.set_masses(rng.uniform(5.0, 40.0, n))
    frame.set_velocities(rng.normal(size=(n, 3)))
    frame.info.update(step=5 * k, time_ps=2.5e-3 * k)
    results = {
        "energy": rng.normal(),
        "free_energy": rng.normal(),
        "forces": rng.normal(size=(n, 3)),
        "stress": rng.normal(size=6),
    }
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def write(path: Path, frames: list[ase.Atoms], *, position: int | None = None) -> None:
    writer = open_writer(path, position=position)
    writer.add(frames)
    writer.close()


@pytest.mark.parametrize("resumed", [False, True])
def test_layout_is_that_of_the_specification(resumed: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    frames = [make(k, pbc=(True, False, True)) for k in range(6)]
    write(path, frames)
    if resumed:
        write(path, frames[4:], position=4)
    with h5py.File(path, "r") as file:  # closed properly: no SWMR needed
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert isinstance(file["h5md/author"].attrs["name"], str)
        assert file["h5md/creator"].attrs["name"] == "adatom"
        assert file["h5md/creator"].attrs["version"] == version("adatom")
        assert set(file) == {"h5md", "particles", "observables"}
        box = file["particles/all/box"]
        assert box.attrs["dimension"] == 3
        assert box.attrs["boundary"].tolist() == ["periodic", "none", "periodic"]
        elements: list[str] = []
        file.visititems(lambda name, item: elements.append(name) if isinstance(item, h5py.Group) and "value" in item else None)
        assert set(elements) == EVERYTHING.keys()
        for name, (shape, unit) in EVERYTHING.items():
            assert set(file[name]) == {"value", "step", "time"}
            assert file[name]["value"].shape == (6, *shape)
            assert file[name]["value"].attrs.get("unit") == unit
            assert file[name]["step"] == file["particles/all/position/step"]  # the same object: a hard link
            assert file[name]["time"] == file["particles/all/position/time"]
        assert file["particles/all/position/step"][:].tolist() == [0, 5, 10, 15, 20, 25]
        np.testing.assert_array_equal(file["particles/all/position/time"], [f.info["time_ps"] for f in frames])
        assert file["particles/all/position/time"].attrs["unit"] == "ps"
        np.testing.assert_array_equal(file["particles/all/species/value"], [f.numbers for f in frames])
        np.testing.assert_array_equal(file["particles/all/position/value"], [f.positions for f in frames])
        np.testing.assert_array_equal(file["particles/all/box/edges/value"], [f.cell.array for f in frames])
        velocities = [f.get_velocities() / (1.0 / units.fs) for f in frames]
        np.testing.assert_allclose(file["particles/all/velocity/value"], velocities, rtol=1e-14)
        stress = [voigt_6_to_full_3x3_stress(f.get_stress()) for f in frames]
        np.testing.assert_array_equal(file["observables/all/stress/value"], stress)
        np.testing.assert_array_equal(file["observables/all/energy/value"], [f.calc.results["energy"] for f in frames])


def test_velocity_of_one_angstrom_per_femtosecond(tmp_path: Path) -> None:
    frame = make(0)
    frame.set_velocities(np.full((4, 3), 1.0 / units.fs))
    write(tmp_path / "a.h5", [frame])
    with h5py.File(tmp_path / "a.h5", "r") as file:
        np.testing.assert_allclose(file["particles/all/velocity/value"], 1.0, rtol=1e-15)


@pytest.mark.parametrize("pbc", [True, False])
def test_another_program_reads_it(pbc: bool, tmp_path: Path) -> None:
    """znh5md takes velocities for ASE's unit whatever the attribute says, so they are left out here."""
    znh5md = pytest.importorskip("znh5md", reason="an independent reader of H5MD: pip install znh5md")
    path = tmp_path / "run.h5"
    frames = [make(k, pbc=pbc) for k in range(5)]
    write(path, frames)
    for got, want in zip(znh5md.IO(path)[:], frames, strict=True):
        assert got.numbers.tolist() == want.numbers.tolist()
        assert got.pbc.tolist() == want.pbc.tolist()
        np.testing.assert_array_equal(got.positions, want.positions)
        np.testing.assert_array_equal(got.cell.array, want.cell.array)
        np.testing.assert_array_equal(got.get_masses(), want.get_masses())
        np.testing.assert_array_equal(got.get_forces(), want.get_forces())
        np.testing.assert_array_equal(got.get_stress(), want.get_stress())
        assert got.calc.results["energy"] == want.calc.results["energy"]
        assert got.calc.results["free_energy"] == want.calc.results["free_energy"]


def test_frames_must_hold_what_the_first_one_holds(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer = open_writer(path)
    writer.add([make(0), make(1)])
    for frame, said in (
        (make(2, n=5), r"species of shape \(5,\), the first frame \(4,\)"),
        (make(2, pbc=False), r"step 10 has pbc \[False, False, False\]"),
        (make(2, masses=False), "particles/all/mass is missing"),
    ):
        with pytest.raises(ValueError, match=said):
            writer.add([make(2), frame])
    bare = make(2)
    bare.calc = None
    with pytest.raises(ValueError, match="observables/all/energy is missing, .*particles/all/force is missing"):
        writer.add([bare])
    writer.add([make(2)])
    writer.close()
    assert [f.info["step"] for f in read_frames(path)] == [0, 5, 10]
    writer = open_writer(path, position=2)
    with pytest.raises(ValueError, match="the number of atoms is fixed"):
        writer.add([make(2, n=3)])
    writer.close()
    write(path, [bare])
    writer = open_writer(path, position=1)
    with pytest.raises(ValueError, match="observables/all/energy is new"):
        writer.add([make(1)])
    writer.close()


@pytest.mark.parametrize("what", ["dipole", "tags", "temperature", "step"])
def test_what_has_no_place_is_refused(what: str, tmp_path: Path) -> None:
    frame = make(0)
    if what == "dipole":
        frame.calc = SinglePointCalculator(frame, dipole=np.zeros(3))
    if what == "tags":
        frame.set_tags(1)
    if what == "temperature":
        frame.info["temperature"] = 300.0
    if what == "step":
        del frame.info["step"]
    writer = open_writer(tmp_path / "run.h5")
    with pytest.raises(ValueError, match=rf"wrong: \['{what}'\]"):
        writer.add([frame])
    writer.close()


def test_masses_are_those_of_the_elements_unless_given(tmp_path: Path) -> None:
    frame = make(0, masses=False)
    write(tmp_path / "a.h5", [frame])
    (got,) = read_frames(tmp_path / "a.h5")
    assert not got.has("masses")
    np.testing.assert_allclose(got.get_momenta(), frame.get_momenta(), rtol=1e-14)


def test_going_on_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5md, "COPY_BYTES", 2000)  # about 4 frames
    frames = [make(k) for k in range(30)]
    write(tmp_path / "a.h5", frames)
    write(tmp_path / "a.h5", frames[27:], position=27)
    for got, want in zip(read_frames(tmp_path / "a.h5"), frames, strict=True):
        np.testing.assert_array_equal(got.positions, want.positions)
        assert got.info == want.info


def test_a_file_left_open_says_so_and_is_whole_for_those_who_ask_rightly(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "run.h5")
    writer.add([make(0)])
    killed = tmp_path / "killed.h5"
    killed.write_bytes((tmp_path / "run.h5").read_bytes())  # what a kill would leave
    writer.close()
    with pytest.raises(OSError, match="consistency flags"):
        h5py.File(killed, "r")
    with h5py.File(killed, "r", swmr=True) as file:
        assert file["particles/all/position/value"].shape == (1, 4, 3)
    open_writer(killed, position=1).close()
    with h5py.File(killed, "r") as file:
        assert file["particles/all/position/value"].shape == (1, 4, 3)


def test_a_torn_block_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    """The mark is taken off as HDF5 does it; blocks that it would read again and again are said to be damaged."""
    writer = open_writer(tmp_path / "run.h5")
    for k in range(3):
        writer.add([make(k)])
    text = (tmp_path / "run.h5").read_bytes()
    writer.close()
    closed = (tmp_path / "run.h5").read_bytes()
    assert hdf5_killed.marked(text)
    assert hdf5_killed.unmarked(text[: hdf5_killed.SUPERBLOCK]) == closed[: hdf5_killed.SUPERBLOCK]
    with h5py.File(tmp_path / "run.h5") as file:
        made = file.id.get_create_plist()
    assert made.get_file_space_strategy()[0] == h5py.h5f.FSPACE_STRATEGY_PAGE
    assert made.get_file_space_page_size() == 4096
    killed = tmp_path / "killed.h5"
    killed.write_bytes(text)
    assert [f.info["step"] for f in read_frames(killed)] == [0, 5, 10]
    torn = bytearray(text)
    torn[text.rindex(b"OHDR") + 40] ^= 0xFF
    killed.write_bytes(torn)
    with pytest.raises(OSError, match=r"killed\.h5: cannot be read as H5MD"):
        read_frames(killed)
    with pytest.raises(ValueError, match=r"killed\.h5: cannot go on with this H5MD file"):
        open_writer(killed, position=2)
    assert killed.read_bytes() == torn


def test_zeros_are_not_read_where_the_file_was_cut(tmp_path: Path) -> None:
    """Left open, HDF5 reads zeros behind the end of a file."""
    writer = open_writer(tmp_path / "run.h5")
    for k in range(30):
        writer.add([make(k, n=1000)])
    text = (tmp_path / "run.h5").read_bytes()
    writer.close()
    assert len(text) > 2 << 20
    killed = tmp_path / "killed.h5"
    for end in (len(text) // 10, len(text) - 100_000):
        killed.write_bytes(text[:end])
        with pytest.raises(OSError, match="was cut"):
            read_frames(killed)
        with pytest.raises(ValueError, match=r"killed\.h5: cannot go on with this H5MD file \(the file was cut"):
            open_writer(killed, position=30)
        assert killed.stat().st_size == end
    open_writer(killed, position=5).close()
    assert len(read_frames(killed)) == 5


def test_going_on_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    write(path, [make(0), make(1)])
    before = path.read_bytes()
    monkeypatch.setattr(h5md, "_append", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_writer(path, position=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_frame_counts_when_its_step_is_written(tmp_path: Path) -> None:
    """Between room for a step and the step, a kill leaves what is made here."""
    writer = open_writer(tmp_path / "run.h5")
    writer.add([make(0), make(1)])
    with h5py.File(tmp_path / "run.h5", "r", swmr=True) as file:
        datasets = [f"{name}/value" for name in EVERYTHING] + ["particles/all/position/time", "particles/all/position/step"]
        assert {len(file[name]) for name in datasets} == {2}
    writer.close()
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        for name in datasets:
            file[name].resize(3, axis=0)
    assert [f.info["step"] for f in read_frames(tmp_path / "run.h5")] == [0, 5]
    with pytest.raises(ValueError, match="2 frames, but the checkpoint goes on after 3"):
        open_writer(tmp_path / "run.h5", position=3)


def test_an_exception_half_way_leaves_a_file_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path / "run.h5")
    writer.add([make(0), make(1)])
    real = h5py.Dataset.__setitem__

    def stop(dataset: Any, *args: Any) -> None:
        if dataset.name.endswith("velocity/value"):
            raise KeyboardInterrupt
        real(dataset, *args)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        writer.add([make(8), make(9)])
    monkeypatch.undo()
    writer.close()
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert {len(file[f"{name}/{part}"]) for name in EVERYTHING for part in ("value", "step", "time")} == {2}
    assert len(read_frames(tmp_path / "run.h5")) == 2


def test_a_file_without_frames(tmp_path: Path) -> None:
    open_writer(tmp_path / "run.h5").close()
    assert read_frames(tmp_path / "run.h5") == []
    write(tmp_path / "run.h5", [make(0)], position=0)
    assert len(read_frames(tmp_path / "run.h5")) == 1


def test_h5py_is_asked_for_only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    write(tmp_path / "run.traj", [make(0)])
    with pytest.raises(ValueError, match=r"pip install 'adatom\[h5md\]'"):
        open_writer(tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()
