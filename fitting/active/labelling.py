"""Bring every queued calculation of a ledger to done, failed or rejected, whatever is killed on the way.

The ledger is told before a job is started; the job's name, its folder and the lock in it tell what became of it; a result is
a file that is whole or not there. So a driver that starts anew first takes what is finished, waits for what still runs, and
starts again only what was never started or died.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adatom.fitting.active.executors import make_executor
from adatom.fitting.active.jobs import Job, SubmitError, Unreachable, job_of, prepare
from adatom.fitting.active.label_checks import check_label, check_structure
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.ledger import Calculation, Ledger
from adatom.fitting.active.patience import Alive, Patience

Say = Callable[[str], None]
SUBMIT_TRIALS = 3
AT_ONCE = 64  # queued calculations looked at in one round, beyond those that find a worker
LATER_SUSPICION = 10  # labels that may fail alike before we stop, where labels have been made with these settings before


class LabelError(RuntimeError):
    """Labelling cannot go on; one line says why. What was done is in the ledger."""


@dataclass(frozen=True)
class Labelled:
    """How many calculations this call brought to an end, and how many are left (only where it was asked to stop)."""

    done: int = 0
    failed: int = 0
    rejected: int = 0
    left: int = 0


def label(
    ledger: Ledger, config: LabelConfig, folder: str | Path, *, say: Say, stop: Callable[[], bool] | None = None
) -> Labelled:
    """Compute what is queued in the ledger, in folders below `folder`, until nothing is queued or running or stop() says so.

    A failed calculation is tried `attempts` times and never ends the loop. Raises LabelError where nothing can be started,
    where all of the first calculations fail with one error, or where nothing was computed for `patience_minutes`: nodes drained,
    jobs held, SLURM gone. That, Ctrl-C and `stop` leave jobs where they are; the next call finds them.
    """
    if config.fingerprint != ledger.settings:
        raise ValueError(f"the ledger was opened for settings {ledger.settings}, the config has {config.fingerprint}")
    try:
        run = _Run(ledger, config, Path(folder), say)
    except SubmitError as error:
        raise LabelError(str(error)) from error
    foreign = len(ledger.rows("done", settings=f"!{ledger.settings}"))
    if foreign:
        say(f"{foreign} labels made with other settings stay in the ledger, apart: they are neither exported nor compared with")
    try:
        while True:
            running = run.collect()
            adopted = ledger.adopt()
            if adopted:
                say(f"{adopted} calculations that were queued or failed with other settings are queued with the present ones")
            if not run.submit(running) or (stop is not None and stop()):
                break
            run.require_progress()
            time.sleep(config.seconds_between_polls)
    except KeyboardInterrupt:
        n = ledger.counts()["running"]
        say(f"interrupted: {n} labels go on in the background, output in {folder}; run the same command again to collect them")
        raise
    counts = ledger.counts()
    return Labelled(run.ended["done"], run.ended["failed"], run.ended["rejected"], counts["queued"] + counts["running"])


def cancel(ledger: Ledger, config: LabelConfig, folder: str | Path) -> int:
    """Ask all running jobs to end; the next `label` collects them. Returns how many were asked."""
    executor = make_executor(config)
    running = ledger.rows("running")
    for c in running:
        executor.cancel(job_of(c, Path(folder), ledger.identity))
    return len(running)


class _Run:
    """One call of `label`: what it works with, and what it remembers of the jobs that ended."""

    def __init__(self, ledger: Ledger, config: LabelConfig, folder: Path, say: Say) -> None:
        self.ledger, self.config, self.folder, self.say = ledger, config, folder, say
        self.executor = make_executor(config)
        self.ended = {"done": 0, "failed": 0, "rejected": 0}
        self.errors: dict[str, str] = {}  # calculation → reason, of those that failed before the first success
        self.suspicious = max(LATER_SUSPICION, 2 * config.workers) if ledger.costs() else max(2, config.workers)
        self.proved = False
        self.refused = 0  # submissions in a row
        self.said: set[str] = set()
        self.patience = Patience(60.0 * config.patience_minutes, config.longest_seconds, say)
        self.settled = 0  # attempts that ended, for better or worse
        self.alive: dict[str, Alive] = {}
        self.trouble = ""  # what hindered the latest round

    def collect(self) -> int:
        """Settle what has ended since the last look; returns how many still run."""
        running = [(c, self._job(c)) for c in self.ledger.rows("running")]
        self.trouble = ""
        try:
            self.alive = self.executor.alive([job for _, job in running])
        except Unreachable as error:
            self._say_once(f"{error}: waiting for it to answer")
            self.alive, self.trouble = {job.name: Alive(job.id) for _, job in running}, str(error)
        count = 0
        for c, job in running:  # files are looked at after `alive`: who ends in between has left a file
            if self._settle(c, job):
                continue
            if job.name in self.alive:
                count += 1
                if not job.id and self.alive[job.name].id:  # a driver died before it could store this
                    self.ledger.submitted(c.hash, self.alive[job.name].id)
            elif job.id:
                self._failed(c, job, "lost", self.executor.ending(job))
            else:  # a driver died between telling the ledger and starting the job
                count += self._start(c, job)
        return count

    def submit(self, running: int) -> bool:
        """Start queued calculations while there are workers to spare; False where nothing runs or waits any more."""
        free = self.config.workers - running
        queued = self.ledger.rows("queued", limit=free + AT_ONCE) if free > 0 else []
        for c in queued:
            if not free:
                break
            reason = check_structure(c.structure, self.config.checks)
            if reason:
                self.ledger.reject(c.hash, reason)
                self._rejected(c, reason)
                continue
            c = self.ledger.start(c.hash, cores=self.config.cores)
            if any(self._take(c, self._job(c, k)) for k in range(1, c.attempt + 1)):
                continue  # of an attempt that was given up too early, or of a ledger that is gone
            if not self._start(c, self._job(c)):
                return True
            free -= 1
        return running > 0 or bool(queued)

    def require_progress(self) -> None:
        """LabelError where all has stood still for too long."""
        reason = self.patience.lost(self.settled, self.alive, self.trouble)
        if reason:
            left = sum(self.ledger.counts()[x] for x in ("queued", "running"))
            raise LabelError(f"{reason}; {left} labels are left: jobs stay where they are, the same command collects them")

    def _job(self, c: Calculation, attempt: int = 0) -> Job:
        return job_of(c, self.folder, self.ledger.identity, attempt=attempt)

    def _start(self, c: Calculation, job: Job) -> bool:
        """Submit a job that the ledger knows as running; False, and queued again, where that was not possible."""
        try:
            prepare(job, c, self.config)
            self.ledger.submitted(c.hash, self.executor.submit(job))
        except (SubmitError, Unreachable) as error:
            self.ledger.put_back(c.hash)
            self.trouble = str(error)
            self._say_once(f"{error}: trying again")
            self.refused += isinstance(error, SubmitError)
            if self.refused >= SUBMIT_TRIALS and not self.ledger.counts()["running"]:
                raise LabelError(f"labels cannot be started: {error}") from error
            return False
        self.refused = 0
        return True

    def _settle(self, c: Calculation, job: Job) -> bool:
        """Enter what the worker left behind; False where there is nothing yet."""
        if self._take(c, job):
            return True
        error = _read(job.folder / "error.json")
        if error is not None:
            self._failed(c, job, str(error.get("kind")), str(error.get("reason", "error.json is unreadable")))
        return error is not None

    def _take(self, c: Calculation, job: Job) -> bool:
        """Enter a result, done or rejected; False where there is none that belongs to this calculation."""
        result = _read(job.folder / "result.json")
        if not result or result.get("hash") != c.hash or np.shape(result["forces"]) != (len(c.structure), 3):
            return False
        self.proved = True
        self.settled += 1
        others = self.ledger.energies(c.structure) if c.settings == self.ledger.settings else []
        reason = check_label(result, c.structure, self.config.checks, others)
        self.ledger.done(c.hash, result, rejected=reason)
        if reason:
            self._rejected(c, f"{reason}; output in {job.folder}")
        else:
            self.ended["done"] += 1
        return True

    def _rejected(self, c: Calculation, reason: str) -> None:
        self.ended["rejected"] += 1
        self._say_once(f"label {c.hash[:12]} ({c.structure.symbols}) rejected: {reason}")

    def _failed(self, c: Calculation, job: Job, kind: str, reason: str) -> None:
        text = f"{reason}; output in {job.folder}"
        self.settled += 1
        self.ended["failed"] += self.ledger.fail(c.hash, text, attempts=self.config.attempts, counted=kind != "cancelled")
        if reason not in self.said:
            self.said.add(reason)
            self.say(f"label {c.hash[:12]} ({c.structure.symbols}) failed, attempt {c.attempt}: {text}")
        if self.proved or kind not in ("raised", "died") or c.settings != self.ledger.settings:
            return
        self.errors[c.hash] = reason
        waiting = {x.hash for x in self.ledger.rows("queued", limit=len(self.errors) + 1)} - set(self.errors)
        if len(self.errors) >= self.suspicious and len(set(self.errors.values())) == 1 and waiting:
            self.ledger.again(list(self.errors))
            raise LabelError(f"the first {len(self.errors)} labels all failed, so the others were not started: {text}")

    def _say_once(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            self.say(line)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file that is whole or not there; {} where it is neither."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
