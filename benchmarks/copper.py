"""The system all speeds are measured on, for any interpreter that has ASE: fcc copper under velocity Verlet, one core.

Imported by `calculator_speed.py` and by `deepmd_reference.py`, which runs in DeePMD-kit's own environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

CELLS = {64: (4, 2, 2)} | {4 * n**3: (n, n, n) for n in (3, 5, 6, 7, 10, 14, 20, 29, 40, 63)}


def pin(*cores: int) -> None:
    """These cores; one core is also one thread, with more JAX is free. Call before importing numpy, jax or tensorflow."""
    os.sched_setaffinity(0, set(cores))
    for name in (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS",
    ):  # fmt: skip
        os.environ[name] = "1"
    if len(cores) == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def copper(n_atoms: int) -> Any:
    """fcc Cu, a = 3.615 Å, every coordinate displaced by N(0, 0.05 Å), velocities at 300 K; the same everywhere."""
    import numpy as np
    from ase import units
    from ase.build import bulk

    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True, a=3.615) * CELLS[n_atoms]
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300.0)
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def time_steps(
    atoms: Any, *, steps: int, warm_up: int, after_warm_up: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Velocity Verlet, 1 fs. CPU time (user + system, all threads) per atom and step in µs: mean and median of steps."""
    import numpy as np
    from ase import units
    from ase.md.verlet import VelocityVerlet

    dynamics = VelocityVerlet(atoms, units.fs)
    begin = time.process_time()
    dynamics.run(warm_up)
    after_warm_up()
    marks, wall = [time.process_time()], time.perf_counter()
    for _ in range(steps):
        dynamics.run(1)
        marks.append(time.process_time())
    each = np.diff(marks) / len(atoms) * 1e6
    return {
        "mean": float(each.mean()),
        "median": float(np.median(each)),
        "cpu_share": (marks[-1] - marks[0]) / (time.perf_counter() - wall),
        "warm_up_s": marks[0] - begin,
        "temperature_K": float(atoms.get_temperature()),
    }
