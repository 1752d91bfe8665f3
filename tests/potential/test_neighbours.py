"""The neighbour list against a brute-force search over images."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from adatom.potential.neighbours import close_gaps, complete_cell, neighbour_pairs, reverse_pairs
from adatom.potential.structure import Structure


def brute_force(s, cutoff):
    """{(i, j, S)} by trying every image that can matter, one by one."""
    reach = np.zeros(3, dtype=int)
    if s.pbc.any():
        periodic = s.cell[s.pbc]
        heights = 1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
        extent = np.linalg.norm(s.positions[:, None] - s.positions[None], axis=-1).max()
        reach[s.pbc] = np.ceil((cutoff + extent) / heights).astype(int) + 1
    found = set()
    for image in itertools.product(*[range(-n, n + 1) for n in reach]):
        d = s.positions[None] - s.positions[:, None] + np.array(image) @ s.cell
        near = np.linalg.norm(d, axis=-1) < cutoff
        if not any(image):
            np.fill_diagonal(near, False)
        found |= {(int(i), int(j), image) for i, j in zip(*np.nonzero(near), strict=True)}
    return found


def make(positions, cell, pbc):
    positions = np.array(positions, dtype=float)
    return Structure(np.ones(len(positions), dtype=int), positions, np.array(cell, dtype=float), np.array(pbc, dtype=bool))


def check(s, cutoff):
    pairs = neighbour_pairs(s, cutoff)
    found = [(int(i), int(j), tuple(map(int, shift))) for i, j, shift in zip(*pairs, strict=True)]
    assert len(set(found)) == len(found)
    assert set(found) == brute_force(s, cutoff)
    assert (np.diff(pairs.i) >= 0).all()
    check_reverse(pairs, len(s))
    return pairs


def check_reverse(pairs, n):
    reverse = reverse_pairs(pairs, n)
    assert_array_equal(pairs.i[reverse], pairs.j)
    assert_array_equal(pairs.j[reverse], pairs.i)
    assert_array_equal(pairs.shifts[reverse], -pairs.shifts)
    assert_array_equal(reverse[reverse], np.arange(len(reverse)))


TRICLINIC = [[3.1, 0.2, -0.4], [1.4, 2.7, 0.3], [-0.9, 0.8, 3.3]]
ATOMS = [[0.1, 0.2, 0.3], [1.6, 1.1, 0.9], [0.4, 2.0, 2.2]]
CASES = {
    "tiny cell, five images deep": make([[0.2, 0.1, 0.0]], np.diag([1.1, 1.3, 1.2]), [1, 1, 1]),
    "triclinic": make(ATOMS, TRICLINIC, [1, 1, 1]),
    "left-handed": make(ATOMS, TRICLINIC[::-1], [1, 1, 1]),
    "very skewed": make(ATOMS, [[3.0, 0, 0], [8.9, 2.5, 0], [-7.0, 11.0, 3.0]], [1, 1, 1]),
    "slab, third vector zero": make(ATOMS, [*TRICLINIC[:2], [0, 0, 0]], [1, 1, 0]),
    "slab, third vector much too short": make(ATOMS, [*TRICLINIC[:2], [0.1, 0.0, 0.2]], [1, 1, 0]),
    "slab, third vector in its plane": make(ATOMS, [*TRICLINIC[:2], TRICLINIC[0]], [1, 1, 0]),
    "slab along the first vector": make(ATOMS, TRICLINIC, [0, 1, 1]),
    "wire": make(ATOMS, [[0, 0, 0], TRICLINIC[1], [0, 0, 0]], [0, 1, 0]),
    "wire in a box": make(ATOMS, TRICLINIC, [0, 0, 1]),
    "molecule, no cell": make(ATOMS, np.zeros((3, 3)), [0, 0, 0]),
    "molecule in a box": make(ATOMS, TRICLINIC, [0, 0, 0]),
    "flat molecule": make([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.zeros((3, 3)), [0, 0, 0]),
    "one atom, no cell": make([[5.0, 6.0, -7.0]], np.zeros((3, 3)), [0, 0, 0]),
    "atoms far outside the cell": make(np.array(ATOMS) + [[31.0, -17, 9], [-12, 8, 0], [0, 0, 44]], TRICLINIC, [1, 1, 1]),
    "slab with atoms far outside": make(np.array(ATOMS) + [[9.0, -7, 0], [-12, 8, 0], [0, 0, 2]], TRICLINIC, [1, 1, 0]),
}


@pytest.mark.parametrize("cutoff", [1.5, 4.0])
@pytest.mark.parametrize("name", CASES)
def test_pairs_are_those_of_a_brute_force_search(name, cutoff):
    check(CASES[name], cutoff)


@given(
    n=st.integers(1, 5),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 10**6),
    cutoff=st.floats(0.8, 4.5),
    spread=st.sampled_from([0.3, 1.0, 2.5]),
)
def test_random_structures(n, pbc, seed, cutoff, spread):
    rng = np.random.default_rng(seed)
    cell = 2.5 * np.eye(3) + rng.uniform(-0.8, 0.8, (3, 3))
    check(make(spread * rng.uniform(-1.0, 2.0, (n, 3)) @ cell, cell, pbc), cutoff)


@given(seed=st.integers(0, 10**6), offset=st.integers(-1, 1))
def test_pairs_exactly_at_the_cutoff_come_in_both_directions_or_not_at_all(seed, offset):
    """Crystals have many pairs at one distance; rounding must not keep one side of such a pair only."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    cell = 3.6 * turn
    positions = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) @ cell + rng.normal(size=3)
    s = make(positions, cell, rng.random(3) < 0.7)
    d = positions[rng.integers(1, 4)] - positions[0] + (rng.integers(-1, 2, 3) * s.pbc) @ cell
    cutoff = float(np.linalg.norm(d))
    cutoff = {-1: np.nextafter(cutoff, 0.0), 0: cutoff, 1: np.nextafter(cutoff, 9.0)}[offset]
    check_reverse(neighbour_pairs(s, cutoff), len(s))


def test_no_pairs_at_all():
    pairs = neighbour_pairs(CASES["one atom, no cell"], 3.0)
    assert len(pairs.i) == len(reverse_pairs(pairs, 1)) == 0
    assert pairs.shifts.shape == (0, 3)


def test_atoms_that_flew_away_cost_nothing():
    """Bins of the search grow with the box: three atoms 10 km apart must not ask for all memory (or warn)."""
    s = make([[0, 0, 0], [1e14, 1e14, 1e14], [0.5, 0, 0], [-1e14, 0, 3], [1e14, 1e14, 1e14 + 1]], np.zeros((3, 3)), [0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = neighbour_pairs(s, 5.0)
    assert set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == {(0, 2), (2, 0), (1, 4), (4, 1)}


def test_closing_gaps_keeps_near_vectors_and_far_atoms_far():
    rng = np.random.default_rng(0)
    r = np.concatenate([rng.uniform(0, 6, (8, 3)) + c for c in ([0, 0, 0], [50.0, 0, 3], [1, -80, 30])])
    moved = close_gaps(r, np.eye(3), 5.0)
    d, e = (x[None] - x[:, None] for x in (r, moved))
    near = np.linalg.norm(d, axis=-1) < 5.0
    assert_allclose(e[near], d[near], atol=1e-12)
    assert_array_equal(np.linalg.norm(e, axis=-1) < 5.0, near)
    assert np.ptp(moved, axis=0).max() < 40.0


def test_completed_cell_holds_all_atoms_and_keeps_periodic_vectors():
    s = CASES["slab with atoms far outside"]
    cell, origin = complete_cell(s.cell, s.pbc, s.positions, 2.0)
    assert_allclose(cell[:2], s.cell[:2])
    assert_allclose(cell[:2] @ cell[2], 0.0, atol=1e-12)
    height = (s.positions - origin) @ np.linalg.inv(cell)
    assert height[:, 2].min() > 0
    assert height[:, 2].max() < 1
