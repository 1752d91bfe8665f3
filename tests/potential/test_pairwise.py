"""ZBL, Lennard-Jones and Morse against closed forms and published constants."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from helpers import evaluate
from numpy.testing import assert_allclose

from adatom.potential.pairwise import LennardJones, Morse, zbl
from adatom.potential.structure import Structure


def lammps_zbl(r, zi, zj):
    """The published formula of pair_style zbl (no switching), with e²/(4πε₀) = 14.399645 eV Å (LAMMPS metal units)."""
    x = r / (0.46850 / (zi**0.23 + zj**0.23))
    phi = 0.18175 * np.exp(-3.19980 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.40290 * x) + 0.02817 * np.exp(-0.20162 * x)
    return 14.399645 * zi * zj / r * phi


@pytest.mark.parametrize(("zi", "zj"), [(1, 1), (1, 8), (14, 14), (29, 79), (92, 1)])
def test_zbl_is_the_published_formula(zi, zj):
    r = np.geomspace(1e-3, 6.0, 200)
    assert_allclose(zbl(jnp.asarray(r), float(zi), float(zj)), lammps_zbl(r, zi, zj), rtol=3e-7)
    assert_allclose(zbl(jnp.asarray(r), float(zj), float(zi)), lammps_zbl(r, zi, zj), rtol=3e-7)


def test_zbl_near_the_nucleus_is_coulomb():
    """Screening at r → 0 is the sum of the amplitudes, 1 to the digits published."""
    r = 1e-7
    assert_allclose(float(zbl(jnp.asarray(r), 14.0, 14.0)) * r / 196.0, units.Hartree * units.Bohr, rtol=1e-5)


def test_zbl_of_silicon_by_hand():
    """r = 1 Å: a = 0.4685 Å/(2·14^0.23) = 0.12767 Å, φ(7.833) = 3.18e-4 + 0.011937 + 0.005806 = 0.01806, V = 50.97 eV."""
    assert_allclose(float(zbl(jnp.asarray(1.0), 14.0, 14.0)), 196 * 14.3996 * 0.018061, rtol=1e-3)


def dimer(r, z):
    return Structure(np.array([z, z]), np.array([[0.0, 0, 0], [0.0, 0, r]]), np.zeros((3, 3)), np.zeros(3, dtype=bool))


def test_lennard_jones_dimer():
    """Depth ε at 2^(1/6) σ, zero at σ, and the textbook force; untouched below 0.8 of the cutoff, zero beyond it."""
    model = LennardJones((18,), epsilon=0.0104, sigma=3.4, cutoff=9.0)
    minimum = evaluate(model, {}, dimer(2 ** (1 / 6) * 3.4, 18))
    assert_allclose(minimum.energy, -0.0104, rtol=1e-12)
    assert_allclose(minimum.forces, 0.0, atol=1e-12)
    assert_allclose(evaluate(model, {}, dimer(3.4, 18)).energy, 0.0, atol=1e-15)
    r = 5.0
    force = 24 * 0.0104 / r * (2 * (3.4 / r) ** 12 - (3.4 / r) ** 6)
    assert_allclose(evaluate(model, {}, dimer(r, 18)).forces[:, 2], [-force, force], rtol=1e-12)
    assert evaluate(model, {}, dimer(9.0, 18)).energy == 0.0


def test_morse_dimer():
    model = Morse((29,), depth=0.34, alpha=1.36, distance=2.87, cutoff=9.0)
    assert_allclose(evaluate(model, {}, dimer(2.87, 29)).energy, -0.34, rtol=1e-12)
    r = 3.5
    x = np.exp(-1.36 * (r - 2.87))
    out = evaluate(model, {}, dimer(r, 29))
    assert_allclose(out.energy, 0.34 * (x * x - 2.0 * x), rtol=1e-12)
    assert_allclose(out.forces[1, 2], -2.0 * 0.34 * 1.36 * (x - x * x), rtol=1e-12)


def test_face_centred_cubic_lennard_jones_lattice_sum():
    """One atom in its primitive cell, 2000 neighbours: the lattice sums 12.13188 and 14.45392 of the textbooks (Kittel)."""
    a = np.sqrt(2.0)  # nearest neighbours at 1 Å = σ
    s = Structure(np.array([18]), np.zeros((1, 3)), 0.5 * a * (1.0 - np.eye(3)), np.ones(3, dtype=bool))
    model = LennardJones((18,), epsilon=1.0, sigma=1.0, cutoff=9.0)
    tail = 2e-2  # the attraction beyond the cutoff, about (8π√2/3)/r³
    assert_allclose(evaluate(model, {}, s).energy, 2.0 * (12.13188 - 14.45392), atol=2.0 * tail)
