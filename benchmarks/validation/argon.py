"""The substance of all comparisons, solid Lennard-Jones argon, and our runs of it."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from validation.rows import Series

EPSILON, SIGMA, CUTOFF = 0.0103, 3.4, 6.8
TIMESTEP_FS, EVERY = 5.0, 20
TEMPERATURES, PRESSURES_GPA = (60.0, 66.0), (0.05, 0.10)


def steps_of(full: int) -> int:
    """--quick is an environment variable, so that it reaches everything."""
    return max(EVERY * 30, full // 5 // EVERY * EVERY) if os.environ.get("ADATOM_QUICK") else full


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


def run_of(
    thermostat: str, barostat: str | None, copies: int, folder: Path, chosen: dict[str, Any]
) -> tuple[list[Any], list[np.ndarray]]:
    """`copies` crystals side by side: summaries, and velocities (frames, atoms, 3) of each after the first tenth."""
    import ase.io

    from adatom.md import Settings, simulate_many

    given: dict[str, Any] = {
        "thermostat": thermostat, "timestep_fs": TIMESTEP_FS, "thermostat_time_fs": 200.0, "precision": "float64", "skin": 1.0,
        "interval": EVERY,
    }  # fmt: skip
    given |= chosen | ({} if barostat is None else {"ensemble": "npt", "barostat": barostat})
    found = simulate_many(model(), [argon()] * copies, Settings(**given), trajectory=folder / "run.traj")

    def velocities(k: int) -> np.ndarray:
        frames = ase.io.read(folder / f"run-{k}.traj", ":")
        return np.array([x.get_velocities() for x in frames[len(frames) // 10 :]])

    return found, [velocities(k) for k in range(copies)]


@functools.cache
def ours(thermostat: str, barostat: str | None) -> tuple[list[Series], int, np.ndarray]:
    """At T₁, T₂, or at (T₁, p₁), (T₂, p₁), (T₁, p₂), (T₂, p₂): series, N_f, velocities (frames, atoms, 3) of the first."""
    points = [(t, p) for p in PRESSURES_GPA for t in TEMPERATURES][: 2 if barostat is None else 4]
    chosen: dict[str, Any] = {
        "temperature_K": tuple(t for t, _ in points), "steps": steps_of(30_000 if barostat is None else 20_000),
    }  # fmt: skip
    if barostat is not None:
        chosen["pressure_GPa"] = tuple(p for _, p in points)
    with tempfile.TemporaryDirectory() as folder:
        found, velocities = run_of(thermostat, barostat, len(points), Path(folder), chosen)
    return [series(x) for x in found], found[0].degrees_of_freedom, velocities[0]
