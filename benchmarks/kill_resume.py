"""Molecular dynamics killed with SIGKILL at random moments and resumed: is it the run that was never killed?

    python benchmarks/kill_resume.py                                      20 kills for each trajectory format
    python benchmarks/kill_resume.py --kills 3 --formats .extxyz          quick
    python benchmarks/kill_resume.py --model MODEL.adatom                 silicon with a potential, instead of Lennard-Jones argon

Two replicas, npt, a frame every 5 steps, a checkpoint at every opportunity; one kill in four comes during start-up. After every
kill all files must be readable. At the end trajectories and tables must equal those of an uninterrupted run: byte by byte
(.csv, .extxyz) or number by number (.traj, .h5).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPLICAS = 2


def child(folder: Path, suffix: str, steps: int, model: str | None) -> None:
    """Begin the run, or go on with it."""
    from ase.build import bulk

    from adatom.md import simulate_many
    from adatom.md.config import Settings
    from adatom.potential.pairwise import LennardJones

    atoms = bulk("Si", cubic=True, a=5.47) if model else bulk("Ar", cubic=True, a=5.4)
    chosen = Settings(
        ensemble="npt", temperature_K=300.0 if model else 40.0, steps=steps, timestep_fs=1.0 if model else 4.0, interval=5,
        checkpoint_s=0.0, seed=7,
    )  # fmt: skip
    potential: Any = model or LennardJones((18,), 0.0103, 3.4, 5.2)
    trajectory = folder / f"run{suffix}"
    resume = (folder / f"run{suffix}.restart").exists()
    simulate_many(
        potential, [atoms.repeat(2)] * REPLICAS, chosen, trajectory=trajectory, log=folder / "run.csv", resume=resume,
        overwrite=not resume, progress=lambda done, _: print(done, flush=True),
    )  # fmt: skip


def start(folder: Path, options: argparse.Namespace, suffix: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", str(folder), suffix, "--steps", str(options.steps)]
    environment = {
        **os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "xla"), "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }  # fmt: skip
    return subprocess.Popen(
        command + (["--model", options.model] if options.model else []), stdout=subprocess.PIPE, text=True, env=environment
    )


def finished(process: subprocess.Popen[str]) -> float:
    """Wait for the end; seconds since the first step."""
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed with code {process.returncode}")
    return time.monotonic() - began


def readable(folder: Path, suffix: str) -> int:
    """Read everything; frames on disk."""
    import zipfile

    from adatom.md import read_log
    from adatom.md.trajectory import read_frames

    frames = 0
    for s in range(REPLICAS):
        trajectory, log = folder / f"run-{s}{suffix}", folder / f"run-{s}.csv"
        if trajectory.exists() and trajectory.stat().st_size:
            frames += len(read_frames(trajectory))
        if log.exists() and log.stat().st_size:
            read_log(log)
    checkpoint = folder / f"run{suffix}.restart"
    if checkpoint.exists() and zipfile.ZipFile(checkpoint).testzip() is not None:
        raise SystemExit(f"{checkpoint} is damaged")
    return frames


def same(a: Path, b: Path, suffix: str) -> bool:
    """Whether two runs left the same."""
    import numpy as np

    from adatom.md.trajectory import read_frames

    for s in range(REPLICAS):
        if (a / f"run-{s}.csv").read_bytes() != (b / f"run-{s}.csv").read_bytes():
            return False
        one, two = a / f"run-{s}{suffix}", b / f"run-{s}{suffix}"
        if suffix == ".extxyz":
            if one.read_bytes() != two.read_bytes():
                return False
            continue
        x, y = read_frames(one), read_frames(two)
        equal = all(
            np.array_equal(p.positions, q.positions) and np.array_equal(p.get_momenta(), q.get_momenta())
            and np.array_equal(p.cell.array, q.cell.array) and np.array_equal(p.get_forces(), q.get_forces())
            for p, q in zip(x, y, strict=False)
        )  # fmt: skip
        if len(x) != len(y) or not equal:
            return False
    return True


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--formats", nargs="+", default=[".extxyz", ".traj", ".h5"])
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "SUFFIX"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(Path(options.child[0]), options.child[1], options.steps, options.model)
        return
    draw = random.Random(options.seed)
    print("| format | kills | before the first checkpoint | frames | equal to the uninterrupted run |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for suffix in options.formats:
        with tempfile.TemporaryDirectory() as temporary:
            whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
            whole.mkdir()
            killed.mkdir()
            length = finished(start(whole, options, suffix))
            early = done = 0
            while done < options.kills:
                process = start(killed, options, suffix)
                assert process.stdout is not None
                if done % 4:
                    process.stdout.readline()
                time.sleep(draw.uniform(0.0, min(4.0 * length / options.kills, 0.5 * length)))
                if process.poll() is not None:  # it came to its end: begin another
                    readable(killed, suffix)
                    for file in killed.iterdir():
                        file.unlink()
                    continue
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                early += not (killed / f"run{suffix}.restart").exists()
                readable(killed, suffix)
            finished(start(killed, options, suffix))
            frames = readable(killed, suffix)
            equal = same(whole, killed, suffix)
        print(f"| {suffix} | {done} | {early} | {frames} | {'yes' if equal else 'NO'} |", flush=True)
        if not equal:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
