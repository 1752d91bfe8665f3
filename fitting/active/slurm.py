"""Labels as jobs of SLURM, one sbatch each, through submitit. squeue and files tell what becomes of them, no accounting."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from adatom.fitting.active.jobs import WORKER, Job, SubmitError, Unreachable, held
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.patience import Alive

ENDED = frozenset({
    "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"
})  # fmt: skip
SLURM_SECONDS = 60.0  # for an answer of squeue
SBATCH_SECONDS = 300.0  # of sbatch, which tries again by itself


def _within(seconds: float, submit: Callable[[], str]) -> str:
    """The id that `submit` returns; it has no time limit of its own. A job that comes about later is found by its name."""
    outcome: list[str | Exception] = []

    def run() -> None:
        try:
            outcome.append(submit())
        except Exception as error:  # raised below, in the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(f"sbatch does not come back within {seconds:g} s")
    found = outcome[0]
    if isinstance(found, RuntimeError | OSError | subprocess.SubprocessError):
        raise SubmitError(f"sbatch: {' '.join(str(found).split())[:300]}") from found
    if isinstance(found, Exception):
        raise found
    return found


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
        self._states: dict[str, tuple[str, str, str]] = {}
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
        function = self._submitit.helpers.CommandFunction(command, verbose=False)
        return _within(SBATCH_SECONDS, lambda: str(executor.submit(function).job_id))

    def alive(self, jobs: Sequence[Job]) -> dict[str, Alive]:
        self._states = self._squeue()
        now, found = time.monotonic(), dict[str, Alive]()
        for job in jobs:
            number, state, reason = self._states.get(job.name, (job.id, "COMPLETED", ""))
            locked = held(job.folder / "lock")
            if state not in ENDED or locked:
                self._missing_since.pop(job.name, None)
                waiting = f"SLURM job {number} is {state}" + (f" ({reason})" if reason else "")
                found[job.name] = Alive(number, "" if locked or state == "RUNNING" else waiting)
            elif now - self._missing_since.setdefault(job.name, now) < self._patience(job):
                found[job.name] = Alive(number, f"SLURM job {number} has left the queue, its files may be on their way")
        return found

    def _patience(self, job: Job) -> float:
        """Seconds until a job that has left the queue without a result is given up: files travel slowly on a cluster."""
        names = os.listdir(job.folder) if job.folder.is_dir() else []  # makes a network file system look
        return 0.0 if not job.id or "result.json" in names or "error.json" in names else self._config.seconds_between_polls

    def ending(self, job: Job) -> str:
        number, state, _ = self._states.get(job.name, (job.id, "", ""))
        return f"SLURM job {number or job.id} " + (f"ended as {state}" if state else "left the queue") + " without a result"

    def cancel(self, job: Job) -> None:
        (job.folder / "cancel").touch()
        try:
            subprocess.run(["scancel", "--name", job.name], capture_output=True, timeout=SLURM_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreachable(f"scancel: {error}") from error

    def _squeue(self) -> dict[str, tuple[str, str, str]]:
        """Name → (id, state, reason) of all our jobs that SLURM remembers; of two with one name, the one that waits or runs."""
        command = ["squeue", "--noheader", "--states=all", "--user", str(os.getuid()), "--format=%j|%i|%T|%r"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_SECONDS, check=True).stdout
        except subprocess.CalledProcessError as error:
            raise Unreachable(f"squeue: {' '.join(error.stderr.split())[:200]}") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreachable(f"squeue: {error}") from error
        jobs: dict[str, tuple[str, str, str]] = {}
        for line in answer.splitlines():
            name, number, state, reason = line.strip().rsplit("|", 3)
            if name not in jobs or jobs[name][1] in ENDED:
                jobs[name] = (number, state, "" if reason == "None" else reason)
        return jobs
