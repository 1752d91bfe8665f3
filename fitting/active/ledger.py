"""The ledger of active learning: one SQLite file, one row a calculation, from queued to done.

    queued -> running -> done | rejected | failed        running -> queued (another attempt)
    queued -> rejected (not worth computing)             failed, rejected -> queued (when asked)

A calculation is named by its content: atomic numbers, periodicity, cell and positions rounded to 1e-8 Å, and the fingerprint
of the settings it is computed with. Every change is one short transaction, synced, that checks the state it starts from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import ase
import ase.formula
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from numpy.typing import NDArray

from adatom.potential.model_file import write_atomically
from adatom.potential.structure import Structure, from_atoms

Array = NDArray[np.float64]
APPLICATION_ID, SCHEMA_VERSION = 0x41444C47, 1  # "ADLG"
STATES = ("queued", "running", "done", "failed", "rejected")
DECIMALS = 8  # of positions and cells, Å
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE calculations (
    hash TEXT PRIMARY KEY, settings TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'rejected')),
    reason TEXT NOT NULL DEFAULT '', iteration INTEGER NOT NULL, origin TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, job TEXT NOT NULL DEFAULT '',
    seconds REAL, cores INTEGER, queued REAL NOT NULL, started REAL, finished REAL, code TEXT NOT NULL DEFAULT '',
    composition TEXT NOT NULL, atoms INTEGER NOT NULL, structure TEXT NOT NULL,
    energy REAL, free_energy REAL, forces TEXT, stress TEXT);
CREATE INDEX by_state ON calculations (state);
"""


class LedgerError(ValueError):
    """The ledger cannot be used, or not in this way; one line says why."""


@dataclass(frozen=True)
class Calculation:
    """A row. Times are seconds since 1970; energies eV; forces (atoms, 3) eV/Å; stress (3, 3) eV/Å³, positive in tension.

    attempt: number of the latest attempt, from 1; failures: attempts that failed since it was queued; job: what the
    executor calls it; seconds: of the calculation, on `cores` cores; origin: where the structure came from.
    """

    hash: str
    settings: str
    state: str
    reason: str
    iteration: int
    origin: dict[str, Any]
    attempt: int
    failures: int
    job: str
    seconds: float | None
    cores: int | None
    queued: float
    started: float | None
    finished: float | None
    code: str
    structure: Structure
    energy: float | None
    free_energy: float | None
    forces: Array | None
    stress: Array | None

    @property
    def label_energy(self) -> float | None:
        """The energy that the forces derive from, eV: the free energy where the code gives one."""
        return self.energy if self.free_energy is None else self.free_energy

    def to_atoms(self) -> ase.Atoms:
        """Atoms, with the labels as the results of a calculator; `energy` and `free_energy` are both label_energy."""
        atoms = self.structure.to_atoms()
        atoms.info = {"config_type": f"iteration_{self.iteration}", "iteration": self.iteration, "hash": self.hash}
        atoms.info["origin"] = _plain(self.origin)
        if self.label_energy is not None:
            results = {"energy": self.label_energy, "free_energy": self.label_energy, "forces": self.forces}
            if self.stress is not None:
                results["stress"] = self.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


class Ledger:
    """The file, opened. `settings`: fingerprint that new calculations get. Close it, or use it in a `with` statement.

    Raises LedgerError where the file is damaged, no ledger, or of a newer adatom.
    """

    def __init__(self, path: str | Path, *, settings: str) -> None:
        self.path, self.settings = Path(path), settings
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=60.0)
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: cannot be opened as a ledger ({error})") from error
        self._db.row_factory = sqlite3.Row
        try:
            self._open()
        except sqlite3.Error as error:
            self._db.close()
            raise LedgerError(f"{self.path}: damaged, or not a ledger of adatom ({error})") from error
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        version, application = (self._db.execute(f"PRAGMA {x}").fetchone()[0] for x in ("user_version", "application_id"))
        empty = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION_ID and not (empty and application == 0):
            raise LedgerError(f"{self.path}: a database, but not a ledger of adatom")
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{self.path}: written by a newer adatom (schema {version}, known is {SCHEMA_VERSION}): update adatom"
            )
        trouble = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if trouble != "ok":
            raise LedgerError(f"{self.path}: damaged: {' '.join(str(trouble).split())}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if empty:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO meta VALUES ('identity', ?)", (secrets.token_hex(4),))
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.identity: str = self._db.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()[0]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, atoms: ase.Atoms, *, iteration: int, origin: Mapping[str, Any]) -> Calculation:
        """Queue a structure, positions and cell rounded to 1e-8 Å. What is there already is returned as it is.

        Raises ValueError where the structure cannot be computed (no atoms, NaN, …), TypeError where the origin is not JSON.
        """
        given = from_atoms(atoms)
        structure = Structure(given.numbers, given.positions.round(DECIMALS) + 0.0, given.cell.round(DECIMALS) + 0.0, given.pbc)
        name = content_hash(structure, self.settings)
        text = json.dumps({k: np.asarray(getattr(structure, k)).tolist() for k in ("numbers", "positions", "cell", "pbc")})
        source = json.dumps(dict(origin))
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO calculations (hash, settings, state, iteration, origin, queued, composition, atoms, "
                "structure) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
                (name, self.settings, iteration, source, time.time(), composition(structure), len(structure), text),
            )
        return self[name]

    def __getitem__(self, name: str) -> Calculation:
        """The calculation of that hash; KeyError where there is none."""
        row = self._db.execute("SELECT * FROM calculations WHERE hash = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return _calculation(row)

    def find(self, atoms: ase.Atoms) -> Calculation | None:
        """The calculation of this structure with the present settings, if there is one."""
        try:
            return self[content_hash(from_atoms(atoms), self.settings)]
        except KeyError:
            return None

    def rows(self, *states: str, settings: str = "", limit: int = -1) -> list[Calculation]:
        """Calculations in these states (none: all), in the order they should run: fewest failures, then first queued.

        settings: only those with this fingerprint; with "!" before it, only those with another.
        """
        marks = ", ".join("?" * len(states or STATES))
        query = f"SELECT * FROM calculations WHERE state IN ({marks})"
        if settings:
            query += f" AND settings {'!=' if settings[0] == '!' else '='} ?"
        values = (*(states or STATES), *([settings.removeprefix("!")] if settings else []))
        return [_calculation(r) for r in self._db.execute(f"{query} ORDER BY failures, queued, rowid LIMIT {limit:d}", values)]

    def energies(self, structure: Structure) -> list[float]:
        """Energies per atom, eV, of the done labels of this composition with the present settings."""
        query = "SELECT coalesce(free_energy, energy) / atoms FROM calculations WHERE state = 'done' AND composition = ?"
        query += " AND settings = ?"
        return [r[0] for r in self._db.execute(query, (composition(structure), self.settings))]

    def costs(self) -> list[tuple[int, float]]:
        """(atoms, core seconds) of the done labels with the present settings."""
        query = "SELECT atoms, seconds * cores FROM calculations WHERE state = 'done' AND settings = ? AND seconds > 0"
        return [(r[0], r[1]) for r in self._db.execute(query, (self.settings,))]

    def start(self, name: str, *, cores: int) -> Calculation:
        """queued -> running: the next attempt begins. Committed before anything is submitted."""
        change = "attempt = attempt + 1, job = '', started = ?, finished = NULL, cores = ?"
        self._move(name, "queued", "running", change, time.time(), cores)
        return self[name]

    def put_back(self, name: str) -> None:
        """running -> queued: it could not be submitted; the attempt did not take place."""
        self._move(name, "running", "queued", "attempt = attempt - 1, job = '', started = NULL")

    def submitted(self, name: str, job: str) -> None:
        """Store what the executor calls the running job."""
        self._move(name, "running", "running", "job = ?", job)

    def done(self, name: str, result: Mapping[str, Any], *, rejected: str = "") -> None:
        """running -> done, or rejected with the reason; `result` as the worker wrote it is kept either way."""
        forces, stress = (None if result[k] is None else json.dumps(np.asarray(result[k]).tolist()) for k in ("forces", "stress"))
        self._move(
            name, "running", "rejected" if rejected else "done",
            "reason = ?, finished = ?, seconds = ?, code = ?, energy = ?, free_energy = ?, forces = ?, stress = ?",
            rejected, time.time(), result["seconds"], result["code"], result["energy"], result["free_energy"], forces, stress,
        )  # fmt: skip

    def reject(self, name: str, reason: str) -> None:
        """queued -> rejected: not worth computing."""
        self._move(name, "queued", "rejected", "reason = ?, finished = ?", reason, time.time())

    def fail(self, name: str, reason: str, *, attempts: int, counted: bool = True) -> bool:
        """running -> queued again, or failed where it was the last of `attempts`; True where it has failed for good.

        An attempt that is not `counted` was nobody's fault (cancelled).
        """
        failures = self[name].failures + counted
        state = "failed" if failures >= attempts else "queued"
        self._move(name, "running", state, "failures = ?, reason = ?, finished = ?", failures, reason, time.time())
        return state == "failed"

    def again(self, names: Sequence[str]) -> None:
        """queued, failed or rejected -> queued, with failures forgotten: the cause lay elsewhere and has been mended."""
        with self._transaction():
            change = "UPDATE calculations SET state = 'queued', failures = 0 WHERE hash = ? AND state IN (?, ?, ?)"
            self._db.executemany(change, [(name, "queued", "failed", "rejected") for name in names])

    def adopt(self) -> int:
        """Queued and failed calculations of other settings take the present ones; returns how many."""
        others = self.rows("queued", "failed", settings=f"!{self.settings}")
        for c in others:
            name = content_hash(c.structure, self.settings)
            change = "hash = ?, settings = ?, state = 'queued', reason = '', attempt = 0, failures = 0, job = ''"
            with self._transaction():
                if self._db.execute("SELECT 1 FROM calculations WHERE hash = ?", (name,)).fetchone():
                    self._db.execute("DELETE FROM calculations WHERE hash = ?", (c.hash,))
                else:
                    self._db.execute(f"UPDATE calculations SET {change} WHERE hash = ?", (name, self.settings, c.hash))
        return len(others)

    def counts(self, *, iteration: int | None = None) -> dict[str, int]:
        """How many calculations are in each state, all states named."""
        query = "SELECT state, count(*) FROM calculations WHERE ? IS NULL OR iteration = ? GROUP BY state"
        found = dict(tuple(r) for r in self._db.execute(query, (iteration, iteration)))
        return {state: found.get(state, 0) for state in STATES}

    def table(self) -> str:
        """For people: a line per iteration, and the reasons of what failed or was rejected."""
        query = "SELECT iteration, state, count(*) AS n, sum(seconds * cores) / 3600 AS hours FROM calculations GROUP BY 1, 2"
        lines: dict[int, dict[str, float]] = {}
        for iteration, state, n, hours in self._db.execute(query):
            line = lines.setdefault(iteration, {})
            line[state] = n
            line["core hours"] = line.get("core hours", 0.0) + (hours or 0.0)
        text = ["iteration " + " ".join(f"{s:>8}" for s in STATES) + "  core hours"]
        for iteration, line in sorted(lines.items()):
            text.append(f"{iteration:9d} " + " ".join(f"{line.get(s, 0):8.0f}" for s in STATES) + f"  {line['core hours']:10.3g}")
        reasons = Counter((c.state, c.reason.partition("; output in ")[0]) for c in self.rows("failed", "rejected"))
        text += [f"{state} ({n}): {reason}" for (state, reason), n in reasons.most_common()]
        return "\n".join(text)

    def export(self, path: str | Path) -> int:
        """Write the labels done with the present settings as extended XYZ, atomically; returns how many.

        In an order that no failure changes.
        """
        done = self.rows("done", settings=self.settings)
        labels = [c.to_atoms() for c in sorted(done, key=lambda c: (c.iteration, c.hash))]
        text = StringIO()
        if labels:
            write(text, labels, format="extxyz")
        write_atomically(Path(path), text.getvalue().encode())
        return len(labels)

    def _move(self, name: str, before: str, after: str, change: str, *values: Any) -> None:
        with self._transaction():
            query = f"UPDATE calculations SET state = '{after}', {change} WHERE hash = ? AND state = '{before}'"
            if self._db.execute(query, (*values, name)).rowcount != 1:
                row = self._db.execute("SELECT state FROM calculations WHERE hash = ?", (name,)).fetchone()
                raise LedgerError(f"{self.path}: calculation {name[:12]} is {row[0] if row else 'not there'}, not {before}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LedgerError(f"{self.path}: cannot be written ({error})") from error
            raise


def content_hash(structure: Structure, settings: str) -> str:
    """SHA-256 of what is computed and with what settings, as hexadecimal digits."""
    h = hashlib.sha256(settings.encode())
    h.update(np.asarray(structure.numbers, "<i8").tobytes() + np.asarray(structure.pbc, "u1").tobytes())
    for x in (structure.cell, structure.positions):
        h.update(np.rint(np.asarray(x) * 10.0**DECIMALS).astype("<i8").tobytes())
    return h.hexdigest()


def composition(structure: Structure) -> str:
    """Formula reduced to smallest integers: the same for a cell and its supercell."""
    return str(ase.formula.Formula(structure.symbols).reduce()[0].format("hill"))


@contextmanager
def exclusive(directory: str | Path) -> Iterator[None]:
    """Be the only loop in a directory, which is made where it is not there. The lock ends with the process, however it ends.

    Raises LedgerError, naming process and host, where another loop is at work.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "loop.lock", "a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            f.seek(0)
            raise LedgerError(f"{directory}: another loop is at work here: {f.read().strip() or 'unknown process'}") from error
        f.truncate(0)
        f.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        yield


def _plain(x: Any) -> Any:
    """Without what ASE's extended XYZ writes and cannot read again: quotes, backslashes, control and non-ASCII characters."""
    if isinstance(x, dict):
        return {_plain(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_plain(v) for v in x]
    if not isinstance(x, str):
        return x
    text = "".join(c if c.isprintable() else " " for c in x.replace('"', "'").replace("\\", "/"))
    return text.encode("ascii", "replace").decode()


def _calculation(row: sqlite3.Row) -> Calculation:
    s = json.loads(row["structure"])
    structure = Structure(
        np.array(s["numbers"], dtype=np.int64), np.array(s["positions"], dtype=float).reshape(-1, 3),
        np.array(s["cell"], dtype=float).reshape(3, 3), np.array(s["pbc"], dtype=bool),
    )  # fmt: skip
    values: dict[str, Any] = {k: row[k] for k in row.keys() if k not in ("composition", "atoms")}  # noqa: SIM118
    values |= {k: None if row[k] is None else np.array(json.loads(row[k])) for k in ("forces", "stress")}
    return Calculation(**values | {"origin": json.loads(row["origin"]), "structure": structure})
