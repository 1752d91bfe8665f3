"""Lennard-Jones liquid at state points that NIST has published."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from validation.argon import EPSILON, EVERY, SIGMA, model, pair, series, steps_of
from validation.rows import Row, of_mean, report

NIST = ((0.776, -5.5121, 0.0067714), (0.820, -5.7947, 0.55355), (0.860, -6.0305, 1.2660))
"""ρ*, U*/N, P* at T* = 0.85: LJ, NVT, 500 atoms, with long-range corrections; www.nist.gov/mml/csd (SRSW)."""


def nist(rows: list[Row]) -> None:
    """Our potential is switched off between 3.2 and 4 σ; what is missing is added for g(r) = 1:

    ΔU/N = 2πρ ∫ (u − u_s) r² dr,  ΔP = −(2π/3) ρ² ∫ (u′ − u_s′) r³ dr.
    """
    from ase import Atoms, units
    from ase.build import bulk

    from adatom.md import Settings, simulate_many
    from adatom.md.observables import average

    cutoff, temperature = 4.0 * SIGMA, 0.85 * EPSILON / units.kB
    r = np.linspace(0.8 * cutoff, cutoff, 20_001)
    u, slope = pair(r, cutoff)
    x = (SIGMA / r) ** 6
    missing = np.trapezoid((4 * EPSILON * (x * x - x) - u) * r**2, r)
    missing += 4 * EPSILON * (SIGMA**12 / (9 * cutoff**9) - SIGMA**6 / (3 * cutoff**3))
    pull = np.trapezoid((4 * EPSILON * (6 * x - 12 * x * x) / r - slope) * r**3, r)
    pull += 4 * EPSILON * (6 * SIGMA**6 / (3 * cutoff**3) - 12 * SIGMA**12 / (9 * cutoff**9))
    starts: list[Atoms] = []
    for density, _, _ in NIST:
        starts.append(bulk("Ar", "fcc", a=SIGMA * (4.0 / density) ** (1.0 / 3.0), cubic=True) * (5, 5, 5))
    given: dict[str, Any] = {"timestep_fs": 8.0, "thermostat_time_fs": 800.0, "interval": EVERY, "skin": 1.0}

    def run(points: list[int], precision: Literal["float32", "float64"], production: int) -> None:
        # melt at T* = 2.5, come down, measure: the temperature is no part of the compiled program
        found = [starts[k] for k in points]
        for kelvin, steps in ((2.5 * EPSILON / units.kB, 800), (temperature, 1600), (temperature, production)):
            chosen = Settings(steps=steps_of(steps), temperature_K=kelvin, precision=precision, **given)
            out = simulate_many(model(cutoff), found, chosen)
            found = [s.atoms for s in out]
        for k, summary in zip(points, out, strict=True):
            density, energy, pressure = NIST[k]
            s, rho = series(summary, leave_out=0.0), density / SIGMA**3
            a, b = average(s.potential / (500 * EPSILON)), average(s.pressure * units.GPa * SIGMA**3 / EPSILON)
            shift = 2.0 * np.pi * rho * missing / EPSILON
            push = -2.0 * np.pi / 3.0 * rho**2 * pull * SIGMA**3 / EPSILON
            name = f"T* = 0.85, ρ* = {density:.3f}, {precision}"
            report(rows, of_mean("NIST", f"{name}: U*/N", a.mean + shift, a.error, energy, 0.0, ""))
            report(rows, of_mean("NIST", f"{name}: P*", b.mean + push, b.error, pressure, 0.0, ""))

    run([0, 1, 2], "float64", 8000)
    run([1], "float32", 8000)
