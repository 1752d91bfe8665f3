"""Where label jobs run: detached processes on this machine, or jobs of SLURM (`slurm`). What was started outlives the driver."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from typing import Any

from adatom.fitting.active.jobs import WORKER, Executor, Job, SubmitError, held
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.patience import Alive
from adatom.fitting.active.slurm import SlurmExecutor


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

    def alive(self, jobs: Sequence[Job]) -> dict[str, Alive]:
        for child in list(self._children):
            try:
                if os.waitpid(child, os.WNOHANG)[0]:
                    self._children.discard(child)
            except ChildProcessError:
                self._children.discard(child)
        return {job.name: Alive(job.id) for job in jobs if held(job.folder / "lock")}

    def ending(self, job: Job) -> str:
        return "the worker vanished (killed, or the machine went down)"

    def cancel(self, job: Job) -> None:
        (job.folder / "cancel").touch()
