"""E0 by least squares is exact where it can be, says what it cannot tell apart, and leaves isolated atoms aside."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from adatom.fitting.dataset import DataError, Frame, Labels
from adatom.fitting.e0 import (
    composition_rank,
    elements_of,
    fit_composition,
    is_isolated,
    isolated_e0,
    least_squares_e0,
    nearest_image,
)
from adatom.potential.structure import Structure, from_atoms

E0 = {"H": -13.6, "C": -1025.0, "O": -2035.5}


def frame(formula: str, energy: float | None = None, *, extra: float = 0.0, weight: float = 1.0, **other: str) -> Frame:
    atoms = Atoms(formula, pbc=False)
    atoms.positions = np.arange(3.0 * len(atoms)).reshape(-1, 3)
    total = sum(E0[s] for s in atoms.symbols) + extra * len(atoms) if energy is None else energy
    return Frame(
        from_atoms(atoms), Labels(energy=total), weight=weight, config_type=other.get("config_type", "default")
    )


def test_exact_for_independent_compositions() -> None:
    frames = [frame("H2O"), frame("CH4"), frame("CO2"), frame("C2H6O")]
    e0, rank = least_squares_e0(frames, ["H", "C", "O"])
    assert e0 == pytest.approx(E0, rel=1e-9)
    assert rank.full
    assert rank.summary() == "compositions determine E0 of all 3 elements"


def test_weights_count() -> None:
    frames = [
        frame("H2", extra=1.0, weight=3.0),
        frame("H2", extra=-1.0, weight=1.0),
        frame("H2", extra=9.0, weight=0.0),
    ]
    e0, _ = least_squares_e0(frames, ["H"])
    assert e0["H"] == pytest.approx(E0["H"] + 0.5)


def test_isolated_atoms_and_nan_do_not_enter() -> None:
    frames = [frame("H"), frame("H2", extra=-2.0), frame("H2", energy=float("nan"))]
    assert least_squares_e0(frames, ["H"])[0]["H"] == pytest.approx(E0["H"] - 2.0)
    assert least_squares_e0(frames[:1], ["H"])[0]["H"] == pytest.approx(E0["H"])


def test_water_alone_is_collinear_but_energies_come_out() -> None:
    e0, rank = least_squares_e0([frame("H2O"), frame("H4O2")], ["H", "O"])
    assert not rank.full
    assert rank.together == (("H", "O"),)
    assert rank.summary() == "compositions determine 1 of 2 E0: H, O cannot be told apart"
    assert 2 * e0["H"] + e0["O"] == pytest.approx(2 * E0["H"] + E0["O"])


def test_absent_elements_and_separate_groups() -> None:
    elements = ("H", "C", "N", "O", "Si")
    # water always 2:1, carbon also alone, silicon nowhere, nitrogen only as NH3: three numbers for H, N, O minus one
    counts = np.array([[2.0, 0, 0, 1, 0], [2, 3, 0, 1, 0], [0, 1, 0, 0, 0], [3, 0, 1, 0, 0]])
    rank = composition_rank(counts, elements)
    assert rank.rank == 3
    assert rank.absent == ("Si",)
    assert rank.together == (("H", "N", "O"),)


def test_two_pairs_that_cannot_be_told_apart_are_named_separately() -> None:
    counts = np.array([[1.0, 1, 0, 0], [0, 0, 1, 2], [1, 1, 1, 2]])
    assert composition_rank(counts, ("Ga", "As", "Ti", "O")).together == (("Ga", "As"), ("Ti", "O"))


def test_robust_fit_ignores_outliers() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 8, (60, 2)).astype(float)
    energies = counts @ [-3.0, -5.0] + 0.01 * counts.sum(axis=1) * rng.standard_normal(60)
    energies[:6] += 500.0
    np.testing.assert_allclose(fit_composition(counts, energies, np.ones(60), robust=True), [-3.0, -5.0], atol=0.02)
    assert abs(fit_composition(counts, energies, np.ones(60))[0] + 3.0) > 0.1


@pytest.mark.parametrize(
    ("config_type", "cell", "pbc", "expected"),
    [
        ("IsolatedAtom", 5.0, True, True),
        ("isolated_atom", 5.0, True, True),
        ("default", 5.0, True, False),
        ("default", 12.5, True, True),
        ("default", 11.5, True, False),
        ("default", 5.0, False, True),
    ],
)
def test_isolated(config_type: str, cell: float, pbc: bool, expected: bool) -> None:
    structure = Structure(np.array([1]), np.zeros((1, 3)), cell * np.eye(3), np.full(3, pbc))
    assert is_isolated(Frame(structure, Labels(), config_type=config_type)) is expected


def test_two_atoms_are_never_isolated() -> None:
    assert not is_isolated(frame("H2", config_type="IsolatedAtom"))


def test_nearest_image_of_a_skewed_cell() -> None:
    cell = np.array([[10.0, 0, 0], [9.0, 3.0, 0], [0, 0, 20.0]])
    structure = Structure(np.array([1]), np.zeros((1, 3)), cell, np.array([True, True, False]))
    assert nearest_image(structure) == pytest.approx(np.hypot(1.0, 3.0))


def test_isolated_e0() -> None:
    assert isolated_e0([frame("H"), frame("O"), frame("H2O"), frame("H")]) == pytest.approx(
        {"H": E0["H"], "O": E0["O"]}
    )


def test_refusals() -> None:
    with pytest.raises(
        DataError, match="two isolated atoms of H differ: .* has -13.600000 eV and .* has -12.500000 eV"
    ):
        isolated_e0([frame("H"), frame("H", energy=-12.5)])
    with pytest.raises(DataError, match="none of the 1 frames has an energy"):
        least_squares_e0([frame("H2", energy=float("nan"))], ["H"])
    with pytest.raises(DataError, match="the energy weight of all 1 frames is zero"):
        least_squares_e0([frame("H2", weight=0.0)], ["H"])
    with pytest.raises(DataError, match="the elements are H; frame has O"):
        least_squares_e0([frame("H2O")], ["H"])


def test_elements_are_ordered_by_number() -> None:
    assert elements_of([frame("OH"), frame("CO")]) == ("H", "C", "O")
