"""Radial distribution functions against gases, crystals, and sums over images written out."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import pytest
from ase.build import bulk

from adatom.md.observables import RDFAccumulator, radial_distribution

TRICLINIC = np.array([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [-2.0, 2.5, 10.0]])


def gas(rng: np.random.Generator, atoms: str, cell: np.ndarray) -> ase.Atoms:
    n = len(ase.Atoms(atoms))
    return ase.Atoms(atoms, rng.uniform(-2.0, 2.0, (n, 3)) @ cell, cell=cell, pbc=True)  # not wrapped on purpose


def test_ideal_gas_is_one() -> None:
    """Independent atoms: 1 between elements; within one, 1 − 1/N, as an atom is not its own neighbour."""
    rng = np.random.default_rng(0)
    rdf = radial_distribution([gas(rng, "H20O5", TRICLINIC) for _ in range(400)], r_max=3.5, bins=7)
    assert rdf.frames == 400
    shells = 4.0 / 3.0 * np.pi * np.diff(rdf.edges**3)
    for pair, atoms, expected in (
        (("H", "O"), 20 * 5, 1.0),
        (("O", "H"), 20 * 5, 1.0),
        (("H", "H"), 20 * 20, 0.95),
        (("O", "O"), 5 * 5, 0.8),
    ):
        counts = 400 * atoms * shells / abs(np.linalg.det(TRICLINIC))
        sigma = np.sqrt(2.0 / counts)  # a pair of one element is counted twice
        assert (np.abs(rdf.g[pair] - expected) < 4.0 * sigma).all(), pair
        chi2 = (((rdf.g[pair] - expected) / sigma) ** 2).mean()
        assert chi2 < 2.5, pair
    np.testing.assert_allclose(rdf.g["H", "O"], rdf.g["O", "H"], rtol=1e-12)


def test_gas_beyond_half_the_cell() -> None:
    """One atom of each element in the cell, many cells away: images are neighbours like others, and g is 1."""
    rng = np.random.default_rng(1)
    rdf = radial_distribution([gas(rng, "HO", 0.4 * TRICLINIC) for _ in range(60)], r_max=14.0, bins=3)
    assert rdf.g["H", "O"][1:] == pytest.approx(1.0, abs=0.03)
    assert rdf.g["H", "H"][1:] == pytest.approx(1.0, abs=0.05)  # the lattice of images
    density = 1.0 / abs(np.linalg.det(0.4 * TRICLINIC))
    assert rdf.coordination["H", "O"][-1] == pytest.approx(density * 4.0 / 3.0 * np.pi * 14.0**3, rel=0.02)


@pytest.mark.parametrize(
    "crystal", [bulk("Al", a=4.05), bulk("Al", a=4.05, cubic=True) * (3, 2, 1)], ids=["primitive", "supercell"]
)
def test_fcc_shells(crystal: ase.Atoms) -> None:
    """12 at a/√2, 6 at a, 24 at a √1.5; the same from one atom in a cell and from many."""
    rdf = radial_distribution([crystal], r_max=5.4, bins=135)
    upto = {r: int(np.searchsorted(rdf.edges, r)) - 1 for r in (2.7, 3.4, 4.5, 5.3)}
    assert [rdf.coordination["Al", "Al"][k] for k in upto.values()] == pytest.approx([0.0, 12.0, 18.0, 42.0], abs=1e-12)
    peaks = rdf.r[rdf.g["Al", "Al"] > 0.0]
    np.testing.assert_allclose(peaks, [4.05 / np.sqrt(2.0), 4.05, 4.05 * np.sqrt(1.5)], atol=0.021)
    first = rdf.g["Al", "Al"][int(np.searchsorted(rdf.edges, 4.05 / np.sqrt(2.0))) - 1]
    k = int(np.searchsorted(rdf.edges, 4.05 / np.sqrt(2.0)))
    assert first == pytest.approx(
        12.0 / (4.0 / 4.05**3 * 4.0 / 3.0 * np.pi * (rdf.edges[k] ** 3 - rdf.edges[k - 1] ** 3)), rel=1e-12
    )
    shell = rdf.first_shell("Al", "Al")
    assert shell is not None
    assert shell.peak == pytest.approx(4.05 / np.sqrt(2.0), abs=0.021)
    assert shell.coordination == pytest.approx(12.0)
    assert radial_distribution([crystal], r_max=3.0).first_shell("Al", "Al") is None  # the minimum is not in sight


def test_binary_normalisation() -> None:
    """Fluorite: 8 F around Ca, 4 Ca around F, 6 F around F; n is the integral of ρ g, and N_a n_ab = N_b n_ba."""
    rdf = radial_distribution([bulk("CaF2", "fluorite", a=5.46)], r_max=3.2, bins=64)
    first = {pair: n[int(np.searchsorted(rdf.edges, 2.6)) - 1] for pair, n in rdf.coordination.items()}
    assert first["Ca", "F"] == pytest.approx(8.0)
    assert first["F", "Ca"] == pytest.approx(4.0)
    assert rdf.coordination["F", "F"][int(np.searchsorted(rdf.edges, 3.0)) - 1] == pytest.approx(6.0)
    np.testing.assert_allclose(rdf.g["Ca", "F"], rdf.g["F", "Ca"], rtol=1e-12)
    shells = 4.0 / 3.0 * np.pi * np.diff(rdf.edges**3)
    for (a, b), n in rdf.coordination.items():
        density = {"Ca": 4.0, "F": 8.0}[b] / 5.46**3
        np.testing.assert_allclose(np.cumsum(density * rdf.g[a, b] * shells), n, rtol=1e-12, atol=1e-12)


def test_brute_force_in_a_small_triclinic_cell() -> None:
    """r_max of several cells: distances to all images, written out."""
    rng = np.random.default_rng(2)
    cell = np.array([[2.6, 0.1, 0.0], [1.1, 2.4, -0.3], [0.4, -0.9, 2.9]])
    atoms = ase.Atoms("SiOSi", rng.uniform(-3.0, 3.0, (3, 3)), cell=cell, pbc=True)
    r_max, bins = 7.0, 35
    rdf = radial_distribution([atoms], r_max=r_max, bins=bins)
    images = np.array(list(itertools.product(range(-9, 10), repeat=3))) @ cell
    volume, counts = abs(np.linalg.det(cell)), {}
    for a, b in itertools.product(("O", "Si"), repeat=2):
        d = [
            np.linalg.norm(atoms.positions[j] + images - atoms.positions[i], axis=1)
            for i in range(3)
            for j in range(3)
            if (atoms.symbols[i], atoms.symbols[j]) == (a, b)
        ]
        every = np.concatenate(d)
        counts[a, b] = np.histogram(every[every > 1e-9], bins=bins, range=(0.0, r_max))[0]
    shells = 4.0 / 3.0 * np.pi * np.diff(np.linspace(0.0, r_max, bins + 1) ** 3)
    number = {"O": 1, "Si": 2}
    for (a, b), n in counts.items():
        np.testing.assert_allclose(rdf.coordination[a, b], np.cumsum(n) / number[a], rtol=1e-12)
        np.testing.assert_allclose(rdf.g[a, b], volume * n / (number[a] * number[b] * shells), rtol=1e-12)


def test_frames_of_different_volume_are_averaged_as_g() -> None:
    small, large = bulk("Ar", a=5.0), bulk("Ar", a=6.0)
    one, other, both = (radial_distribution(f, r_max=7.0) for f in ([small], [large], [small, large]))
    np.testing.assert_allclose(both.g["Ar", "Ar"], 0.5 * (one.g["Ar", "Ar"] + other.g["Ar", "Ar"]), rtol=1e-12)


def test_bad_input() -> None:
    accumulator = RDFAccumulator(r_max=5.0)
    with pytest.raises(ValueError, match="no frames were added"):
        accumulator.result()
    with pytest.raises(ValueError, match=r"frame 0 has pbc \[False, False, False\]: g\(r\) needs a density"):
        accumulator.add(ase.Atoms("H2", [[0, 0, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="needs a density"):
        accumulator.add(ase.Atoms("H", cell=[5, 5, 5], pbc=(True, True, False)))
    accumulator.add(bulk("Al"))
    with pytest.raises(ValueError, match="frame 1 is Cu, other atoms"):
        accumulator.add(bulk("Cu"))
    with pytest.raises(ValueError, match="r_max must be positive"):
        RDFAccumulator(r_max=0.0)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        RDFAccumulator(r_max=5.0, bins=0)
