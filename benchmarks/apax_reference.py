"""apax's own molecular dynamics on the same copper. Run by apax's own interpreter; `md_speed.py` does that.

    python apax_reference.py prepare FOLDER                 train one epoch on EMT-labelled frames -> FOLDER/models
    python apax_reference.py time FOLDER ATOMS STEPS CORE   prints one line of JSON

The model is apax's default GMNN with a cutoff of 6 Å; one epoch gives weights of the right size and no accuracy. Timed is the
function behind `apax md`, NVE, skin 0.5 Å, with the trajectory switched off as far as it can be (apax calls the host at every
step in any case). The clock is read in that call: the steps of the first compiled block are warm-up and not counted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from copper import copper, pin  # noqa: E402

MODEL = {"name": "gmnn", "basis": {"name": "bessel", "n_basis": 16, "r_max": 6.0}}
INNER = 5
"""Steps of a compiled block."""


def train_config(folder: Path) -> dict[str, object]:
    """The minimal template, with few frames."""
    data = {"directory": str(folder / "models"), "experiment": "apax", "data_path": str(folder / "frames.extxyz")}
    return {
        "n_epochs": 1, "data": {**data, "n_train": 4, "n_valid": 2, "batch_size": 1, "valid_batch_size": 1}, "model": MODEL,
        "loss": [{"name": "energy"}, {"name": "forces", "weight": 4.0}],
        "metrics": [{"name": "energy", "reductions": ["mae"]}],
    }  # fmt: skip


def prepare(folder: Path) -> None:
    """Frames labelled by EMT, `apax train`. Nothing to do if it is done."""
    if (folder / "done").exists():
        return
    import numpy as np
    import yaml
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    rng, frames = np.random.default_rng(0), []
    for _ in range(6):
        atoms = bulk("Cu", cubic=True, a=3.615) * (4, 4, 4)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        frames.append(atoms)
    write(folder / "frames.extxyz", frames)
    (folder / "train.yaml").write_text(yaml.safe_dump(train_config(folder)))
    from apax.train.run import run

    run(str(folder / "train.yaml"), log_level="error")
    (folder / "done").touch()


def measure(folder: Path, n_atoms: int, steps: int) -> dict[str, object]:
    """CPU time (user + system, all threads) per atom and step in µs; wall time likewise."""
    from importlib.metadata import version

    import yaml
    from apax.md import run_md
    from apax.md.io import H5TrajHandler
    from ase.io import write

    marks: list[tuple[float, float]] = []

    class Clock(H5TrajHandler):
        def step(self, state, transform=None):  # type: ignore[no-untyped-def]
            marks.append((time.process_time(), time.perf_counter()))
            super().step(state, transform)

    import apax.md.simulate as module

    module.H5TrajHandler = Clock
    run_folder = folder / f"md_{n_atoms}"
    shutil.rmtree(run_folder, ignore_errors=True)
    atoms = copper(n_atoms)
    write(folder / "start.extxyz", atoms)
    steps = INNER * -(-steps // INNER) + INNER
    config = {
        "ensemble": {"name": "nve", "dt": 1.0, "temperature_schedule": {"name": "constant", "T0": 300.0}},
        "duration": float(steps), "n_inner": INNER, "sampling_rate": 1_000_000, "sim_dir": str(run_folder),
        "initial_structure": str(folder / "start.extxyz"), "load_momenta": False, "restart": False, "disable_pbar": True,
    }  # fmt: skip
    (folder / "md.yaml").write_text(yaml.safe_dump(config))
    run_md(str(folder / "train.yaml"), str(folder / "md.yaml"), log_level="error")
    (cpu, wall), (last_cpu, last_wall) = marks[INNER], marks[-1]
    each = 1e6 / n_atoms / (len(marks) - 1 - INNER)
    used, passed = last_cpu - cpu, last_wall - wall
    what = f"apax {version('apax')} GMNN, its own MD (jax {version('jax')})"
    return {"what": what, "precision": "float32", "cpu": each * used, "wall": each * passed, "cpu_share": used / passed}


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    if command == "prepare":
        pin(max(os.sched_getaffinity(0)))
        prepare(where)
    else:
        n_atoms, steps, core = map(int, sys.argv[3:])
        pin(core)
        print(json.dumps(measure(where, n_atoms, steps)))
