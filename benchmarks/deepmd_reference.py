"""DeePMD-kit's se_e2_a on the same copper. Run by DeePMD-kit's own interpreter.

    python deepmd_reference.py prepare FOLDER                 train 20 steps, freeze, compress -> FOLDER/compressed.pb
    python deepmd_reference.py time FOLDER ATOMS STEPS CORE   through ASE; prints one line of JSON
    python deepmd_reference.py lammps FOLDER ATOMS STEPS CORE [CORE]
                                                              in LAMMPS, an MPI process a core: for `md_speed.py`

The sizes are DeePMD-kit's own (embedding 25-50-100, axis 16, fitting 240-240-240, cutoff 6 Å, float32). Twenty steps of
training give weights of the right size and no accuracy: the time of a step does not depend on their values.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from copper import copper, pin, time_steps  # noqa: E402

INPUT = {
    "model": {
        "type_map": ["Cu"],
        "descriptor": {
            "type": "se_e2_a", "sel": [100], "rcut_smth": 2.0, "rcut": 6.0, "neuron": [25, 50, 100], "axis_neuron": 16,
            "precision": "float32", "seed": 1,
        },
        "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "precision": "float32", "seed": 1},
    },
    "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-4, "decay_steps": 5},
    "loss": {
        "type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1,
        "start_pref_v": 0, "limit_pref_v": 0,
    },
    "training": {
        "training_data": {"systems": ["data"], "batch_size": 1}, "numb_steps": 20, "disp_file": "lcurve.out",
        "disp_freq": 10, "save_freq": 20, "seed": 1,
    },
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Frames labelled by EMT, `dp train`, `dp freeze`, `dp compress`. Nothing to do if it is done."""
    if (folder / "compressed.pb").exists():
        return
    import numpy as np
    from ase.build import bulk
    from ase.calculators.emt import EMT

    rng, rows = np.random.default_rng(0), {"coord": [], "box": [], "energy": [], "force": []}
    for _ in range(4):
        atoms = bulk("Cu", cubic=True, a=3.615) * (4, 4, 4)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        atoms.calc = EMT()
        rows["coord"].append(atoms.positions.ravel())
        rows["box"].append(atoms.cell.array.ravel())
        rows["energy"].append(atoms.get_potential_energy())
        rows["force"].append(atoms.get_forces().ravel())
    data = folder / "data"
    (data / "set.000").mkdir(parents=True, exist_ok=True)
    for name, values in rows.items():
        np.save(data / "set.000" / f"{name}.npy", np.array(values))
    (data / "type.raw").write_text("0\n" * len(atoms))
    (data / "type_map.raw").write_text("Cu\n")
    (folder / "input.json").write_text(json.dumps(INPUT))
    dp = str(Path(sys.executable).with_name("dp"))
    for command in (
        [dp, "--tf", "train", "input.json"],
        [dp, "--tf", "freeze", "-o", "original.pb"],
        [dp, "--tf", "compress", "-i", "original.pb", "-o", "compressed.pb", "-t", "input.json"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def measure(folder: Path, n_atoms: int, steps: int) -> dict[str, object]:
    """CPU time per atom and step through DeePMD-kit's own ASE calculator."""
    from importlib.metadata import version

    from deepmd.calculator import DP

    atoms = copper(n_atoms)
    atoms.calc = DP(model=str(folder / "compressed.pb"))
    tf = next(v for name in ("tensorflow-cpu", "tensorflow") if (v := _version(name)))
    what = f"deepmd-kit {version('deepmd-kit')} (tensorflow {tf}), compressed se_e2_a"
    return {"what": what, "precision": "float32", **time_steps(atoms, steps=steps, warm_up=3)}


LAMMPS = """units metal
atom_style atomic
read_data {data}
mass 1 63.546
pair_style deepmd {model}
pair_coeff * *
neighbor 2.0 bin
neigh_modify every 10 delay 0 check no
timestep 0.001
fix 1 all nve
thermo 1000000
run {warm_up}
run {steps}
"""
LOOP = re.compile(r"Loop time of (\S+) on \d+ procs for (\d+) steps.*?([\d.]+)% CPU use", re.DOTALL)


def in_lammps(folder: Path, n_atoms: int, steps: int, processes: int) -> dict[str, object]:
    """The loop time LAMMPS states for the second of two runs, times its own percentage of CPU use: µs per atom and step."""
    from ase.io import write

    atoms, data, script = copper(n_atoms), folder / f"copper_{n_atoms}.data", folder / f"copper_{n_atoms}.in"
    write(data, atoms, format="lammps-data", velocities=True, units="metal", specorder=["Cu"])
    script.write_text(LAMMPS.format(data=data, model=folder / "compressed.pb", warm_up=min(10, steps), steps=steps))
    here = Path(sys.executable).parent
    command = [str(here / "lmp"), "-in", str(script), "-log", "none"]
    if processes > 1:
        command = [str(here / "mpirun"), "-np", str(processes), *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = LOOP.findall(done.stdout)
    if done.returncode or len(found) != 2:
        raise SystemExit((done.stdout + done.stderr)[-3000:])
    wall, share = float(found[1][0]) / steps / n_atoms * 1e6, float(found[1][2]) / 100.0
    what = f"deepmd-kit {_version('deepmd-kit')} compressed se_e2_a in LAMMPS {_version('lammps')}"
    return {"what": what, "precision": "float32", "cpu": wall * share * processes, "wall": wall, "cpu_share": share * processes}


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    if command == "prepare":
        pin(max(os.sched_getaffinity(0)))
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        prepare(where)
    else:
        n_atoms, steps, *cores = map(int, sys.argv[3:])
        pin(*cores)
        print(json.dumps(measure(where, n_atoms, steps) if command == "time" else in_lammps(where, n_atoms, steps, len(cores))))
