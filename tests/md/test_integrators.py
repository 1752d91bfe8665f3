"""The integrators against theory: other integrators, time reversal, order in dt, and the distributions each ensemble must have.

Two drivers. `simulate` is what users run. `Rig` runs the same equations of motion (`move`, `finish`, `sample` of the engine) for
many small replicas without neighbour lists, on forces that are none, harmonic, or all pairs by minimum image: closed forms are
exact for these, and enough samples are had in seconds. `test_simulate_is_the_rig` ties the two together.

Statistics: every replica gives one number, the error is that of their mean, and 4.5 of it are allowed. Seeds are fixed. `precise`
bounds the error itself, so that a test cannot pass by being vague.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixCartesian, FixCom
from ase.md.verlet import VelocityVerlet
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import solve_ivp
from scipy.stats import gamma, kstest, norm

from adatom.md import engine, simulate
from adatom.md.barostats import cell_components, cell_mass
from adatom.md.config import Settings
from adatom.md.field import make_field
from adatom.md.neighbours import Plan
from adatom.md.output import Paths
from adatom.md.prepare import Prepared
from adatom.md.run import Run
from adatom.md.state import State
from adatom.md.velocities import motion
from adatom.potential.pairwise import LennardJones

ARGON = LennardJones((18,), 0.0103, 3.4, 4.9)
SIGMAS = 4.5


# --- the rig --------------------------------------------------------------------------------------------------------------------


def nothing(positions: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The ideal gas: energy (s,), forces (s, n, 3), virial (s, 3, 3)."""
    return jnp.zeros(len(cell)), jnp.zeros_like(positions), jnp.zeros_like(cell)


def harmonic(positions: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """½ k r² for every atom, k = 1 eV/Å²."""
    return 0.5 * (positions**2).sum(axis=(1, 2)), -positions, jnp.zeros_like(cell)


def shear(positions: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An ideal gas in an elastic box: c tr(hᵀh)/V^⅔, c = 0.05 eV, resists changes of shape, none of volume."""
    v = jnp.abs(jnp.linalg.det(cell))[:, None, None] ** (2.0 / 3.0)
    metric = jnp.einsum("sec,sed->scd", cell, cell) / v
    size = jnp.trace(metric, axis1=1, axis2=2)
    return 0.05 * size, jnp.zeros_like(positions), 0.1 * (metric - size[:, None, None] / 3.0 * jnp.eye(3)[None])


def pairs(positions: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ARGON by minimum image, d(i→j) = r_j − r_i + S h. dE/dd: no derivative of the engine's."""
    n = positions.shape[1]
    x = jnp.einsum("sic,scd->dsi", positions, jnp.linalg.inv(cell))
    x = x[:, :, None, :] - x[:, :, :, None]
    x = x - jnp.round(x)
    d = jnp.stack([sum(x[k] * cell[:, k, c][:, None, None] for k in range(3)) for c in range(3)])
    d = d + 100.0 * jnp.eye(n)[None, None]
    energies, pull = jax.vjp(lambda v: ARGON.atomic_energies(None, v, (n,), (n,)), d.reshape(3, -1, n))
    (g,) = pull(jnp.ones_like(energies))
    g = g.reshape(d.shape)
    virial = jnp.stack([jnp.stack([(g[a] * d[b]).sum(axis=(1, 2)) for b in range(3)], axis=-1) for a in range(3)], axis=-2)
    return energies.reshape(-1, n).sum(axis=1), 2.0 * g.sum(axis=3).transpose(1, 2, 0), virial


class Table(NamedTuple):
    """t rows of s replicas: engine.Sample (t, s), state (t, …); its positions, velocities and forces (t, s, n, 3)."""

    sample: engine.Sample
    state: State
    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray


@partial(jax.jit, static_argnames=("force",))
def felt(force: Any, system: Any, state: State) -> State:
    """Forces, energy and virial where the atoms are."""
    s, n = system.n_structures, system.largest
    energy, forces, virial = force(state.positions[: s * n].reshape(s, n, 3), state.cell)
    forces = jnp.zeros_like(state.positions).at[: s * n].set(forces.reshape(-1, 3))
    return replace(state, energy=energy, forces=forces, virial=virial)


# half the time to compile, as fast to run
@partial(jax.jit, static_argnames=("setup", "force", "rows"), compiler_options={"xla_backend_optimization_level": 1})
def drive(setup: Any, force: Any, system: Any, conditions: Any, state: State, every: int, rows: int) -> tuple[State, Table]:
    """`rows` times `every` steps."""
    s, n = system.n_structures, system.largest

    def step(_: Any, state: State) -> State:
        there = felt(force, system, engine.move(setup, system, conditions, state))
        return replace(engine.finish(setup, system, conditions, there), step=state.step + 1)

    def row(state: State, _: None) -> tuple[State, Table]:
        state = jax.lax.fori_loop(0, every, step, state)
        sample = engine.sample(setup, system, conditions, state)
        atoms = (x[: s * n].reshape(s, n, 3) for x in (state.positions, state.velocities, state.forces))
        return state, Table(sample, state, *atoms)

    return jax.lax.scan(row, state, None, length=rows)


class Rig:
    """Replicas of `atoms` under settings; `state` is where they are. Every bookkeeping is `simulate`'s own."""

    def __init__(self, force: Any, atoms: ase.Atoms | list[ase.Atoms], *, replicas: int = 1, **given: Any) -> None:
        structures = atoms if isinstance(atoms, list) else [atoms] * replicas
        chosen = Settings(**({"precision": "float64", "steps": 1, "ensemble": "nvt"} | given))
        prepared = [Prepared.of(x, s, len(structures), chosen) for s, x in enumerate(structures)]
        run = Run(make_field(ARGON, precision="float64"), prepared, chosen, [Paths(None, None)] * len(prepared), None, ())
        self.force, self.system, self.conditions, self.rows = force, run.system, run.conditions, run.packed.rows
        self.setup = run.setup._replace(plan=Plan((1, 1, 1), (0, 0, 0), 1, ()), guards=())
        velocities = jnp.asarray(run.packed.spread([x.motion.velocities for x in prepared]))
        positions, cell = jnp.asarray(run.packed.positions), jnp.asarray(run.packed.cell)
        state = replace(engine.begin(self.system, None, positions, velocities, cell).state, step=jnp.zeros((), dtype=jnp.int32))
        self.state = felt(force, self.system, state)
        self.freedoms = np.asarray(self.conditions.freedoms)

    def run(self, rows: int, every: int = 1) -> Table:
        self.state, table = drive(self.setup, self.force, self.system, self.conditions, self.state, every, rows)
        assert np.isfinite(np.asarray(table.sample.potential)).all()
        return jax.tree.map(np.asarray, table)


def gas(n: int, *, length: float = 30.0, masses: np.ndarray | None = None, pbc: bool = True) -> ase.Atoms:
    atoms = ase.Atoms(np.full(n, 18), np.random.default_rng(n).uniform(0.0, length, (n, 3)), cell=[length] * 3, pbc=pbc)
    if masses is not None:
        atoms.set_masses(masses)
    return atoms


def solid(a: float = 5.31) -> ase.Atoms:
    """32 atoms of fcc argon."""
    return bulk("Ar", "fcc", a=a, cubic=True) * (2, 2, 2)


def agrees(per_replica: np.ndarray, expected: float, *, precise: float) -> None:
    """The mean over replicas (s,) is the expected one within 4.5 standard errors, and these are below `precise`."""
    x = np.asarray(per_replica, dtype=float)
    error = x.std(ddof=1) / np.sqrt(len(x))
    found = f"{x.mean():.6g} ± {error:.2g}, expected {expected:.6g}, {(x.mean() - expected) / error:+.1f} σ"
    print(found)
    assert error <= precise, f"{found}: not precise enough to test anything"
    assert abs(x.mean() - expected) < SIGMAS * error, found


def log_ratio_slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Maximum-likelihood b of ln[p_y(e)/p_x(e)] = a + b e from samples (t, s) of both, and its jackknife error over replicas.

    The estimator of physical_validation: Shirts, J. Chem. Theory Comput. 9, 909 (2013), eq. 7.
    """
    middle, width = np.concatenate([x, y]).mean(), np.concatenate([x, y]).std()
    x, y = (x - middle) / width, (y - middle) / width

    def fit(x: np.ndarray, y: np.ndarray) -> float:
        e, label = np.concatenate([x.ravel(), y.ravel()]), np.repeat([0.0, 1.0], [x.size, y.size])
        design, c = np.stack([np.ones_like(e), e], axis=1), np.zeros(2)
        for _ in range(12):
            p = 1.0 / (1.0 + np.exp(-design @ c))
            c = c + np.linalg.solve((design * (p * (1.0 - p))[:, None]).T @ design, design.T @ (label - p))
        return c[1] / width

    blocks = np.array_split(np.arange(x.shape[1]), 12)
    left = np.array([fit(np.delete(x, b, axis=1), np.delete(y, b, axis=1)) for b in blocks])
    k = len(blocks)
    return fit(x, y), float(np.sqrt((k - 1) / k * ((left - left.mean()) ** 2).sum()))


def boltzmann(x: np.ndarray, y: np.ndarray, expected: float, *, precise: float) -> None:
    """The ratio of two distributions is exp(expected · e)."""
    slope, error = log_ratio_slope(x, y)
    found = f"slope {slope / expected:.3f} ± {error / abs(expected):.3f} of the expected one"
    print(found)
    assert error < precise * abs(expected), f"{found}: not precise enough to test anything"
    assert abs(slope - expected) < SIGMAS * error, found


# --- simulate -------------------------------------------------------------------------------------------------------------------


class ByHand(Calculator):
    """ARGON in NumPy, derivative of the switch and all, over the 27 nearest images."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ np.array(self.atoms.cell)
        wrapped = self.atoms.get_positions(wrap=True)
        d = wrapped[None, :, None] - wrapped[:, None, None] + images
        r = np.linalg.norm(d, axis=-1)
        r[r == 0.0] = np.inf
        inner, width = 0.8 * ARGON.cutoff, 0.2 * ARGON.cutoff
        u = np.clip((r - inner) / width, 0.0, 1.0)
        switch, slope = 1.0 - u**3 * (10.0 - 15.0 * u + 6.0 * u * u), -30.0 * u**2 * (1.0 - u) ** 2 / width
        x = (ARGON.sigma / r) ** 6
        pair, pull = 4.0 * ARGON.epsilon * (x * x - x), 4.0 * ARGON.epsilon * (6.0 * x - 12.0 * x * x) / r
        self.results["energy"] = 0.5 * (pair * switch).sum()
        with np.errstate(invalid="ignore"):
            unit = np.where(np.isfinite(r)[..., None], d / r[..., None], 0.0)
        self.results["forces"] = ((pull * switch + pair * slope)[..., None] * unit).sum(axis=(1, 2))


def hot_crystal(seed: int = 0) -> ase.Atoms:
    """Skewed, rattled, moving as a whole, at some 200 K."""
    rng = np.random.default_rng(seed)
    atoms = solid()
    atoms.set_cell(np.array(atoms.cell) @ (np.eye(3) + rng.normal(0.0, 0.01, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0.0, 0.1, (32, 3))
    atoms.set_velocities(rng.normal(0.02, 0.03, (32, 3)))
    return atoms


@contextmanager
def quick_to_compile() -> Iterator[None]:
    """Compiling is most of the work of a short run."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def nve(atoms: ase.Atoms, steps: int, *, timestep_fs: float = 4.0, **given: Any) -> Any:
    with quick_to_compile():
        return simulate(ARGON, atoms, ensemble="nve", steps=steps, timestep_fs=timestep_fs, precision="float64", **given)


def test_nve_is_the_velocity_verlet_of_ase():
    start, reference = hot_crystal(), hot_crystal()
    out = nve(start, 50)
    reference.calc = ByHand()
    dynamics = VelocityVerlet(reference, 4.0 * units.fs)
    energies = [reference.get_total_energy()]
    for _ in range(5):
        dynamics.run(10)
        energies.append(reference.get_total_energy())
    assert np.abs(reference.positions - start.positions).max() > 0.5
    assert_allclose(out.atoms.positions, reference.positions, rtol=0.0, atol=1e-10)
    assert_allclose(out.atoms.get_velocities(), reference.get_velocities(), rtol=0.0, atol=1e-11)
    assert_allclose([row.total_eV for row in out.rows], energies, rtol=0.0, atol=1e-11)


def test_nve_runs_backwards():
    """There and, with velocities negated, back: 100 steps each, several lists."""
    start = hot_crystal(1)
    there = nve(start, 100)
    assert there.rows[-1].rebuilds > 2
    middle = there.atoms.copy()
    middle.set_velocities(-there.atoms.get_velocities())
    back = nve(middle, 100).atoms
    assert np.abs(middle.positions - start.positions).max() > 1.0
    assert_allclose(back.positions, start.positions, rtol=0.0, atol=1e-9)
    assert_allclose(-back.get_velocities(), start.get_velocities(), rtol=0.0, atol=1e-10)


def test_images_change_nothing():
    """Atoms moved by lattice vectors: the same to rounding. (Lists of other lengths, and none: `test_simulate_is_the_rig`.)"""
    start = hot_crystal()
    moved, away = start.copy(), np.random.default_rng(0).integers(-3, 4, (32, 3)) @ np.array(start.cell)
    moved.positions += away
    found, usual = nve(moved, 100).atoms, nve(start, 100).atoms
    assert_allclose(found.positions - away, usual.positions, rtol=0.0, atol=1e-9)
    assert_allclose(found.get_velocities(), usual.get_velocities(), rtol=0.0, atol=1e-10)


def test_simulate_is_the_rig():
    """40 steps of the program, with its lists, equal 40 of the rig: what holds for the rig below holds for `simulate`."""
    given = {
        "ensemble": "npt", "thermostat": "nose-hoover", "barostat": "flexible", "timestep_fs": 4.0, "temperature_K": 80.0,
        "pressure_GPa": 0.3, "barostat_time_fs": 200.0,
    }  # fmt: skip
    start = hot_crystal(3)
    start.set_velocities(start.get_velocities() - start.get_velocities().mean(axis=0))
    with quick_to_compile():
        out = simulate(ARGON, start, precision="float64", steps=40, skin=0.8, **given)
    rig = Rig(pairs, start, **given)
    table, rows = rig.run(4, 10), rig.rows[0]
    assert_allclose(out.atoms.positions, rig.state.positions[rows], rtol=0.0, atol=1e-9)
    assert_allclose(out.atoms.get_velocities(), rig.state.velocities[rows], rtol=0.0, atol=1e-10)
    assert_allclose(np.array(out.atoms.cell), rig.state.cell[0], rtol=0.0, atol=1e-10)
    for column, key in (("conserved_eV", "conserved"), ("pressure_GPa", "pressure"), ("potential_eV", "potential")):
        assert_allclose([getattr(r, column) for r in out.rows[1:]], getattr(table.sample, key)[:, 0], rtol=0.0, atol=1e-9)
    assert np.abs(np.linalg.solve(np.array(start.cell), np.array(out.atoms.cell)) - np.eye(3)).min() > 1e-5
    assert out.rows[-1].rebuilds > 1


# --- thermostats ----------------------------------------------------------------------------------------------------------------


def test_langevin_velocities_of_free_atoms():
    """Of every mass and direction normal with variance kT/m, forgotten as exp(−t/τ), at any timestep; 3N degrees of freedom.

    The second half of the replicas holds the centre of mass: 3N − 3.
    """
    masses = np.array([1.0, 4.0, 40.0, 200.0])
    free, held = gas(4, masses=masses), gas(4, masses=masses)
    held.set_constraint(FixCom())
    rig = Rig(nothing, [free] * 500 + [held] * 500, temperature_K=300.0, timestep_fs=20.0, thermostat_time_fs=50.0)
    assert_array_equal(rig.freedoms, np.repeat([12.0, 9.0], 500))
    rig.state = replace(rig.state, velocities=2.0 * rig.state.velocities)
    rig.run(40)
    t = rig.run(40)
    weights = masses[np.argsort(rig.rows[0])]
    kT = units.kB * 300.0
    x = t.velocities[:, :500] * np.sqrt(weights / kT)[:, None]
    for atom in range(4):
        agrees((x[:, :, atom] ** 2).mean(axis=(0, 2)), 1.0, precise=0.012)
    for c in range(3):
        agrees((x[:, :, :, c] ** 2).mean(axis=(0, 2)), 1.0, precise=0.012)
    assert kstest(x[-1].ravel(), norm.cdf).pvalue > 1e-4
    for lag in (1, 2, 4):
        agrees((x[lag:] * x[:-lag]).mean(axis=(0, 2, 3)), np.exp(-lag * 20.0 / 50.0), precise=0.007)
    momentum = (t.velocities * weights[:, None]).sum(axis=2)
    agrees((momentum[:, :500] ** 2).mean(axis=(0, 2)) / kT, weights.sum(), precise=0.025 * weights.sum())
    assert_allclose(momentum[:, 500:], 0.0, atol=1e-11)
    k = t.sample.kinetic[:, 500:] / kT
    agrees(k.mean(axis=0), 4.5, precise=0.03)
    agrees(((k - 4.5) ** 2).mean(axis=0), 4.5, precise=0.1)


def test_bussi_kinetic_energy_of_free_atoms():
    """K/kT ~ Γ(N_f/2) from any start; its fluctuations are forgotten as exp(−t/τ); directions of velocities stay."""
    rig = Rig(nothing, gas(3), replicas=1000, temperature_K=300.0, timestep_fs=20.0, thermostat="bussi", thermostat_time_fs=50.0)
    assert_array_equal(rig.freedoms, 6.0)
    rig.state = replace(rig.state, velocities=2.0 * rig.state.velocities)
    rig.run(60)
    t = rig.run(60)
    x = t.sample.kinetic / (units.kB * 300.0)
    agrees(x.mean(axis=0), 3.0, precise=0.02)
    agrees(((x - 3.0) ** 2).mean(axis=0), 3.0, precise=0.06)
    assert kstest(x[-1], gamma(3.0).cdf).pvalue > 1e-4
    for lag in (1, 2, 4):
        agrees(((x[lag:] - 3.0) * (x[:-lag] - 3.0)).mean(axis=0), 3.0 * np.exp(-lag * 20.0 / 50.0), precise=0.06)
    directions = t.velocities / np.linalg.norm(t.velocities, axis=-1, keepdims=True)
    assert_allclose(np.abs((directions[0] * directions[-1]).sum(axis=-1)), 1.0, rtol=1e-10)


def test_langevin_of_harmonic_oscillators_is_exact_at_long_timesteps():
    """BAOAB at ω dt = 1.2: ⟨U⟩ = kT/2 per coordinate exactly, ⟨K⟩ = kT/2 (1 − (ω dt)²/4). Leimkuhler, Matthews (2013)."""
    dt, kT = 1.2 * np.sqrt(39.948) / units.fs, units.kB * 300.0
    rig = Rig(harmonic, gas(4, pbc=False), replicas=400, temperature_K=300.0, timestep_fs=dt, thermostat_time_fs=3.0 * dt)
    rig.state = replace(rig.state, positions=0.0 * rig.state.positions, forces=0.0 * rig.state.forces)
    rig.run(100)
    t = rig.run(100, 3)
    u = t.sample.potential / kT
    agrees(u.mean(axis=0), 6.0, precise=0.02)
    agrees(((u - 6.0) ** 2).mean(axis=0), 6.0, precise=0.08)
    agrees(t.sample.kinetic.mean(axis=0) / kT, 6.0 * (1.0 - 0.36), precise=0.02)


ROWS, REPLICAS = 150, 32


def fluctuation_order(rig: Rig, *, period_fs: float = 1200.0) -> None:
    """The conserved quantity strays dt² as far: 4 times less at half the timestep, over the same time from the same start."""
    strays = []
    for k in (1, 2):
        dt = period_fs / ROWS / k
        again = copy(rig)
        again.conditions = replace(rig.conditions, timestep=jnp.asarray(dt * units.fs))
        conserved = again.run(ROWS, k).sample.conserved
        strays.append(float(np.sqrt(conserved.var(axis=0).mean())))
    print(f"strays {strays[0]:.3g} {strays[1]:.3g}: ratio {strays[0] / strays[1]:.3f}")
    assert strays[0] / strays[1] == pytest.approx(4.0, rel=0.15)
    assert strays[0] < 0.02 * np.sqrt(3 * 32) * units.kB * 50.0


@pytest.mark.parametrize("thermostat", ["bussi", "nose-hoover"])
def test_canonical_argon(thermostat: str):
    """Solid argon, 32 atoms, at two temperatures: K/kT ~ Γ(N_f/2), −⟨Σ F·u⟩ = (3N − 3) kT, P₂(U)/P₁(U) ∝ exp(−(β₂ − β₁)U).

    u are displacements from lattice sites; the sum is the equipartition of coordinates, free of any error in the velocities.
    """
    temperatures = np.repeat([50.0, 70.0], REPLICAS // 2)
    rig = Rig(
        pairs, solid(), replicas=REPLICAS, temperature_K=tuple(temperatures), timestep_fs=8.0, thermostat=thermostat,
        thermostat_time_fs=150.0,
    )  # fmt: skip
    freedoms = 93.0
    assert_array_equal(rig.freedoms, freedoms)
    sites = np.asarray(rig.state.positions)[: 32 * REPLICAS].reshape(REPLICAS, 32, 3)
    rig.run(ROWS, 3)
    t = rig.run(ROWS, 10)
    kT = units.kB * temperatures
    k = t.sample.kinetic / kT
    agrees(k.mean(axis=0), 0.5 * freedoms, precise=0.007 * 0.5 * freedoms)
    agrees(((k - 0.5 * freedoms) ** 2).mean(axis=0), 0.5 * freedoms, precise=0.07 * 0.5 * freedoms)
    u = t.positions - sites
    assert np.abs(u - u.mean(axis=2, keepdims=True)).max() < 2.5, "an atom has left its site"
    agrees(-(t.forces * u).sum(axis=(2, 3)).mean(axis=0) / kT, 93.0, precise=0.008 * 93.0)
    half = REPLICAS // 2
    boltzmann(t.sample.potential[:, :half], t.sample.potential[:, half:], 1.0 / kT[0] - 1.0 / kT[-1], precise=0.06)
    fluctuation_order(rig)


def test_energy_of_nve_strays_by_the_square_of_the_timestep():
    runs = [nve(hot_crystal(4), n, timestep_fs=400.0 / n, interval=n // 50).rows for n in (50, 100)]
    strays = [np.std([row.total_eV for row in rows]) for rows in runs]
    assert strays[0] / strays[1] == pytest.approx(4.0, rel=0.1)


def test_temperature_ramp():
    """Free atoms follow the target from 300 to 600 K with the lag of the thermostat: T ← c² T + (1 − c²) T_target a step."""
    rig = Rig(
        nothing, gas(40), replicas=500, steps=60, temperature_K=300.0, temperature_end_K=600.0, timestep_fs=10.0,
        thermostat_time_fs=60.0,
    )  # fmt: skip
    t, square = rig.run(60), np.exp(-2.0 * 10.0 / 60.0)
    expected = [300.0]
    for step in range(60):
        expected.append(square * expected[-1] + (1.0 - square) * (300.0 + 300.0 * step / 60))
    for step in (10, 30, 59):
        agrees(t.sample.temperature[step], expected[step + 1], precise=4.0)
    assert 580.0 < expected[-1] < 600.0


def test_berendsen_relaxes_exponentially():
    """T − T₀ shrinks by 1 − dt/τ a step, V grows by 1 − (κ dt/τ_b)(p₀ − p): in an ideal gas to the last digit."""
    atoms = gas(8, length=12.0)
    rig = Rig(
        nothing, atoms, replicas=3, ensemble="npt", thermostat="berendsen", barostat="berendsen", temperature_K=300.0,
        pressure_GPa=0.02, timestep_fs=2.0, thermostat_time_fs=100.0, barostat_time_fs=400.0, compressibility_per_GPa=50.0,
    )  # fmt: skip
    rig.state = replace(rig.state, velocities=jnp.sqrt(1.3) * rig.state.velocities)
    first = np.asarray((rig.system.masses[:, None] * rig.state.velocities**2).reshape(3, -1).sum(axis=1)) / (21.0 * units.kB)
    t = rig.run(2000)
    temperature = np.concatenate([first[None], t.sample.temperature])
    assert_allclose(temperature[1:] - 300.0, (1.0 - 2.0 / 100.0) * (temperature[:-1] - 300.0), atol=1e-9)
    volume = np.concatenate([np.full((1, 3), 12.0**3), t.sample.volume])
    pressure = 2.0 * t.sample.kinetic / (3.0 * volume[:-1]) / units.GPa
    assert_allclose(volume[1:] / volume[:-1], 1.0 - 50.0 * 2.0 / 400.0 * (0.02 - pressure), rtol=1e-12)
    assert_allclose(t.sample.pressure[-1], 0.02, rtol=1e-3)


def test_nose_hoover_and_barostat_follow_their_equations():
    """K, V, v_g = e·1 and both chains are all there is in an ideal gas: the documented equations, solved by SciPy."""
    n_f, kT, tau, tau_b, pressure = 9.0, units.kB * 300.0, 50.0 * units.fs, 100.0 * units.fs, 1e-3 * units.GPa
    given = {"thermostat": "nose-hoover", "thermostat_time_fs": 50.0, "barostat_time_fs": 100.0, "pressure_GPa": 1e-3}
    rig = Rig(nothing, gas(4, length=50.0), ensemble="npt", temperature_K=300.0, timestep_fs=0.5, **given)
    rig.state = replace(rig.state, velocities=1.2 * rig.state.velocities)
    start = 0.5 * float((rig.system.masses[:, None] * rig.state.velocities**2).sum())
    t = rig.run(30, 20)
    q1, q, q_b, mass = n_f * kT * tau**2, kT * tau**2, kT * tau_b**2, (n_f + 3.0) * kT * tau_b**2 / 3.0

    def slopes(_: float, y: np.ndarray) -> list[float]:
        k, v1, v2, v3, volume, e, w1, w2, w3 = y
        return [
            -2.0 * k * (v1 + (1.0 + 3.0 / n_f) * e),
            (2.0 * k - n_f * kT) / q1 - v1 * v2, (q1 * v1**2 - kT) / q - v2 * v3, (q * v2**2 - kT) / q,
            3.0 * e * volume, (2.0 * k / 3.0 - pressure * volume + 2.0 * k / n_f) / mass - w1 * e,
            (3.0 * mass * e**2 - kT) / q_b - w1 * w2, (q_b * w1**2 - kT) / q_b - w2 * w3, (q_b * w2**2 - kT) / q_b,
        ]  # fmt: skip

    times = np.arange(1, 31) * 10.0 * units.fs
    y = solve_ivp(slopes, (0.0, times[-1]), [start, 0, 0, 0, 50.0**3, 0, 0, 0, 0], t_eval=times, rtol=1e-10, atol=1e-12).y
    assert np.ptp(y[0]) > 0.3 * start
    assert np.ptp(y[4]) > 0.1 * 50.0**3
    assert_allclose(t.sample.kinetic[:, 0], y[0], rtol=2e-4)
    assert_allclose(t.sample.volume[:, 0], y[4], rtol=2e-4)
    chains = np.moveaxis(np.asarray(t.state.chain_velocity)[:, 0], 0, -1)
    assert_allclose(chains.reshape(6, -1), y[[1, 2, 3, 6, 7, 8]], atol=1e-3 * np.abs(y[[1, 6]]).max())


# --- degrees of freedom ---------------------------------------------------------------------------------------------------------


def fixed(atoms: ase.Atoms, *constraints: Any) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.set_constraint(constraints)
    return atoms


DEGREES: dict[str, tuple[ase.Atoms, bool, int]] = {
    "crystal": (solid(), True, 93),
    "crystal, langevin": (solid(), False, 96),
    "crystal, langevin, FixCom": (fixed(solid(), FixCom()), False, 93),
    "crystal, four atoms fixed": (fixed(solid(), FixAtoms([0, 3, 5, 31])), True, 84),
    "crystal, four atoms fixed, langevin": (fixed(solid(), FixAtoms([0, 3, 5, 31])), False, 84),
    "crystal, coordinates fixed": (fixed(solid(), FixCartesian([1, 2], (True, False, True))), True, 92),
    "molecule": (molecule("CH4"), True, 9),
    "molecule, langevin": (molecule("CH4"), False, 15),
    "dimer": (molecule("N2"), True, 1),
    "straight molecule": (molecule("CO2"), True, 3),
    "slab": (ase.Atoms("Ar4", np.eye(4, 3) * 4.0, cell=[9.0, 9.0, 30.0], pbc=(True, True, False)), True, 9),
}


@pytest.mark.parametrize("name", DEGREES)
def test_degrees_of_freedom(name: str):
    """3N; less 3 where momentum is conserved, 3 more where angular momentum is (a dimer: 2), and what constraints hold."""
    atoms, conserving, expected = DEGREES[name]
    x = motion(atoms, temperature_K=300.0, conserving=conserving, thermostatted=True, seed=(0, 0))
    assert x.freedoms == expected
    masses = atoms.get_masses()[:, None]
    drawn = [motion(atoms, temperature_K=300.0, conserving=conserving, thermostatted=True, seed=(0, k)) for k in range(400)]
    twice = np.array([(masses * d.velocities**2).sum() for d in drawn]) / (units.kB * 300.0)
    straight = 1 if name == "straight molecule" else 0  # where it is straight, one more bending velocity is drawn
    agrees(twice, expected + straight, precise=0.08 * np.sqrt(2.0 * (expected + straight)))


def springs(positions: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A straight molecule of three atoms, 1.2 Å apart: bonds ½ 40 (r − 1.2)² eV, and ½ 10 (r − 2.4)² between the ends."""

    def energy(x: jax.Array) -> jax.Array:
        ab, bc, ac = (jnp.sqrt(((x[:, i] - x[:, j]) ** 2).sum(axis=1)) for i, j in ((0, 1), (1, 2), (0, 2)))
        return 20.0 * ((ab - 1.2) ** 2 + (bc - 1.2) ** 2) + 5.0 * (ac - 2.4) ** 2

    value, pull = jax.vjp(energy, positions)
    return value, -pull(jnp.ones_like(value))[0], jnp.zeros_like(cell)


def test_a_straight_molecule_has_three_degrees_of_freedom():
    """Without angular momentum three atoms stay in one plane, in which they have 6 − 2 − 1: not the 4 of the drawn velocities."""
    atoms = ase.Atoms("Ar3", [[0.0, 0.0, -1.2], [0.0, 0.0, 0.0], [0.0, 0.0, 1.2]])
    rig = Rig(springs, atoms, replicas=5, ensemble="nve", temperature_K=300.0, timestep_fs=4.0)
    t = rig.run(40, 10)
    r, v = t.positions, t.velocities
    assert np.abs(np.cross(r - r.mean(axis=2, keepdims=True), v).sum(axis=2)).max() < 1e-10
    for s in range(5):
        *in_plane, across = np.linalg.svd(v[:, s].reshape(-1, 3), compute_uv=False)
        assert across < 1e-9 * min(in_plane)
    assert_array_equal(rig.freedoms, 3.0)


# --- barostats ------------------------------------------------------------------------------------------------------------------

IDEAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "langevin isotropic": (nothing, {}),
    "bussi isotropic": (nothing, {"thermostat": "bussi"}),
    "langevin flexible": (shear, {"barostat": "flexible"}),
    "langevin zz": (nothing, {"barostat": "flexible", "components": ("zz",)}),
}


@pytest.mark.parametrize("name", IDEAL)
def test_volume_of_the_ideal_gas(name: str):
    """p V/kT ~ Γ(n + 1), with n = N where all atoms move freely and n = N − 1 where the centre of mass is held.

    N free atoms have the configuration integral V^N, so P(V) ∝ V^N exp(−pV/kT) and ⟨V⟩ = (N + 1) kT/p. With total momentum
    zero the centre of mass keeps its place relative to the cell; N − 1 relative vectors remain: V^(N−1), ⟨V⟩ = N kT/p.

    The equations of motion agree. With N_f = 3n, and m lengths of the cell changing along each direction that changes at all (3
    for a full cell h, 1 for `zz` and for V itself), the divergence of the flow is

        n tr(v_g) [dr/dt]  −  (n + 1) tr(v_g) [dv/dt]  +  m tr(v_g) [dh/dt]  =  (m − 1) d ln V/dt

    so V^(1−m) dh dr dv dv_g is invariant: dV dr dv dv_g, times a measure of the shape alone.

    The shape of a flexible cell has to be held, here by c tr(hᵀh)/V^⅔. For principal axes V^⅓ exp(a_k), Σ a_k = 0, its measure is
    Π_{k<l} |sinh(a_k − a_l)| da₁ da₂, Haar's of SL(3).
    """
    n, kT, pressure = 4, units.kB * 300.0, 1e-3 * units.GPa
    force, given = IDEAL[name]
    atoms, half = [gas(n)] * 100, name == "langevin isotropic"
    if half:
        atoms[50:] = [fixed(gas(n), FixCom())] * 50
    rig = Rig(
        force, atoms, ensemble="npt", temperature_K=300.0, pressure_GPa=1e-3, timestep_fs=15.0, thermostat_time_fs=100.0,
        barostat_time_fs=300.0, **given,
    )  # fmt: skip
    assert_array_equal(rig.freedoms, 9.0 if "bussi" in name else np.repeat([12.0, 9.0 if half else 12.0], 50))
    rig.run(200)
    t = rig.run(200, 15)
    components = cell_components(rig.setup.ensemble)
    moving = cell_mass(rig.conditions, rig.conditions.thermal[:, 0])[None, :] * (t.state.cell_velocity**2).sum(axis=(2, 3))
    for own in (np.arange(50), np.arange(50, 100)):
        shape = rig.freedoms[own[0]] / 3.0 + 1.0
        x = t.sample.volume[:, own] * pressure / kT
        agrees(x.mean(axis=0), shape, precise=0.012 * shape)
        agrees(((x - shape) ** 2).mean(axis=0), shape, precise=0.05 * shape)
        agrees(t.sample.pressure[:, own].mean(axis=0), 1e-3, precise=0.03e-3)
        assert kstest(x[::50].ravel(), gamma(shape).cdf).pvalue > 1e-4
        agrees(moving[:, own].mean(axis=0) / kT, components, precise=0.03 * components)
    if name == "langevin flexible":
        a, b = np.meshgrid(*[np.linspace(-3.0, 3.0, 601)] * 2, indexing="ij")
        lengths = np.stack([a, b, -a - b])
        size = np.exp(2.0 * lengths).sum(axis=0)
        weight = np.exp(-0.05 / kT * size) * np.abs(np.prod([np.sinh(lengths[k] - lengths[k - 1]) for k in range(3)], axis=0))
        agrees(t.sample.potential.mean(axis=0) / 0.05, (size * weight).sum() / weight.sum(), precise=0.02)
    if name == "langevin zz":
        assert_array_equal(t.state.cell[..., :2], np.broadcast_to(30.0 * np.eye(3)[:, :2], t.state.cell[..., :2].shape))


PRESSURES = (0.10, 0.16)


@pytest.mark.parametrize("name", ["nose-hoover flexible", "langevin isotropic"])
def test_isothermal_isobaric_argon(name: str):
    """Solid argon at two pressures: what every member of the ensemble must show.

    Each component of the mean internal pressure is the target; P₂(V)/P₁(V) ∝ exp(−(p₂ − p₁)V/kT); ⟨δV²⟩ = −kT ∂⟨V⟩/∂p; kT/2 for
    each degree of freedom of atoms and cell; an isotropic cell keeps its shape, a flexible one does not turn.
    """
    thermostat, barostat = name.split()
    half, kT = REPLICAS // 2, units.kB * 60.0
    pressures = np.repeat(PRESSURES, half)
    rig = Rig(
        pairs, solid(), replicas=REPLICAS, ensemble="npt", thermostat=thermostat, barostat=barostat, temperature_K=60.0,
        pressure_GPa=tuple(pressures), timestep_fs=8.0, thermostat_time_fs=150.0, barostat_time_fs=1000.0,
    )  # fmt: skip
    rig.run(ROWS, 4)
    t = rig.run(ROWS, 10)
    freedoms = 96.0 if thermostat == "langevin" else 93.0
    agrees(t.sample.kinetic.mean(axis=0) / kT, 0.5 * freedoms, precise=0.008 * 0.5 * freedoms)
    components = cell_components(rig.setup.ensemble)
    assert components == (1.0 if barostat == "isotropic" else 6.0)
    moving = cell_mass(rig.conditions, rig.conditions.thermal[:, 0])[None, :] * (t.state.cell_velocity**2).sum(axis=(2, 3))
    agrees(moving.mean(axis=0) / kT, components, precise=0.1 * components)
    agrees(t.sample.pressure.mean(axis=0) - pressures, 0.0, precise=0.0005)
    volume = t.sample.volume
    boltzmann(volume[:, :half], volume[:, half:], -(PRESSURES[1] - PRESSURES[0]) * units.GPa / kT, precise=0.08)
    means = volume[:, :half].mean(), volume[:, half:].mean()
    compressed = kT * (means[0] - means[1]) / ((PRESSURES[1] - PRESSURES[0]) * units.GPa)
    assert 0.5 * (volume[:, :half].var() + volume[:, half:].var()) == pytest.approx(compressed, rel=0.15)
    h, v_g = t.state.cell, t.state.cell_velocity
    if barostat == "isotropic":
        assert_allclose(h / np.cbrt(volume)[..., None, None], np.broadcast_to(np.eye(3), h.shape), atol=1e-12)
    else:
        for c in range(3):
            for d in range(c + 1):
                excess = -t.sample.stress[:, :, c, d].mean(axis=0) - (pressures if c == d else 0.0)
                agrees(excess, 0.0, precise=0.0008)
        assert_allclose(v_g, v_g.swapaxes(2, 3), rtol=0.0, atol=1e-15)
    fluctuation_order(rig)
