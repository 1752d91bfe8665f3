"""Where label jobs run: detached processes on this machine, or jobs of SLURM. What was started outlives the driver.

Both executors offer the same about jobs, each a folder with a name that is used once:

    submit(job) -> id      prepare(...) has written the folder; raises SubmitError
    alive(jobs) -> {name: id} of those that wait or are computed, whoever started them; raises Unreachable
    ending(job) -> text    what is known of a job that is not alive and left neither result.json nor error.json
    cancel(job)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ase.io import write

from adatom.fitting.active import label_worker
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.ledger import Calculation
from adatom.potential.model_file import write_atomically

WORKER = Path(label_worker.__file__).resolve()
ENDED = frozenset({
    "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"
})  # fmt: skip
SLURM_SECONDS = 60.0  # for an answer of squeue


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
    def alive(self, jobs: Sequence[Job]) -> dict[str, str]: ...
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


def make_executor(config: LabelConfig) -> Executor:
    """The executor that the config names. Raises SubmitError where the machine cannot have it."""
    if config.executor == "slurm":
        return SlurmExecutor(config)
    python = config.job()["python"]
    if shutil.which(python) is None:
        raise SubmitError(f"[label] python: there is no interpreter {python}")
    return LocalExecutor()


class LocalExecutor:
    """Detached processes in sessions of their own. A job is alive while the lock in its folder is held."""

    def __init__(self) -> None:
        self._children: set[int] = set()

    def submit(self, job: Job) -> str:
        """The worker inherits the lock, so that there is no moment between start and lock."""
        lock = os.open(job.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(lock, True)
            files: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            files.append((os.POSIX_SPAWN_OPEN, 1, str(job.folder / "worker.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
            files.append((os.POSIX_SPAWN_DUP2, 1, 2))
            command = [sys.executable, "-S", str(WORKER), str(job.folder.resolve()), str(lock)]
            child = os.posix_spawn(sys.executable, command, os.environ, file_actions=files, setsid=True)
        except BlockingIOError:
            return f"{socket.gethostname()}:?"
        except OSError as error:
            raise SubmitError(f"cannot start a worker: {error}") from error
        finally:
            os.close(lock)
        self._children.add(child)
        return f"{socket.gethostname()}:{child}"

    def alive(self, jobs: Sequence[Job]) -> dict[str, str]:
        for child in list(self._children):
            try:
                if os.waitpid(child, os.WNOHANG)[0]:
                    self._children.discard(child)
            except ChildProcessError:
                self._children.discard(child)
        return {job.name: job.id for job in jobs if _held(job.folder / "lock")}

    def ending(self, job: Job) -> str:
        return "the worker vanished (killed, or the machine went down)"

    def cancel(self, job: Job) -> None:
        (job.folder / "cancel").touch()


def _held(path: Path) -> bool:
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


class SlurmExecutor:
    """One job of sbatch per label, through submitit. Known by name to squeue, so that a lost job id is no loss."""

    def __init__(self, config: LabelConfig) -> None:
        try:
            import submitit
        except ImportError as error:
            raise SubmitError('executor = "slurm" needs submitit: pip install submitit') from error
        for command in ("sbatch", "squeue"):
            if shutil.which(command) is None:
                raise SubmitError(f'executor = "slurm", but there is no {command} on this machine')
        self._submitit, self._config = submitit, config
        self._states: dict[str, tuple[str, str]] = {}
        self._missing_since: dict[str, float] = {}

    def submit(self, job: Job) -> str:
        found = self._squeue().get(job.name)
        if found is not None and found[1] not in ENDED:
            return found[0]
        slurm = self._config.slurm
        parameters: dict[str, Any] = {
            "job_name": job.name, "time": self._config.job_minutes, "setup": list(slurm.setup), "stderr_to_stdout": True,
            "cpus_per_task": slurm.cpus_per_task or self._config.cores,
            "use_srun": False,  # no step around the worker: the code's own srun or mpiexec makes the steps
            "additional_parameters": {"signal": "TERM@30"} | slurm.parameters,  # at submitit's USR2 it would kill the worker
        }  # fmt: skip
        if slurm.partition:
            parameters["partition"] = slurm.partition
        executor = self._submitit.SlurmExecutor(folder=job.folder.resolve() / "slurm", max_num_timeout=0)
        executor.update_parameters(**parameters)
        command = [sys.executable, str(WORKER), str(job.folder.resolve())]
        try:
            return str(executor.submit(self._submitit.helpers.CommandFunction(command, verbose=False)).job_id)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise SubmitError(f"sbatch: {' '.join(str(error).split())[:300]}") from error

    def alive(self, jobs: Sequence[Job]) -> dict[str, str]:
        self._states = self._squeue()
        now, found = time.monotonic(), dict[str, str]()
        for job in jobs:
            number, state = self._states.get(job.name, (job.id, "COMPLETED"))
            if state not in ENDED or _held(job.folder / "lock"):
                self._missing_since.pop(job.name, None)
                found[job.name] = number
            elif now - self._missing_since.setdefault(job.name, now) < self._patience(job):
                found[job.name] = number
        return found

    def _patience(self, job: Job) -> float:
        """Seconds until a job that has left the queue without a result is given up: files travel slowly on a cluster."""
        names = os.listdir(job.folder) if job.folder.is_dir() else []  # makes a network file system look
        return 0.0 if not job.id or "result.json" in names or "error.json" in names else self._config.seconds_between_polls

    def ending(self, job: Job) -> str:
        number, state = self._states.get(job.name, (job.id, ""))
        return f"SLURM job {number or job.id} " + (f"ended as {state}" if state else "left the queue") + " without a result"

    def cancel(self, job: Job) -> None:
        (job.folder / "cancel").touch()
        try:
            subprocess.run(["scancel", "--name", job.name], capture_output=True, timeout=SLURM_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreachable(f"scancel: {error}") from error

    def _squeue(self) -> dict[str, tuple[str, str]]:
        """Name → (id, state) of all our jobs that SLURM remembers; of two with one name, the one that waits or runs."""
        command = ["squeue", "--noheader", "--states=all", "--user", str(os.getuid()), "--format=%j|%i|%T"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_SECONDS, check=True).stdout
        except subprocess.CalledProcessError as error:
            raise Unreachable(f"squeue: {' '.join(error.stderr.split())[:200]}") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreachable(f"squeue: {error}") from error
        jobs: dict[str, tuple[str, str]] = {}
        for line in answer.splitlines():
            name, number, state = line.strip().rsplit("|", 2)
            if name not in jobs or jobs[name][1] in ENDED:
                jobs[name] = (number, state)
        return jobs
