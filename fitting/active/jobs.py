"""Jobs: one attempt at one label, each a folder with a name that is used once, and what an executor offers about them.

    submit(job) -> id      prepare(...) has written the folder; raises SubmitError
    alive(jobs) -> {name: Alive} of those that wait or are computed, whoever started them; raises Unreachable
    ending(job) -> text    what is known of a job that is not alive and left neither result.json nor error.json
    cancel(job)
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ase.io import write

from adatom.fitting.active import label_worker
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.ledger import Calculation
from adatom.fitting.active.patience import Alive
from adatom.potential.model_file import write_atomically

WORKER = Path(label_worker.__file__).resolve()


class SubmitError(RuntimeError):
    """A job could not be submitted; one line says why."""


class Unreachable(RuntimeError):
    """The batch system does not answer: nothing is known about its jobs."""


@dataclass(frozen=True)
class Job:
    """One attempt at one calculation: `name` is used once, `folder` is its own, `id` is empty where it is not known."""

    name: str
    folder: Path
    id: str = ""


class Executor(Protocol):
    """See the head of the file."""

    def submit(self, job: Job) -> str: ...
    def alive(self, jobs: Sequence[Job]) -> dict[str, Alive]: ...
    def ending(self, job: Job) -> str: ...
    def cancel(self, job: Job) -> None: ...


def job_of(c: Calculation, folder: Path, identity: str, *, attempt: int = 0) -> Job:
    """The job of an attempt (0: the latest) at a calculation; `identity`: of the ledger, as two may share a cluster."""
    n = attempt or c.attempt
    return Job(f"adatom-{identity}-{c.hash[:12]}-{n}", folder / f"{c.hash[:12]}-{n}", c.job if n == c.attempt else "")


def prepare(job: Job, c: Calculation, config: LabelConfig) -> None:
    """Write structure.extxyz and job.json; to be called only while nobody computes in the folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in ("error.json", "cancel"):  # of a ledger that is gone
        (job.folder / name).unlink(missing_ok=True)
    write(job.folder / "structure.extxyz", c.structure.to_atoms(), format="extxyz")
    content = config.job() | {"hash": c.hash, "attempt": c.attempt}
    write_atomically(job.folder / "job.json", json.dumps(content, indent=1).encode())


def held(path: Path) -> bool:
    """Whether somebody holds the lock: computes in its folder."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
