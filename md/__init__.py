"""Molecular dynamics with any ASE calculator.

    from adatom.md import run
    summary = run(atoms, ensemble="nvt", temperature_K=300, steps=1000, trajectory=Path("out.traj"))
"""

from adatom.md.conservation import Drift, energy_drift
from adatom.md.output import read_log
from adatom.md.simulate import Interrupted, MDSummary, SimulationFailed, run

__all__ = ["Drift", "Interrupted", "MDSummary", "SimulationFailed", "energy_drift", "read_log", "run"]
