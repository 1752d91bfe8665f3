"""The ledger: nothing twice, no state skipped, readable by others, and clear where it cannot be used."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from adatom.fitting.active.ledger import Ledger, LedgerError, exclusive


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def result(atoms: Atoms, energy: float = -1.0) -> dict[str, object]:
    forces = np.random.default_rng(len(atoms)).normal(size=(len(atoms), 3))
    stress = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    return {
        "energy": energy, "free_energy": energy - 0.25, "forces": forces.tolist(), "stress": stress.tolist(), "seconds": 36.0,
        "code": "none 1.0",
    }  # fmt: skip


def test_same_content_once(tmp_path: Path) -> None:
    """Equal within 1e-8 Å is the same calculation; another position, periodicity, cell or setting is not."""
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        first = ledger.add(copper(1), iteration=3, origin={"trajectory": "md.traj"})
        same = copper(1)
        same.positions += 2e-9 * np.sign(np.round(same.positions, 8) - same.positions)
        assert ledger.add(same, iteration=4, origin={}).hash == first.hash
        assert ledger[first.hash].iteration == 3
        assert ledger[first.hash].origin == {"trajectory": "md.traj"}
        moved, slab, strained = copper(1), copper(1), copper(1)
        moved.positions[0, 0] += 1e-6
        slab.pbc = (True, True, False)
        strained.cell[0, 0] += 1e-6
        for other in (moved, slab, strained):
            assert ledger.add(other, iteration=4, origin={}).hash != first.hash
        assert ledger.counts()["queued"] == 4
        assert ledger.find(copper(1)) is not None
        assert ledger.find(copper(2)) is None
    with Ledger(tmp_path / "l.sqlite", settings="b") as ledger:
        assert ledger.find(copper(1)) is None
        assert ledger.add(copper(1), iteration=5, origin={}).hash != first.hash
        with pytest.raises(ValueError, match="NaN or infinite positions"):
            ledger.add(Atoms("Cu", [(np.nan, 0.0, 0.0)]), iteration=5, origin={})


def test_transitions_are_checked(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        c = ledger.add(copper(1), iteration=0, origin={})
        with pytest.raises(LedgerError, match=f"calculation {c.hash[:12]} is queued, not running"):
            ledger.done(c.hash, result(copper(1)))
        c = ledger.start(c.hash, cores=4)
        assert (c.state, c.attempt, c.job) == ("running", 1, "")
        with pytest.raises(LedgerError, match="is running, not queued"):
            ledger.start(c.hash, cores=4)
        ledger.put_back(c.hash)
        assert ledger.start(c.hash, cores=4).attempt == 1
        ledger.submitted(c.hash, "17")
        assert ledger[c.hash].job == "17"
        assert not ledger.fail(c.hash, "died", attempts=2)
        assert ledger[c.hash].state == "queued"
        assert ledger.start(c.hash, cores=4).attempt == 2
        assert ledger.fail(c.hash, "died again", attempts=2)
        assert ledger[c.hash].state == "failed"
        ledger.again([c.hash])
        assert ledger.start(c.hash, cores=4).attempt == 3
        assert not ledger.fail(c.hash, "cancelled", attempts=1, counted=False)
        ledger.start(c.hash, cores=4)
        ledger.done(c.hash, result(copper(1)))
        c = ledger[c.hash]
        assert (c.state, c.label_energy, c.energy, c.cores, c.attempt) == ("done", -1.25, -1.0, 4, 4)
        assert c.started is not None
        assert c.finished is not None
        assert c.queued <= c.started <= c.finished
        with pytest.raises(LedgerError, match="is done, not running"):
            ledger.done(c.hash, result(copper(1)))
        with pytest.raises(LedgerError, match="is not there"):
            ledger.reject("0" * 64, "reason")


def test_table_counts_and_other_settings(tmp_path: Path) -> None:
    """What other settings made stays where it is; what they only queued or failed takes the new ones."""
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        rows = [ledger.add(copper(k), iteration=k // 2, origin={}) for k in range(4)]
        for c in rows[:2]:
            ledger.start(c.hash, cores=2)
        ledger.done(rows[0].hash, result(copper(0)))
        ledger.fail(rows[1].hash, "no luck", attempts=1)
        ledger.reject(rows[2].hash, "too close")
        assert ledger.counts() == {"queued": 1, "running": 0, "done": 1, "failed": 1, "rejected": 1}
        assert ledger.counts(iteration=1)["rejected"] == 1
        text = ledger.table()
        assert re.search(r"^ +0 +0 +0 +1 +1 +0 +0\.02$", text, re.M), text
        assert "failed (1): no luck" in text
        assert "rejected (1): too close" in text
        assert ledger.adopt() == 0
    with Ledger(tmp_path / "l.sqlite", settings="b") as ledger:
        ledger.add(copper(3), iteration=9, origin={})
        assert ledger.adopt() == 2
        assert ledger.counts() == {"queued": 2, "running": 0, "done": 1, "failed": 0, "rejected": 1}
        assert ledger.export(tmp_path / "b.extxyz") == 0
        assert ledger.energies(rows[0].structure) == []
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        assert ledger.export(tmp_path / "a.extxyz") == 1
        assert ledger.energies(ledger.add(copper(0) * (2, 1, 1), iteration=0, origin={}).structure) == [-1.25 / 4]


def test_export(tmp_path: Path) -> None:
    """Others read what was computed: ASE's conventions, the energy that belongs to the forces, where it came from."""
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        assert ledger.export(tmp_path / "none.extxyz") == 0
        molecule = Atoms("OH2", [(0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)])
        for k, atoms in enumerate((copper(1), molecule)):
            c = ledger.add(atoms, iteration=k, origin={"from": "md", "frame": k})
            ledger.start(c.hash, cores=1)
            ledger.done(c.hash, result(atoms) | ({"stress": None} if k else {}))
        assert ledger.export(tmp_path / "labels.extxyz") == 2
        first, second = read(tmp_path / "labels.extxyz", ":")
        rows = ledger.rows("done")
    np.testing.assert_array_equal(first.positions, copper(1).positions.round(8))
    assert first.get_potential_energy() == first.get_potential_energy(force_consistent=True) == -1.25
    np.testing.assert_allclose(first.get_forces(), result(copper(1))["forces"], atol=1e-8)
    np.testing.assert_allclose(first.get_stress(voigt=False), result(copper(1))["stress"])
    assert first.info["hash"] == rows[0].hash
    assert first.info["config_type"] == "iteration_0"
    assert first.info["origin"] == {"from": "md", "frame": 0}
    assert "stress" not in second.calc.results
    assert not second.pbc.any()


def test_two_loops_refuse_each_other(tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"):
        with (
            pytest.raises(LedgerError, match=r"run: another loop is at work here: process \d+ on \S+$"),
            exclusive(tmp_path / "run"),
        ):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "run"):
        pass


def test_files_that_are_no_ledgers(tmp_path: Path) -> None:
    """Foreign, newer, damaged: one line each, and the file is left as it is."""
    text, other, newer, damaged = (tmp_path / x for x in ("text", "other", "newer", "damaged"))
    text.write_text("not a database, but long enough to be taken for the header of one " * 20)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE x (y)")
    db.close()
    Ledger(newer, settings="a").close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with Ledger(damaged, settings="a") as ledger:
        for k in range(20):
            ledger.add(copper(k), iteration=0, origin={})
    content = bytearray(damaged.read_bytes())
    content[8192:20480] = bytes(12288)
    damaged.write_bytes(content)
    for path, message in (
        (text, "damaged, or not a ledger of adatom"),
        (other, "a database, but not a ledger of adatom"),
        (newer, r"newer adatom \(schema 99, known is 1\)"),
        (damaged, "damaged"),
        (tmp_path, "cannot be opened as a ledger"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(LedgerError, match=message) as error:
            Ledger(path, settings="a")
        assert "\n" not in str(error.value)
        assert before == (path.read_bytes() if path.is_file() else b"")


def test_the_order_of_an_export_does_not_depend_on_failures(tmp_path: Path) -> None:
    written = []
    for failing in (0, 1, 2):
        with Ledger(tmp_path / f"{failing}.sqlite", settings="a") as ledger:
            names = [ledger.add(copper(k), iteration=0, origin={}).hash for k in range(3)]
            ledger.start(names[failing], cores=1)
            ledger.fail(names[failing], "killed", attempts=3)
            for k, name in enumerate(names):
                ledger.start(name, cores=1)
                ledger.done(name, result(copper(k)))
            ledger.export(tmp_path / "labels.extxyz")
            written.append((tmp_path / "labels.extxyz").read_bytes())
    assert written[0] == written[1] == written[2]


def test_origin(tmp_path: Path) -> None:
    """Any JSON is kept; the file for others stays readable, where ASE's would not."""
    with Ledger(tmp_path / "l.sqlite", settings="a") as ledger:
        origin = {"quotes": "a \"b\" 'c'", "path": "C:\\x\ny", "list": [1, 2.5, "Å"], "none": None}
        c = ledger.add(copper(1), iteration=0, origin=origin)
        assert ledger[c.hash].origin == origin
        with pytest.raises(TypeError):
            ledger.add(copper(2), iteration=0, origin={"array": np.zeros(2)})
        assert ledger.counts()["queued"] == 1
        ledger.start(c.hash, cores=1)
        ledger.done(c.hash, result(copper(1)))
        ledger.export(tmp_path / "labels.extxyz")
    info = read(tmp_path / "labels.extxyz").info
    assert info["origin"] == {"quotes": "a 'b' 'c'", "path": "C:/x y", "list": [1, 2.5, "?"], "none": None}
