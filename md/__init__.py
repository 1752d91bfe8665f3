"""Molecular dynamics on the device.

    from adatom.md import simulate, simulate_many
    summary = simulate("model.adatom", atoms, ensemble="nvt", temperature_K=300, steps=1000, trajectory="out.extxyz")
"""

from adatom.md.config import Settings
from adatom.md.conservation import Drift, energy_drift
from adatom.md.guards import Guard
from adatom.md.results import Interrupted, MDSummary, SimulationFailed, Stop
from adatom.md.simulate import simulate, simulate_many
from adatom.md.thermo import read_log

__all__ = [
    "Drift", "Guard", "Interrupted", "MDSummary", "Settings", "SimulationFailed", "Stop", "energy_drift", "read_log", "simulate",
    "simulate_many",
]  # fmt: skip
