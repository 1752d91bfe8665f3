"""Runs as a user makes them: output, replicas, stops, and going on after any interruption as if nothing had happened."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import ase
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from helpers import make_potential
from numpy.testing import assert_allclose, assert_array_equal

from adatom.md import Guard, Interrupted, SimulationFailed, prepare, read_log, simulate, simulate_many
from adatom.md import neighbours as lists
from adatom.md import run as running
from adatom.md.config import Settings
from adatom.md.engine import advance
from adatom.md.field import make_field
from adatom.md.guards import _moved
from adatom.md.thermo import Thermo
from adatom.md.trajectory import read_frames
from adatom.potential import AdatomCalculator, ExtrapolationWarning
from adatom.potential.pairwise import LennardJones

ARGON = LennardJones((18,), 0.0103, 3.4, 5.2)
NVT: dict[str, Any] = {"ensemble": "nvt", "temperature_K": 60.0, "timestep_fs": 4.0, "precision": "float64", "seed": 3}


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Any:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def argon(seed: int = 0) -> ase.Atoms:
    atoms = bulk("Ar", cubic=True, a=5.4).repeat(2)
    atoms.rattle(0.05, seed=seed)
    atoms.info["energy"], atoms.info["note"] = -7.0, "a label of the data set"
    return atoms


def test_output(tmp_path: Path) -> None:
    """Frames and rows at their intervals, the first and the last; what frames hold is what the potential says there."""
    out = simulate(
        ARGON, argon(), **NVT, steps=25, interval=10, log_interval=5, trajectory=tmp_path / "a.extxyz", log=tmp_path / "a.csv"
    )
    frames, table = read_frames(tmp_path / "a.extxyz"), read_log(tmp_path / "a.csv")
    assert [x.info["step"] for x in frames] == [0, 10, 20, 25]
    assert table["step"].tolist() == [0, 5, 10, 15, 20, 25]
    assert [r.step for r in out.rows] == [0, 5, 10, 15, 20, 25]
    assert out.atoms.info["step"] == 25
    assert_allclose(out.atoms.positions, frames[-1].positions, rtol=0, atol=1e-12)
    assert set(frames[0].info) == {"step", "time_ps"}
    assert_allclose(table["total_eV"], table["potential_eV"] + table["kinetic_eV"], rtol=1e-9)
    again = simulate(ARGON, frames[-1], ensemble="nve", steps=1, precision="float64")  # forces at step 0 of another run
    assert_allclose(again.rows[0].potential_eV, frames[-1].get_potential_energy(), rtol=1e-12)
    d = frames[-1].get_all_distances(mic=True)
    assert_allclose(table["min_distance_A"][-1], d[d > 0].min(), rtol=1e-9)
    assert_allclose(out.rows[-1].kinetic_eV, frames[-1].get_kinetic_energy(), rtol=1e-12)
    pressure = -frames[-1].get_stress(include_ideal_gas=True)[:3].mean() / ase.units.GPa
    assert_allclose(out.rows[-1].pressure_GPa, pressure, rtol=1e-10)


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_forces_are_the_calculators(tmp_path: Path) -> None:
    """Two elements, a trained model with repulsion, float32 and float64, a committee: as AdatomCalculator."""
    potentials = [make_potential((8, 14), seed=s, min_distance=1.2) for s in (1, 2)]
    rng = np.random.default_rng(0)
    atoms = ase.Atoms("Si4O5", rng.uniform(0.0, 6.0, (9, 3)), cell=[[6.0, 0, 0], [1.0, 5.5, 0], [0.3, -0.4, 6.2]], pbc=(1, 1, 0))
    for precision, tolerance in (("float64", 1e-9), ("float32", 1e-4)):
        each = []
        for potential in potentials:
            atoms.calc = AdatomCalculator(potential, dtype=precision)  # type: ignore[arg-type]
            each.append((atoms.get_potential_energy(), atoms.get_forces()))
        single = simulate(
            potentials[0], atoms, ensemble="nve", temperature_K=1e-6, timestep_fs=1e-6, steps=1, precision=precision,  # type: ignore[arg-type]
            min_distance=0.0, on_stop="return",
        )  # fmt: skip
        assert_allclose(single.atoms.get_potential_energy(), each[0][0], rtol=tolerance)
        assert_allclose(single.atoms.get_forces(), each[0][1], rtol=tolerance, atol=tolerance * np.abs(each[0][1]).max())
        several = simulate(
            potentials, atoms, ensemble="nve", temperature_K=1e-6, timestep_fs=1e-6, steps=1, precision=precision,  # type: ignore[arg-type]
            min_distance=0.0, on_stop="return",
        )  # fmt: skip
        forces = np.array([f for _, f in each])
        assert_allclose(several.atoms.get_forces(), forces[0], rtol=0, atol=tolerance * np.abs(forces).max())
        spread = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)).max()
        assert_allclose(several.rows[0].max_spread_eV_A, spread, rtol=10 * tolerance)
        assert np.isnan(single.rows[0].max_spread_eV_A)


def test_replicas_are_the_same_alone_and_together() -> None:
    """A structure of a batch, of several sizes, moves as it does alone; random numbers do not depend on the company."""
    structures = [argon(1), bulk("Ar", cubic=True, a=5.4), argon(2)]
    chosen = Settings(**{**NVT, "temperature_K": (60.0, 90.0, 30.0)}, steps=20, interval=20)
    together = simulate_many(ARGON, structures, chosen)
    alone = simulate_many(ARGON, structures[:1], Settings(**NVT, steps=20, interval=20))
    assert_allclose(together[0].atoms.positions, alone[0].atoms.positions, rtol=0, atol=1e-9)
    assert together[1].atoms.positions.shape == (4, 3)
    warm = [x.rows[0].temperature_K for x in together]
    assert warm[0] > warm[2]
    same = simulate_many(ARGON, [argon(1)] * 2, Settings(**NVT, steps=20, interval=20))
    assert np.abs(same[0].atoms.positions - same[1].atoms.positions).max() > 1e-3


def test_groups_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With little memory the structures run one after the other: the same files, the same numbers."""
    structures, chosen = [argon(1), argon(2), argon(3)], Settings(**NVT, steps=10, interval=5)
    one = simulate_many(ARGON, structures, chosen)
    field = make_field(ARGON, precision="float64")
    each = prepare.memory_needed(structures[0], 5.7, "float64")
    monkeypatch.setattr(prepare, "available_memory", lambda: 4.1 * each)
    prepared = [prepare.Prepared.of(x, s, 3, chosen) for s, x in enumerate(structures)]
    assert prepare.groups_that_fit(field, prepared, chosen) == [[0, 1], [2]]
    two = simulate_many(ARGON, structures, chosen, trajectory=tmp_path / "a.traj")
    monkeypatch.setattr(prepare, "available_memory", lambda: 0.9 * each)
    with pytest.warns(RuntimeWarning, match="32 atoms will need about 0.0 GiB of memory, 0.0 are free"):
        prepare.groups_that_fit(field, prepared[:1], chosen)
    for a, b in zip(one, two, strict=True):
        assert_allclose(a.atoms.positions, b.atoms.positions, rtol=0, atol=1e-10)
    written = ["a-0.traj", "a-1.traj", "a-2.traj", "a.traj.restart-0", "a.traj.restart-1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written


def test_nothing_is_compiled_twice() -> None:
    """A second run of the same kind, with another seed, temperature, length and interval, compiles nothing."""
    simulate(ARGON, argon(), **NVT, steps=5)
    before = advance._cache_size(), lists._build._cache_size()
    simulate(ARGON, argon(), **{**NVT, "seed": 9, "temperature_K": 30.0, "timestep_fs": 2.0}, steps=7, interval=3)
    assert (advance._cache_size(), lists._build._cache_size()) == before


def test_fixed_atoms_stay() -> None:
    atoms = argon()
    atoms.set_constraint(FixAtoms([0, 5]))
    out = simulate(ARGON, atoms, **NVT, steps=20)
    moved = np.abs(out.atoms.positions - atoms.positions).max(axis=1)
    assert_array_equal(moved[[0, 5]], 0.0)
    assert (np.delete(moved, [0, 5]) > 1e-3).all()
    assert out.degrees_of_freedom == 3 * 30
    assert np.abs(out.atoms.calc.results["forces"][0]).max() > 1e-4  # the force on a fixed atom is still told


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".h5"])
def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Bit for bit, files included, though the list overflows on the way and frames were written after the checkpoint."""
    generous = lists.slots_for
    monkeypatch.setattr(lists, "slots_for", lambda counts: tuple(max(4, x) for x in counts))  # no room to spare
    start = argon()
    run: dict[str, Any] = {**NVT, "steps": 60, "interval": 5, "log_interval": 3, "checkpoint_s": 0.0, "skin": 0.2}

    def go(name: str, **more: Any) -> Any:
        return simulate(ARGON, start, trajectory=tmp_path / f"{name}{suffix}", log=tmp_path / f"{name}.csv", **(run | more))

    whole = go("whole")
    assert whole.rows[-1].rebuilds > 3
    write, count = running.Run._write, [0]

    def interrupting(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        count[0] += 1
        if count[0] in (9, 21):
            raise RuntimeError("killed")  # after frames were written that no checkpoint knows

    monkeypatch.setattr(running.Run, "_write", interrupting)
    with pytest.raises(RuntimeError, match="killed"):
        go("part")
    with pytest.raises(RuntimeError, match="killed"):
        go("part", resume=True)
    out = go("part", resume=True)
    assert count[0] > 21
    assert_array_equal(out.atoms.positions, whole.atoms.positions)
    assert_array_equal(out.atoms.get_velocities(), whole.atoms.get_velocities())
    assert (tmp_path / "part.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    a, b = (read_frames(tmp_path / f"{name}{suffix}") for name in ("whole", "part"))
    assert [x.info["step"] for x in a] == [x.info["step"] for x in b] == list(range(0, 61, 5))
    for x, y in zip(a, b, strict=True):
        assert_array_equal(x.positions, y.positions)
        assert_array_equal(x.get_forces(), y.get_forces())
    if suffix == ".extxyz":
        assert (tmp_path / "part.extxyz").read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    assert out.rows == tuple(Thermo(*r) for r in out.rows)
    assert len(out.rows) == len(whole.rows)
    monkeypatch.setattr(lists, "slots_for", generous)


def test_a_finished_run_goes_on(tmp_path: Path) -> None:
    """More steps with resume: as if they had been asked for at once; with other settings it is refused by name."""
    files: dict[str, Any] = {"trajectory": tmp_path / "a.traj"}
    simulate(ARGON, argon(), **NVT, steps=20, **files)
    more = simulate(ARGON, argon(), **NVT, steps=40, **files, resume=True)
    once = simulate(ARGON, argon(), **NVT, steps=40)
    assert_array_equal(more.atoms.positions, once.atoms.positions)
    with pytest.raises(ValueError, match=r"the run had other temperature_K \(60.0, not 70.0\)"):
        simulate(ARGON, argon(), **{**NVT, "temperature_K": 70.0}, steps=50, **files, resume=True)
    with pytest.raises(ValueError, match="the run had other potential"):
        simulate(LennardJones((18,), 0.0104, 3.4, 5.2), argon(), **NVT, steps=50, **files, resume=True)
    with pytest.raises(ValueError, match="the run had other structures"):
        simulate(ARGON, argon(7), **NVT, steps=50, **files, resume=True)
    with pytest.raises(ValueError, match="is at step 40, past the 30 asked for"):
        simulate(ARGON, argon(), **NVT, steps=30, **files, resume=True)
    (tmp_path / "a.traj.restart").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="damaged checkpoint"):
        simulate(ARGON, argon(), **NVT, steps=50, **files, resume=True)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        simulate(ARGON, argon(), **NVT, steps=50, trajectory=tmp_path / "b.traj", resume=True)


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C: what is done is written, and the run goes on from there."""

    def press(done: int, steps: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    files: dict[str, Any] = {"trajectory": tmp_path / "a.extxyz", "log": tmp_path / "a.csv"}
    with pytest.raises(Interrupted, match="interrupted after step 20 of 40; resume it to go on") as stop:
        simulate(ARGON, argon(), **NVT, steps=40, **files, progress=press)
    assert stop.value.saved == tmp_path / "a.extxyz.restart"
    assert [x.info["step"] for x in read_frames(tmp_path / "a.extxyz")] == [0, 10, 20]
    out = simulate(ARGON, argon(), **NVT, steps=40, **files, resume=True)
    assert_array_equal(out.atoms.positions, simulate(ARGON, argon(), **NVT, steps=40).atoms.positions)


def test_explosion(tmp_path: Path) -> None:
    """Stopped at the offending step; that frame and the last good one are saved, and the atom is named."""
    atoms = argon()
    atoms.set_velocities(np.full((32, 3), 1e-9))
    near = atoms.get_distances(9, range(32), mic=True).argsort()[1]
    atoms.set_distance(9, near, 1.7, fix=1, mic=True)
    with pytest.raises(SimulationFailed, match=r"stopped at step \d+ of 100: exploded, .* Å in one step: atom") as failed:
        simulate(
            ARGON, atoms, ensemble="nve", timestep_fs=4.0, steps=100, precision="float64", trajectory=tmp_path / "a.extxyz"
        )
    stop = failed.value.stops[0]
    assert stop.saved == tmp_path / "a.extxyz.failed.extxyz"
    saved = ase.io.read(stop.saved, ":")
    assert [x.info["step"] for x in saved] == [stop.step - 1, stop.step]
    assert np.isfinite(saved[0].positions).all()
    step = 4.0 * ase.units.fs * np.linalg.norm(stop.offending.get_velocities(), axis=1)
    assert step.max() > 0.5 >= 4.0 * ase.units.fs * np.linalg.norm(stop.last.get_velocities(), axis=1).max()
    assert f"{step.argmax()} (Ar)" in str(failed.value)


def test_other_stops() -> None:
    """Hot, too close, not a number at the start, a user's own guard; the frames say where."""
    with pytest.raises(SimulationFailed, match=r"stopped at step 0 of 10: temperature is \d+ K \(limit 5 K\), hottest: atom"):
        simulate(ARGON, argon(), **NVT, steps=10, max_temperature_K=5.0)
    slow = Guard("fast atom", _moved, "an atom moves {value:.3f} Å a step (limit {limit:g}): {atoms}")
    out = simulate(ARGON, argon(), **NVT, steps=200, guards=[(slow, 0.01)], on_stop="return")
    assert out.stop is not None
    assert (out.stop.guard, out.steps) == ("fast atom", max(out.stop.step - 1, 0))
    assert "an atom moves 0.01" in out.stop.message
    potential, run = make_potential((18,), min_distance=4.5), {"ensemble": "nve", "temperature_K": 1.0, "steps": 2}
    with pytest.raises(SimulationFailed, match=r"atoms too close, 1\.\d+ times closer than the limit: atoms"):
        simulate(potential, argon(), **run, min_distance=1.0)
    with pytest.warns(ExtrapolationWarning, match="a pair of atoms came to 7. % of the shortest distance"):
        simulate(potential, argon(), **run)


def test_spread_stops_and_the_others_go_on(tmp_path: Path) -> None:
    """A committee in a batch: the structure it disagrees about stops, its frames are kept; the other goes on to the end."""
    potentials = [make_potential((18,), seed=s, min_distance=0.5) for s in (1, 2)]
    far = bulk("Ar", cubic=True, a=16.0)  # nobody within the cutoff: no forces, no spread
    chosen = Settings(ensemble="nve", temperature_K=20.0, steps=6, interval=3, max_spread_eV_A=1e-6, timestep_fs=0.1)
    files: dict[str, Any] = {"trajectory": tmp_path / "a.extxyz", "log": tmp_path / "a.csv"}
    found = simulate_many(potentials, [far, argon()], chosen, on_stop="return", **files)
    assert found[0].stop is None
    assert found[0].steps == 6
    assert found[1].stop is not None
    assert (found[1].stop.guard, found[1].stop.step) == ("spread", 0)
    assert "structure 1 stopped at step 0 of 6: the committee disagrees: forces spread by" in found[1].stop.message
    assert len(read_frames(tmp_path / "a-0.extxyz")) == 3
    assert len(read_frames(tmp_path / "a-1.extxyz")) == 0
    with pytest.raises(SimulationFailed, match="structure 1 stopped"):
        simulate_many(potentials, [far, argon()], chosen, overwrite=True, **files)


def test_overflow_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gas that condenses needs more and more neighbours: blocks are thrown away and repeated, with the same result."""
    rng = np.random.default_rng(0)
    atoms = bulk("Ar", cubic=True, a=9.0).repeat(2)
    atoms.positions += rng.normal(0.0, 0.3, atoms.positions.shape)
    squeeze: dict[str, Any] = {"ensemble": "npt", "barostat": "berendsen", "barostat_time_fs": 40.0, "pressure_GPa": 2.0,
                               "compressibility_per_GPa": 0.5, "steps": 60, "interval": 60}  # fmt: skip
    seen: list[int] = []
    enlarged = running.Run._enlarged
    monkeypatch.setattr(running.Run, "_enlarged", lambda self, *x: (seen.append(1), enlarged(self, *x))[1])
    out = simulate(ARGON, atoms, **{**NVT, **squeeze})
    assert len(seen) >= 2
    assert out.volume_mean < 0.5 * atoms.get_volume()
    monkeypatch.setattr(lists, "slots_for", lambda counts: (96,))
    monkeypatch.setattr(lists, "_bin_room", lambda atoms: 33)
    monkeypatch.setattr(running, "SHRINK", 0.6)
    roomy = simulate(ARGON, atoms, **{**NVT, **squeeze})
    assert_allclose(out.atoms.positions, roomy.atoms.positions, rtol=0, atol=1e-6)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"ensemble": "nvp"}, "ensemble: Input should be 'nve', 'nvt' or 'npt', got 'nvp'"),
    ({"steps": 0}, "steps: Input should be greater than or equal to 1, got 0"),
    ({"steps": 2.5}, "steps: Input should be a valid integer, got 2.5"),
    ({"timestep_fs": -1.0}, "timestep_fs: Input should be greater than 0, got -1.0"),
    ({"temperature_K": None}, "nvt needs temperature_K"),
    ({"temperature_K": float("nan")}, "temperature_K: Input should be"),
    ({"thermostat_time_fs": 1.0}, "thermostat_time_fs must be at least two timesteps of 4 fs, got 1"),
    ({"pressure_GPa": 1.0}, "pressure_GPa is for npt only: nvt keeps the cell"),
    ({"ensemble": "nve", "temperature_end_K": 5.0}, "temperature_end_K is not for nve"),
    ({"components": ("xx",)}, "components are for the flexible barostat, not for isotropic"),
    ({"ensemble": "npt", "barostat": "flexible", "components": ()}, "components is empty"),
    ({"skin": 0.0}, "skin: Input should be greater than 0, got 0.0"),
    ({"max_spread_eV_A": 0.1}, "max_spread_eV_A needs a committee: a potential fitted with one, or several potentials"),
    ({"interval": 0}, "interval: Input should be greater than or equal to 1, got 0"),
    ({"trajectory": "a.pdb"}, "trajectory a.pdb: the suffix must be one of"),
    ({"trajectory": "nowhere/a.traj"}, "there is no folder nowhere"),
    ({"resume": True}, "nothing to resume: a run without trajectory and log leaves no checkpoint"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[str(list(w.items())[-1]) for w, _ in BAD])
def test_bad_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        simulate(ARGON, argon(), **{**NVT, "steps": 5, **wrong})
    assert message in str(error.value)


def test_bad_structures(tmp_path: Path) -> None:
    slab, lonely, odd = argon(), ase.Atoms("Ar"), argon()
    slab.pbc = (1, 1, 0)
    odd.set_constraint(ase.constraints.FixBondLength(0, 1))
    massless = argon()
    massless.set_masses([0.0] + [39.9] * 31)
    npt = {**NVT, "ensemble": "npt"}
    fixed = argon()
    fixed.set_constraint(FixAtoms([1]))
    for atoms, more, message in (
        (slab, npt, "npt needs a cell periodic in three directions, pbc is [True, True, False]"),
        (fixed, npt, "npt moves all atoms with the cell, so none can be fixed"),
        (odd, NVT, "the constraint FixBondLengths is not supported; FixAtoms, FixCartesian and FixCom are"),
        (massless, NVT, "1 atoms have no mass"),
        (lonely, {**NVT, "thermostat": "bussi"}, ""),
        (bulk("Cu"), NVT, "the model knows Ar; the structure has Cu"),
        (argon(), {"ensemble": "nve"}, "the structure has no velocities: give temperature_K to draw some"),
    ):
        if not message:
            assert simulate(ARGON, atoms, **more, steps=2).degrees_of_freedom == 3
            continue
        with pytest.raises(ValueError) as error:
            simulate(ARGON, atoms, **more, steps=2)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="temperature_K has 2 values for 1 structures"):
        simulate_many(ARGON, [argon()], Settings(**{**NVT, "temperature_K": (1.0, 2.0)}, steps=2))
    with pytest.raises(ValueError, match="members of a committee must have the same"):
        simulate([make_potential((18,)), ARGON], argon(), **NVT, steps=2)
    simulate(ARGON, argon(), **NVT, steps=2, log=tmp_path / "a.csv")
    with pytest.raises(FileExistsError, match="exists already: choose another name, or --resume or --overwrite it"):
        simulate(ARGON, argon(), **NVT, steps=2, log=tmp_path / "a.csv")


def test_read_log(tmp_path: Path) -> None:
    """Half a line of a killed run is left out; another file is refused."""
    path = tmp_path / "a.csv"
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows([Thermo._fields, range(12), [1] + [""] * 10 + [3], [2, 3]])
    table = read_log(path)
    assert table["step"].tolist() == [0.0, 1.0]
    assert np.isnan(table["pressure_GPa"][1])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a table written by adatom md: its first line is 'a,b'"):
        read_log(path)
