"""Is the molecular dynamics right? Every ensemble against theory, published values, and two other programs on the same potential.

    python benchmarks/md_validation.py                        all; half an hour on one core
    python benchmarks/md_validation.py --only nist --only ase
    python benchmarks/md_validation.py --quick                a fifth of the steps, for some rows too few to judge

ensembles  `physical_validation` (Merz, Shirts, PLoS ONE 13, e0202764 (2018)) on 108 atoms of solid argon: distributions of
           kinetic energies, ratios of distributions at two temperatures and pressures, order in the timestep; and equipartition.
nist       500 Lennard-Jones atoms at state points of NIST's Standard Reference Simulation Website (Monte Carlo).
ase        means and variances against ASE's Langevin, Bussi and IsotropicMTKNPT.
lammps     100 steps of NVE with LAMMPS beside, and means and variances against its fix nvt and fix npt. The potential is a table.

Errors are one standard error (`adatom.md.observables.average`); the last column is the difference in those. Of n rows about n/20
are beyond 2, and none should be beyond 4.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

RESULTS = HERE / "results" / "md_validation.json"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["ensembles", "nist", "ase", "lammps"])
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps; nothing is written")
    parser.add_argument("--lammps-env", type=Path, default=Path.home() / ".cache" / "adatom" / "lammps-env")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    pin(options.core)
    if options.quick:
        os.environ["ADATOM_QUICK"] = "1"
    from validation.against_ase import against_ase
    from validation.against_lammps import against_lammps
    from validation.ensembles import ensembles
    from validation.rows import Row, verdict
    from validation.state_points import nist

    print(f"{date.today()}; device: {cpu_name()}, core {options.core} of {os.cpu_count()}; commit {commit()}\n")
    print("| check | what | measured | expected | error | unit | σ |\n|---|---|---|---|---|---|---|", flush=True)
    chosen = options.only or ["ensembles", "nist", "ase", "lammps"]
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in chosen:
        rows: list[Row] = []
        begin = time.process_time()
        if name == "lammps":
            against_lammps(rows, options.lammps_env)
        else:
            {"ensembles": ensembles, "nist": nist, "ase": against_ase}[name](rows)
        minutes = (time.process_time() - begin) / 60.0
        print(f"\n{verdict(name, rows)}; {minutes:.1f} CPU minutes\n")
        if not options.quick:
            header = {"date": str(date.today()), "commit": commit(), "device": cpu_name(), "cpu_minutes": round(minutes, 1)}
            saved[name] = header | {"rows": [x._asdict() for x in rows]}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
