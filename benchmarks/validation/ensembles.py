"""Distributions and orders as `physical_validation` judges them, and equipartition."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from validation.argon import PRESSURES_GPA, TEMPERATURES, TIMESTEP_FS, argon, model, ours, series, steps_of, warmed
from validation.rows import Row, Series, compared, of_mean, report


def ensembles(rows: list[Row]) -> None:
    import physical_validation as pv
    from ase import units
    from physical_validation.data import EnsembleData, ObservableData, SimulationData, SystemData, UnitData

    atoms = argon()
    n = len(atoms)
    # eV, Å, eV/Å³, fs in kJ/mol, nm, bar, ps
    unit = UnitData(
        kb=units.kB, energy_conversion=units.mol / units.kJ, length_conversion=0.1, volume_conversion=1e-3,
        temperature_conversion=1.0, pressure_conversion=1.0 / units.bar, time_conversion=1e-3,
    )  # fmt: skip

    def data(s: Series, freedoms: int, temperature: float, pressure: float | None) -> Any:
        kind = {"ensemble": "NVT", "volume": float(atoms.get_volume())} if pressure is None else {
            "ensemble": "NPT", "pressure": pressure * units.GPa
        }  # fmt: skip
        system = SystemData(
            natoms=n, nconstraints=0, ndof_reduction_tra=3 * n - freedoms, ndof_reduction_rot=0, mass=atoms.get_masses(),
            molecule_idx=np.arange(n), nconstraints_per_molecule=np.zeros(n),
        )  # fmt: skip
        observed = ObservableData(
            kinetic_energy=s.kinetic, potential_energy=s.potential, total_energy=s.kinetic + s.potential, volume=s.volume,
            pressure=s.pressure * units.GPa, constant_of_motion=s.conserved,
        )  # fmt: skip
        return SimulationData(
            units=unit, dt=TIMESTEP_FS, system=system, ensemble=EnsembleData(natoms=n, temperature=temperature, **kind),
            observables=observed,
        )  # fmt: skip

    for thermostat in ("langevin", "bussi", "nose-hoover"):
        for barostat in (None, "isotropic", "flexible"):
            name = f"{thermostat}, {'nvt' if barostat is None else barostat}"
            all_series, freedoms, velocities = ours(thermostat, barostat)
            points = [(t, None if barostat is None else p) for p in PRESSURES_GPA for t in TEMPERATURES]
            first = data(all_series[0], freedoms, *points[0])
            others = [data(s, freedoms, t, p) for s, (t, p) in zip(all_series[1:], points[1:], strict=False)]
            with contextlib.redirect_stdout(io.StringIO()):
                kinetic = pv.kinetic_energy.distribution(first, verbosity=0, bootstrap_seed=1)
            for label, sigmas in zip(("mean of K", "width of K"), kinetic, strict=True):
                report(rows, Row("physical_validation", f"{name}: {label}", sigmas, 0.0, 1.0, sigmas, "σ"))
            if barostat is None:
                ratio(rows, (f"{name}: E at two T",), first, others[0], total_energy=True)
            else:
                ratio(rows, (f"{name}: U + pV at two T",), first, others[0])
            groups = equipartition(velocities, atoms.get_masses(), freedoms / (3.0 * n))
            for label, (mean, error) in groups.items():
                report(rows, of_mean("equipartition", f"{name}: {label}", mean, error, TEMPERATURES[0], 0.0, "K"))
            if barostat is not None:
                ratio(rows, (f"{name}: V at two p",), first, others[1])
                ratio(rows, tuple(f"{name}: {x} at two (T, p)" for x in "UV"), first, others[2])
                for s, (t, p) in zip(all_series, points, strict=True):
                    assert p is not None
                    report(rows, compared("mean pressure", f"{name}: {t:g} K, {p:g} GPa", s.pressure, p, "GPa"))
    _convergence(rows, data)


def ratio(rows: list[Row], names: tuple[str, ...], first: Any, second: Any, *, total_energy: bool = False) -> None:
    """Slopes of the logarithm of the ratio of two distributions against theory; not judged where they hardly overlap."""
    import physical_validation as pv
    from physical_validation.util.error import InputError

    found: list[float | None]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = [float(x) for x in pv.ensemble.check(first, second, total_energy=total_energy, verbosity=0)]
    except InputError as error:
        if "overlap" not in str(error):
            raise
        found = [None] * len(names)
    for name, sigmas in zip(names, found, strict=True):
        report(rows, Row("physical_validation", name, sigmas, 0.0, 1.0, sigmas, "σ"))


def equipartition(velocities: np.ndarray, masses: np.ndarray, share: float) -> dict[str, tuple[float, float]]:
    """Temperatures [K] of the three directions and of two halves of the atoms; `share` of each coordinate is free on average."""
    from ase import units

    from adatom.md.observables import average

    each = masses[None, :, None] * velocities**2 / (units.kB * share)
    parts = {f"direction {'xyz'[c]}": each[:, :, c] for c in range(3)} | {"even atoms": each[:, ::2], "odd atoms": each[:, 1::2]}
    averages = {label: average(part.reshape(len(part), -1).mean(axis=1)) for label, part in parts.items()}
    return {label: (a.mean, a.error) for label, a in averages.items()}


def _convergence(rows: list[Row], data: Any) -> None:
    """Fluctuation of the conserved quantity at dt, dt/2, dt/4 over the same time; physical_validation.integrator.convergence."""
    import physical_validation as pv

    from adatom.md import simulate

    warm = warmed()
    cases: dict[str, dict[str, Any]] = {
        "nve": {"ensemble": "nve"},
        "nose-hoover, nvt": {"ensemble": "nvt"},
        "nose-hoover, isotropic": {"ensemble": "npt"},
        "nose-hoover, flexible": {"ensemble": "npt", "barostat": "flexible"},
    }
    for name, given in cases.items():
        given = given | ({} if name == "nve" else {"temperature_K": 60.0, "thermostat": "nose-hoover"})
        given |= {"pressure_GPa": PRESSURES_GPA[0]} if given["ensemble"] == "npt" else {}
        runs, strays = [], []
        for dt in (16.0, 8.0, 4.0):
            out = simulate(
                model(), warm, steps=int(steps_of(8000) / dt), timestep_fs=dt, interval=int(16.0 / dt), precision="float64",
                skin=1.0, **given,
            )  # fmt: skip
            s = series(out, leave_out=0.0)
            run = data(s, out.degrees_of_freedom, 60.0, None)
            run.dt = dt
            runs.append(run)
            strays.append(s.conserved.std())
        with contextlib.redirect_stdout(io.StringIO()):
            worst = pv.integrator.convergence(runs, verbose=False)
        for k in range(2):
            ratio = strays[k] / strays[k + 1]
            report(rows, Row("order in dt", f"{name}: {(16, 8)[k]} / {(8, 4)[k]} fs", ratio, 4.0, 0.4, (ratio - 4.0) / 0.4))
        report(rows, Row("physical_validation", f"{name}: convergence in dt", worst, 0.0, 0.1, worst / 0.1, "relative"))
