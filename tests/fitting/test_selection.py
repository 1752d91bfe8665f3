"""Rules and diversity: windows, broken structures, planted clusters, brute force, permutations."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule

from adatom.fitting.active.diversity import (
    deviation_weighted_determinant,
    exchanged,
    farthest_points,
    greedy_determinant,
    standardised,
    without_duplicates,
)
from adatom.fitting.active.selection import (
    Verdict,
    adaptive_thresholds,
    broken,
    classify,
    diluted,
    fractions,
    highest,
    random_within,
)

A, C, F = Verdict.ACCURATE, Verdict.CANDIDATE, Verdict.FAILED


def clusters(seed: int = 0, d: int = 6, sizes: tuple[int, ...] = (300, 40, 7, 3, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Features and the cluster each belongs to; clusters are 10 apart and 0.1 wide."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(d)[: len(sizes)]
    label = np.repeat(np.arange(len(sizes)), sizes)
    return centres[label] + rng.normal(0.0, 0.1, (len(label), d)), label


def log_det(x: np.ndarray, labelled: np.ndarray, noise: float) -> float:
    both = np.concatenate([x, labelled])
    return float(np.linalg.slogdet(noise**2 * np.eye(both.shape[1]) + both.T @ both)[1])


# windows -------------------------------------------------------------------------------------------------------------------


def test_windows_have_the_lower_edge_inside_and_nan_fails() -> None:
    epsilon = np.array([0.0, 0.0499, 0.05, 0.1, 0.2, 5.0, np.nan, np.inf])
    verdict = classify(epsilon, 0.05, 0.2)
    assert verdict.tolist() == [A, A, C, C, F, F, F, F]
    assert fractions(verdict) == (0.25, 0.25, 0.5, 8)
    assert fractions(np.empty(0, dtype=np.int64)) == (0.0, 0.0, 0.0, 0)
    assert diluted(fractions(verdict), 8) == (0.625, 0.125, 0.25, 16)
    assert diluted(fractions(np.empty(0, dtype=np.int64)), 0) == (0.0, 0.0, 0.0, 0)
    assert classify(np.ones((2, 3)), 0.5, 2.0).shape == (2, 3)
    with pytest.raises(ValueError, match="0 ≤ lower ≤ upper"):
        classify(epsilon, 0.2, 0.1)


def test_adaptive_thresholds() -> None:
    assert adaptive_thresholds(0.06) == pytest.approx((0.15, 0.6))
    assert adaptive_thresholds(0.001) == pytest.approx((0.05, 0.20))  # the floors
    assert adaptive_thresholds(0.1, lower_factor=1.0, upper_factor=1.0) == pytest.approx((0.1, 0.25))
    for rmse, factors in ((np.nan, {}), (-1.0, {}), (0.1, {"lower_factor": 3.0, "upper_factor": 2.0})):
        with pytest.raises(ValueError, match="no window"):
            adaptive_thresholds(rmse, **factors)


def test_the_largest_gaussian_error_is_where_the_docstring_says() -> None:
    errors = np.random.default_rng(0).normal(size=(2000, 100, 3))
    assert np.sqrt((errors**2).sum(axis=2)).max(axis=1).mean() == pytest.approx(np.sqrt(3.0 + 2.0 * np.log(100.0)), rel=0.05)


def test_random_and_highest_stay_within_what_is_allowed() -> None:
    allowed = np.zeros(100, dtype=bool)
    allowed[20:60] = True
    chosen = random_within(allowed, 10, seed=4)
    assert len(set(chosen.tolist())) == 10
    assert allowed[chosen].all()
    np.testing.assert_array_equal(chosen, random_within(allowed, 10, seed=4))
    assert (chosen != random_within(allowed, 10, seed=5)).any()
    assert sorted(random_within(allowed, 1000, seed=0)) == list(range(20, 60))
    epsilon = np.arange(100.0)
    epsilon[59] = np.nan
    assert highest(epsilon, allowed, 3).tolist() == [58, 57, 56]
    assert highest(epsilon, allowed, 1000)[-1] == 59
    hits = np.bincount(np.concatenate([random_within(allowed, 4, seed=s) for s in range(2000)]), minlength=100)[20:60]
    assert ((hits - 200.0) ** 2 / 200.0).sum() < 75.0  # χ² of 39 degrees of freedom, one in a thousand


# broken structures ---------------------------------------------------------------------------------------------------------


def test_sound_structures_are_not_broken() -> None:
    water = molecule("H2O")
    sound = [bulk("Cu"), bulk("W"), bulk("Na"), bulk("Si"), bulk("U", "bcc", a=3.47), bulk("NaCl", "rocksalt", a=5.64)]
    sound += [bulk("Cu").repeat(3), fcc111("Al", (2, 2, 4), vacuum=10.0), water, ase.Atoms("H"), bulk("Ar", "fcc", a=5.3)]
    sound += [ase.Atoms("He", cell=np.eye(3) * 4.0, pbc=True)]
    for atoms in sound:
        assert broken(atoms) is None, atoms
        assert broken(atoms, reference=atoms) is None
    hot = bulk("Al", cubic=True).repeat(3)
    hot.positions += np.random.default_rng(0).normal(0.0, 0.25, hot.positions.shape)
    hot.set_cell(hot.cell * 1.05, scale_atoms=True)
    assert broken(hot, reference=bulk("Al", cubic=True).repeat(3)) is None


def test_broken_structures_say_why() -> None:
    start = bulk("Cu", cubic=True).repeat(2)
    close, gone, nan = start.copy(), start.copy(), start.copy()
    close.positions[3] = close.positions[7] + [0.9, 0.0, 0.0]
    assert "Cu3 and Cu7 are 0.9 Å apart" in str(broken(close))
    nan.positions[5] = np.nan
    assert "NaN" in str(broken(nan))
    slab = fcc111("Al", (3, 3, 3), vacuum=8.0)
    slab.positions[-1, 2] += 6.5
    slab.positions[-2, 2] += 6.6
    assert "have left the rest" in str(broken(slab))
    assert "Al25" in str(broken(slab))
    for factor, word in ((0.4, "density"), (8.0, "left the rest")):
        changed = start.copy()
        changed.set_cell(start.cell * factor, scale_atoms=True)
        assert word in str(broken(changed))
    gone.set_cell(start.cell * 1.3, scale_atoms=True)
    assert broken(gone) is None
    assert "volume is 2.2 times" in str(broken(gone, reference=start))
    pulled = start.copy()
    pulled.set_cell(start.cell.array @ np.diag([2.2, 0.7, 0.7]), scale_atoms=True)
    assert "one direction is 2.2 times" in str(broken(pulled, reference=start))
    sheared = start.copy()
    sheared.set_cell(start.cell.array + [[0, 0, 0], [0, 0, 0], [60.0, 0, 0]], scale_atoms=True)
    assert "skewed" in str(broken(sheared))


def test_broken_does_not_see_orientation_or_images_and_counts_groups() -> None:
    start = bulk("Cu", cubic=True).repeat(2)
    turned = start.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    turned.positions += turned.cell.array.T @ [3.0, -2.0, 1.0]
    assert broken(turned, reference=start) is None
    far = ase.Atoms("Ar2", positions=[[0, 0, 0], [9.0, 0, 0]])
    assert "left" in str(broken(far))
    assert broken(far, reference=far) is None
    assert broken(far, linking_A=9.5) is None
    flat = fcc111("Cu", (2, 2, 3), vacuum=None)
    assert broken(flat, reference=flat) is None  # no third lattice vector
    with pytest.raises(ValueError, match="the reference has no atoms"):
        broken(start, reference=ase.Atoms())
    with pytest.raises(ValueError, match="its reference"):
        broken(start, reference=flat)


# diversity -----------------------------------------------------------------------------------------------------------------

RULES = {
    "farthest": farthest_points,
    "determinant": lambda x, n, excluded=(): greedy_determinant(x, n, excluded=excluded, noise=0.5),
    "weighted": lambda x, n, excluded=(): deviation_weighted_determinant(
        x, 1.0 + 0.01 * x.sum(axis=1), n, excluded=excluded, noise=0.3
    ),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_cluster_once_before_any_twice(rule) -> None:
    x, label = clusters()
    assert sorted(label[rule(x, 5)]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_choice_does_not_depend_on_the_order_and_shorter_lists_begin_longer_ones(rule) -> None:
    x, _ = clusters(1)
    chosen = rule(x, 20)
    order = np.random.default_rng(2).permutation(len(x))
    np.testing.assert_array_equal(order[rule(x[order], 20)], chosen)
    np.testing.assert_array_equal(rule(x, 7), chosen[:7])
    assert len(set(chosen.tolist())) == 20


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_excluded_are_never_chosen_and_few_are_enough(rule) -> None:
    x, label = clusters(2, sizes=(8, 4, 2))
    excluded = [*rule(x, 3).tolist(), 0, 13]
    chosen = rule(x, 100, excluded=excluded)
    assert sorted(chosen) == sorted(set(range(14)) - set(excluded))
    assert len(rule(x, 5, excluded=range(14))) == 0
    assert len(rule(x, 0)) == 0
    assert len(rule(np.empty((0, 3)), 4)) == 0
    with pytest.raises(ValueError, match="index 14 is out of range"):
        rule(x, 2, excluded=[14])
    with pytest.raises(ValueError, match="count must be"):
        rule(x, -1)
    with pytest.raises(ValueError, match="candidate 3 and 1 more are not finite"):
        rule(np.where(np.isin(np.arange(14), (3, 5))[:, None], np.nan, x), 2)


@pytest.mark.parametrize("rule", [farthest_points, greedy_determinant])
def test_labelled_clusters_come_last(rule) -> None:
    x, label = clusters(3)
    labelled = x[np.flatnonzero(np.isin(label, (0, 2)))]
    candidates, own = x, label
    chosen = rule(candidates, 3, labelled=labelled)
    assert sorted(own[chosen]) == [1, 3, 4]
    with pytest.raises(ValueError, match="labelled points"):
        rule(x, 3, labelled=labelled[:, :2])


def test_farthest_points_on_a_line_are_the_closed_form() -> None:
    x = np.linspace(0.0, 1.0, 17)[:, None]
    assert farthest_points(x, 1).tolist() == [8]  # nearest to the mean
    assert farthest_points(x, 5, labelled=np.array([[0.0]])).tolist() == [16, 8, 4, 12, 2]  # halving
    assert len(farthest_points(np.repeat(x, 3, axis=0), 100)) == 17  # copies are never chosen
    assert farthest_points(x, 100, labelled=np.array([[0.0]]), min_distance=0.2).tolist() == [16, 8, 4, 12]


@pytest.mark.parametrize("m", [3, 500])
def test_farthest_points_are_brute_force(m: int) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(1e9, 1.0, (60, 4)), rng.normal(1e9, 1.0, (m, 4))  # far from the origin: no digits lost
    chosen: list[int] = []
    for _ in range(10):
        known = np.concatenate([y, x[chosen]])
        chosen.append(int(np.argmax(np.linalg.norm(x[:, None] - known[None], axis=2).min(axis=1))))
    assert farthest_points(x, 10, labelled=y).tolist() == chosen


def test_greedy_determinant_is_brute_force_at_every_step() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(25, 4)) * [3.0, 1.0, 0.3, 0.1], rng.normal(size=(6, 4))
    chosen = greedy_determinant(x, 12, labelled=y, noise=0.05)
    for n in range(12):
        known = np.concatenate([y, x[chosen[:n]]])
        rest = np.setdiff1d(np.arange(25), chosen[:n])
        assert rest[np.argmax([log_det(x[[k]], known, 0.05) for k in rest])] == chosen[n]


@pytest.mark.parametrize("seed", range(8))
def test_exchanged_is_the_best_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(2, 3))
    greedy = greedy_determinant(x, 3, labelled=y, noise=0.1, excluded=[4])
    found = exchanged(x, greedy, labelled=y, noise=0.1, excluded=[4])
    subsets = [s for s in itertools.combinations(range(9), 3) if 4 not in s]
    best = max(subsets, key=lambda s: log_det(x[list(s)], y, 0.1))
    assert sorted(found) == list(best)
    assert log_det(x[found], y, 0.1) >= log_det(x[greedy], y, 0.1)


def test_exchanged_mends_a_bad_start() -> None:
    x, label = clusters(7)
    start = np.arange(5)  # all from one cluster
    assert sorted(label[exchanged(x, start, noise=0.5)]) == [0, 1, 2, 3, 4]
    assert len(exchanged(x, [], noise=0.5)) == 0
    with pytest.raises(ValueError, match="out of range"):
        exchanged(x, [400], noise=0.5)


def test_deviation_weighs() -> None:
    """Orthogonal directions: the order is that of the deviations; one direction: the largest, then the other directions."""
    epsilon = np.array([0.1, 0.5, 0.3, 0.2])
    assert deviation_weighted_determinant(7.0 * np.eye(4), epsilon, 4, noise=0.05).tolist() == [1, 2, 3, 0]
    x = np.repeat(np.eye(3), [5, 2, 1], axis=0)
    epsilon = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert deviation_weighted_determinant(x, epsilon, 3, noise=0.05).tolist() == [0, 5, 7]
    assert deviation_weighted_determinant(x, epsilon, 2, noise=5.0).tolist() == [0, 1]  # much noise: repetition pays
    with pytest.raises(ValueError, match="deviation 2 is negative"):
        deviation_weighted_determinant(np.eye(3), np.array([1.0, 0.0, np.nan]), 1, noise=1.0)
    with pytest.raises(ValueError, match="shape"):
        deviation_weighted_determinant(np.eye(3), np.ones(2), 1, noise=1.0)
    with pytest.raises(ValueError, match="noise must be positive"):
        deviation_weighted_determinant(np.eye(3), np.ones(3), 1, noise=0.0)


def test_rows_of_zeros_teach_nothing() -> None:
    x = np.concatenate([np.zeros((3, 2)), np.eye(2)])
    assert sorted(greedy_determinant(x, 5)) == [3, 4]
    assert len(greedy_determinant(np.zeros((4, 2)), 3)) == 0
    assert sorted(deviation_weighted_determinant(x, np.ones(5), 5, noise=0.1)) == [3, 4]


def test_many_candidates_need_no_table_of_pairs() -> None:
    x = np.random.default_rng(8).normal(size=(100_000, 8))  # a table of pairs would be 80 GB
    assert len(set(farthest_points(x, 20).tolist())) == 20
    assert len(set(greedy_determinant(x, 20, labelled=x[:50]).tolist())) == 20


def test_standardised() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.normal(5.0, [1.0, 100.0, 0.0], (50, 3)), rng.normal(5.0, [1.0, 100.0, 0.0], (20, 3))
    a, b = standardised(x, y)
    both = np.concatenate([a, b])
    np.testing.assert_allclose(both.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(both.std(axis=0), [1.0, 1.0, 0.0], atol=1e-12)
    assert standardised(x)[1].shape == (0, 3)
    with pytest.raises(ValueError, match="rows"):
        standardised(np.ones(3))


def test_without_duplicates() -> None:
    x, _ = clusters(10)
    doubled = np.concatenate([x, x[::-1] + 1e-9])
    np.testing.assert_array_equal(without_duplicates(doubled, 1e-6), np.arange(len(x)))
    np.testing.assert_array_equal(without_duplicates(x, 1.5), [0, 300, 340, 347, 350])  # the first of each cluster
    np.testing.assert_array_equal(without_duplicates(x, 1.5, labelled=x[[5, 342]]), [300, 347, 350])
    np.testing.assert_array_equal(without_duplicates(np.zeros((4, 2)), 0.0), [0])
    line = np.arange(6.0)[:, None]
    np.testing.assert_array_equal(without_duplicates(line, 1.0), [0, 2, 4])  # no chains: kept ones count, not dropped ones
    with pytest.raises(ValueError, match="tolerance"):
        without_duplicates(x, -1.0)
