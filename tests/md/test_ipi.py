"""The driver, against a real i-PI that runs the files of md/examples/ipi."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.io import read, write
from helpers import make_potential, symmetry_functions
from numpy.testing import assert_allclose

from adatom.md.ipi_driver import serve
from adatom.potential import AdatomCalculator, Evaluator, from_atoms

pytestmark = pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
LATTICE = 4.8
"""Å, where diamond is a stiff and stable crystal of the random weights below (at fixed volume)."""


@pytest.fixture(scope="module")
def potential():
    return make_potential((14,), symmetry_functions(n_angular=0), seed=8, min_distance=2.2)


@pytest.fixture(scope="module")
def example(root):
    return root / "md" / "examples" / "ipi"


@contextmanager
def ipi(folder, text):
    """A running i-PI, killed if it is still there at the end."""
    (folder / "input.xml").write_text(text)
    program = Path(sys.executable).with_name("i-pi")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([program, "input.xml"], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        late = threading.Timer(600.0, process.kill)  # a driver waits for its server for ever
        late.start()
        try:
            yield process
        finally:
            late.cancel()
            process.kill()
            process.wait(timeout=30)


def frequencies(potential, atoms):
    """Angular frequencies [1/ASE time] of the modes that are not translations."""
    atoms, start = atoms.copy(), atoms.positions.copy()
    atoms.calc = AdatomCalculator(potential, dtype="float64")
    hessian = np.zeros((start.size, start.size))
    for i in range(start.size):
        for sign in (1.0, -1.0):
            moved = start.copy()
            moved.flat[i] += sign * 0.01
            atoms.positions = moved
            hessian[i] -= sign * atoms.get_forces().ravel() / 0.02
    masses = np.repeat(atoms.get_masses(), 3)
    return np.sqrt(np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.sqrt(np.outer(masses, masses)))[3:])


def harmonic_kinetic_energy(omega, temperature_K, beads):
    """Σ_ω (kT/2) Σ_k ω²/(ω² + ω_k²) with ω_k = (2 P kT/ħ) sin(πk/P): what the virial estimator of P beads gives."""
    kt, hbar = units.kB * temperature_K, units._hbar * units.J * units.second
    ring = 2.0 * beads * kt / hbar * np.sin(np.pi * np.arange(beads) / beads)
    return 0.5 * kt * (omega[:, None] ** 2 / (omega[:, None] ** 2 + ring[None, :] ** 2)).sum()


def test_path_integrals(tmp_path, example, potential):
    """The example, in the cell of our potential: it runs to the end, i-PI's energies are ours, and zero-point motion is there."""
    address, text = f"adatom-{tmp_path.name}-{time.time_ns()}", (example / "input.xml").read_text()
    assert text.count("<address> adatom </address>") == 1
    atoms = read(example / "start.extxyz")
    atoms.set_cell(np.eye(3) * LATTICE, scale_atoms=True)
    write(tmp_path / "start.extxyz", atoms)
    with ipi(tmp_path, text.replace("<address> adatom </address>", f"<address> {address} </address>")) as server:
        evaluated = serve(potential, atoms, unix=address)
        assert server.wait(30) == 0, (tmp_path / "log").read_text()
    assert "I-PI reports success" in (tmp_path / "log").read_text()
    assert evaluated >= 4 * 601
    rows = np.loadtxt(tmp_path / "run.out")
    step, conserved, kinetic, primitive, pots = rows[:, 0], rows[:, 3], rows[:, 5], rows[:, 6], rows[:, 8:]
    assert pots.shape == (301, 4)
    assert_allclose(rows[:, 4], pots.mean(axis=1), atol=1e-6)

    evaluator = Evaluator(potential)
    for bead in range(4):
        frames = read(tmp_path / f"run.pos_{bead}.extxyz", ":")
        assert len(frames) == 13
        for n, frame in enumerate(frames):
            at = atoms.copy()
            at.positions = frame.positions
            assert step[25 * n] == 50 * n
            assert_allclose(pots[25 * n, bead], evaluator(from_atoms(at)).energy, atol=2e-5)
    assert np.ptp(pots[150:], axis=0).min() > 0.01, "the beads do not move"

    omega = frequencies(potential, atoms)
    free = 3.0 * 0.5 * units.kB * 300.0  # i-PI counts the centre of mass, which is held, as classical
    classical, quantum = free + 0.5 * units.kB * 300.0 * len(omega), free + harmonic_kinetic_energy(omega, 300.0, 64)
    want, got = free + harmonic_kinetic_energy(omega, 300.0, 4), kinetic[50:].mean()
    assert classical < 0.8 * want < want < quantum, "no test: the solid is classical"
    assert_allclose(got, want, rtol=0.12)
    assert got > 1.1 * classical
    assert_allclose(primitive[50:].mean(), want, rtol=0.25)
    assert np.ptp(conserved) < 0.02


@pytest.mark.parametrize("solid", [True, False])
def test_virial(tmp_path, example, potential, solid):
    """A few steps, over a port. A cluster, though i-PI gives it a cell, has no virial."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    text = (example / "input.xml").read_text()
    for old, new in (
        ("mode='unix'", "mode='inet'"), ("<address> adatom </address>", f"<address> localhost </address> <port> {port} </port>"),
        ("<total_steps> 600 ", "<total_steps> 2 "), ("pressure_cv{gigapascal}", "virial_cv{gigapascal}"),
    ):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    atoms = ase.Atoms("Si3", [[0.0, 0.0, 0.0], [2.2, 0.0, 0.0], [0.5, 2.3, 0.2]], cell=[9.0, 9.0, 9.0])
    if solid:
        atoms = bulk("Si", cubic=True, a=LATTICE)
        atoms.rattle(0.05, seed=1)
    write(tmp_path / "start.extxyz", atoms)
    with ipi(tmp_path, text) as server:
        assert serve(potential, atoms, port=port) >= 4 * 3
        assert server.wait(30) == 0, (tmp_path / "log").read_text()
    rows = np.loadtxt(tmp_path / "run.out")
    assert rows.shape == (2, 17)
    if solid:
        stress = AdatomCalculator(potential).get_stress(read(tmp_path / "start.extxyz"))
        assert np.abs(stress[[3, 4, 5]]).min() > 1e-3
        assert_allclose(rows[0, 7:13], -stress[[0, 1, 2, 5, 4, 3]] / units.GPa, rtol=1e-4, atol=1e-3)
    else:
        assert not rows[:, 7:13].any()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "give the name of a unix socket, or host and port"),
        ({"unix": "a", "port": 31415}, "give the name of a unix socket, or host and port"),
        ({"host": "localhost"}, "host needs a port"),
    ],
)
def test_bad_addresses(potential, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        serve(potential, bulk("Si", cubic=True, a=LATTICE), **given)


def test_nobody_there(potential):
    with pytest.raises(ConnectionError, match="no i-PI at unix socket 'nobody-is-there' after 0 s"):
        serve(potential, bulk("Si", cubic=True, a=LATTICE), unix="nobody-is-there", patience_s=0.0)
    with pytest.raises(ValueError, match="the structure has Na|knows Si"):
        serve(potential, bulk("Na"), unix="nobody-is-there")
