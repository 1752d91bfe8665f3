"""One label, in a process of its own: `PYTHON label_worker.py JOBDIR`. Needs numpy and ase, and no part of adatom.

JOBDIR holds job.json and structure.extxyz. What comes out is exactly one of

    result.json   energy, free_energy (where the code has one), forces, stress, converged, seconds, code
    error.json    {"kind": raised | died | timeout | cancelled | stopped, "reason": one line, "seconds"}

written beside, synced and renamed, so that either is whole or not there. The code's output is in stdout.txt and stderr.txt,
its files in calculation/.

The process started first only supervises; the calculation runs in a second one, in a process group of its own, so that a
crash, a time limit, a file named `cancel` in JOBDIR, or a signal of the batch system become a reason. Both hold an flock on
JOBDIR/lock for as long as they live: that the lock is free means that nobody computes, with no process number trusted, and
a second worker on the same folder leaves at once. A driver that already holds the lock passes it on: `... JOBDIR FD`.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DROPS_UNKNOWN = ("ase.calculators.emt", "ase.calculators.lj", "ase.calculators.morse")  # keyword arguments, without a word
SUPERVISOR_DEAD_SECONDS = 60  # a calculation whose supervisor was killed ends itself this long after the time limit


class _Stopped(BaseException):
    """A signal asks the supervisor to stop."""


def main(arguments: list[str]) -> int:
    """Compute the job, or leave it alone where it is being computed or has been; returns the exit code."""
    if len(arguments) not in (1, 2):
        print("usage: label_worker.py JOBDIR [FD of a lock that is held]", file=sys.stderr)
        return 2
    if arguments[0] == "compute":
        return _compute(Path(arguments[1]))
    folder = Path(arguments[0]).resolve()
    lock = int(arguments[1]) if len(arguments) > 1 else os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    for attempt in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # another worker, or a driver that looks: the latter lets go at once
            if attempt == 19:
                return 0
            time.sleep(0.1)
    if (folder / "result.json").exists() or (folder / "error.json").exists():
        return 0
    return _supervise(folder, lock)


def _supervise(folder: Path, lock: int) -> int:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    limit = 60.0 * job["timeout_minutes"]
    (folder / "calculation").mkdir(exist_ok=True)
    environment = {**os.environ, **dict.fromkeys(THREADS, str(job["cores"] if not job["launcher"] else 1)), **job["environment"]}
    python = [] if job["launcher"][-1:] == ["python"] else [job["python"]]
    command = [*job["launcher"], *python, str(Path(__file__).resolve()), "compute", str(folder)]

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(signal.Signals(number).name)

    started = time.monotonic()
    child = None
    try:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, stop)
        with open(folder / "stdout.txt", "ab") as out, open(folder / "stderr.txt", "ab") as err:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),
            )
        kind, reason = "", ""
        while child.poll() is None:
            if time.monotonic() - started > limit:
                kind, reason = "timeout", f"ran longer than timeout_minutes = {job['timeout_minutes']:g}"
            elif (folder / "cancel").exists():
                kind, reason = "cancelled", "cancelled"
            if kind:
                break
            try:
                child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        if not kind:
            kind, reason = "died", _ending(child.returncode, folder)
    except _Stopped as name:
        kind, reason = "stopped", f"stopped by {name}: cancelled, or the time limit of the batch system"
    except OSError as error:
        kind, reason = "raised", f"cannot start {command[0]}: {_one_line(error)}"
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if child is not None:
        _kill(child)
    if (folder / "result.json").exists():
        return 0
    if not (folder / "error.json").exists():
        _write(folder / "error.json", {"kind": kind, "reason": reason, "seconds": time.monotonic() - started})
    return 1


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the calculation and all it started: its group is named by a child that has not been waited for, or was just."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=3.0)
    except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        pass
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _ending(code: int, folder: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        text = f"died of {name}" + (" (out of memory, or killed by somebody)" if name == "SIGKILL" else "")
    else:
        text = f"ended with exit code {code} and no result"
    lines = [x for x in (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    return f"{text}; its last words: {_one_line(lines[-1])}" if lines else text


def _compute(folder: Path) -> int:
    """The calculation: one energy, forces, stress; any exception is written to error.json."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    signal.alarm(int(60.0 * job["timeout_minutes"]) + SUPERVISOR_DEAD_SECONDS)
    first = int(next((os.environ[x] for x in RANKS if x in os.environ), "0")) == 0 or not job["launcher"]
    started = time.monotonic()
    try:
        os.chdir(folder / "calculation")
        from ase.io import read

        atoms = read(folder / "structure.extxyz")
        result = _evaluate(atoms, _calculator(job), stress=job["stress"])
    except BaseException as error:
        traceback.print_exc()
        reason = str(error) if isinstance(error, _Plain) else f"{type(error).__name__}: {error}"
        content = {"kind": "raised", "reason": _one_line(reason), "seconds": time.monotonic() - started}
        _write(folder / "error.json", content)
        return 1
    if first:
        result |= {"hash": job["hash"], "attempt": job["attempt"], "seconds": time.monotonic() - started}
        _write(folder / "result.json", result)
    return 0


class _Plain(Exception):
    """An error whose message says all."""


def _calculator(job: dict[str, Any]) -> Any:
    module_name, _, class_name = job["calculator"].partition(":")
    sys.path.append(job["root"])
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise _Plain(f"cannot import {module_name} with {sys.executable}: {type(error).__name__}: {error}") from error
    factory = getattr(module, class_name, None)
    if factory is None:
        raise _Plain(f"{module_name} has no {class_name}, in {sys.executable}")
    arguments = dict(job["arguments"])
    profile = getattr(module, f"{class_name}Profile", None)
    known = getattr(factory, "default_parameters", {})
    unknown = [k for k in arguments if k not in known] if module_name in DROPS_UNKNOWN else []
    if unknown:
        guess = difflib.get_close_matches(unknown[0], known, n=1)
        raise _Plain(
            f"{class_name} has no argument '{unknown[0]}'"
            + (f": did you mean '{guess[0]}'?" if guess else f": it has {', '.join(known)}")
        )
    try:
        if profile is not None and isinstance(arguments.get("profile"), dict):
            arguments["profile"] = profile(**arguments["profile"])
        return factory(**arguments)
    except Exception as error:
        raise _Plain(f"{class_name} does not start with these arguments: {type(error).__name__}: {error}") from error


def _evaluate(atoms: Any, calculator: Any, *, stress: bool) -> dict[str, Any]:
    """All properties in one call, so that codes that write input files run once."""
    import ase
    import numpy as np
    from ase.calculators.calculator import all_changes

    stress = stress and bool(atoms.pbc.all())
    wanted = ["energy", "forces"] + (["stress"] if stress else [])
    calculator.calculate(atoms, wanted, list(all_changes))
    found = dict(calculator.results)
    for name in wanted:
        if found.get(name) is None:
            hint = ": set stress = false in [label]" if name == "stress" else ""
            raise _Plain(f"{type(calculator).__name__} gives no {name}{hint}")
    converged = found.get("converged", getattr(calculator, "converged", None))
    free_energy = found.get("free_energy")
    module = sys.modules[type(calculator).__module__.partition(".")[0]]
    codes = {"ase": ase.__version__, module.__name__: str(getattr(module, "__version__", getattr(calculator, "version", "?")))}
    return {
        "energy": float(found["energy"]),
        "free_energy": None if free_energy is None else float(free_energy),
        "forces": np.asarray(found["forces"], dtype=float).reshape(-1, 3).tolist(),
        "stress": _matrix(np.asarray(found["stress"], dtype=float)) if stress else None,
        "converged": bool(converged) if isinstance(converged, bool | np.bool_) else None,
        "code": ", ".join(f"{k} {v}" for k, v in sorted(codes.items(), key=lambda x: x[0] == "ase")),
    }


def _matrix(stress: Any) -> list[list[float]]:
    if stress.shape == (3, 3):
        return stress.tolist()
    xx, yy, zz, yz, xz, xy = (float(x) for x in stress)
    return [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 400 else f"{line[:397]}..."


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write beside, fsync, rename."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8") as f:
        json.dump(content, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
