"""Molecular dynamics on the device.

    from adatom.md import simulate
    summary = simulate("model.adatom", atoms, ensemble="nvt", temperature_K=300, steps=1000, trajectory="out.extxyz")
"""

from adatom.md.conservation import Drift, energy_drift
from adatom.md.guards import Guard
from adatom.md.simulate import Interrupted, MDSummary, SimulationFailed, Stop, simulate
from adatom.md.thermo import read_log

__all__ = [
    "Drift", "Guard", "Interrupted", "MDSummary", "SimulationFailed", "Stop", "energy_drift", "read_log", "simulate",
]  # fmt: skip
