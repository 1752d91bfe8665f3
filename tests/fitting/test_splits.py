"""Splits: seeded, stratified by config_type, by group without leaks; refusals in one line."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from adatom.fitting.dataset import DataError, Frame, Labels
from adatom.fitting.splits import split
from adatom.potential.structure import Structure


def frame(config_type: str = "default", group: str = "", atoms: int = 2) -> Frame:
    cell = np.eye(3) * (5.0 if atoms > 1 else 30.0)
    structure = Structure(np.full(atoms, 14), np.arange(3.0 * atoms).reshape(atoms, 3), cell, np.ones(3, bool))
    return Frame(structure, Labels(energy=-1.0), config_type=config_type, group=group)


def test_random_is_deterministic_disjoint_and_complete() -> None:
    frames = [frame() for _ in range(50)]
    train, valid = split(frames, fraction=0.2, seed=3)
    again = split(frames, fraction=0.2, seed=3)
    other = split(frames, fraction=0.2, seed=4)
    assert len(valid) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(50))
    np.testing.assert_array_equal(valid, again[1])
    assert (valid != other[1]).any()


def test_random_is_stratified() -> None:
    frames = [frame("a")] * 60 + [frame("b")] * 30 + [frame("c")] * 10
    _, valid = split(frames, count=20, seed=0)
    assert Counter(frames[k].config_type for k in valid) == {"a": 12, "b": 6, "c": 2}


def test_isolated_atoms_stay_in_training() -> None:
    frames = [frame("IsolatedAtom", atoms=1), *[frame() for _ in range(4)], frame("x", atoms=1)]
    for seed in range(20):
        train, valid = split(frames, fraction=0.5, seed=seed)
        assert {0, 5} <= set(train.tolist())
        assert len(valid) == 2


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_never_on_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = [frame(group=f"run{g}") for g in rng.integers(0, 12, 100)]
    train, valid = split(frames, method="group", fraction=0.2, seed=seed)
    assert not {frames[k].group for k in train} & {frames[k].group for k in valid}
    assert 5 <= len(valid) <= 35
    assert len(train) + len(valid) == 100


def test_two_unequal_groups() -> None:
    frames = [frame(group="long")] * 99 + [frame(group="short")]
    train, valid = split(frames, method="group", fraction=0.1, seed=0)
    assert (len(train), len(valid)) == (99, 1)


def test_groups_leave_something_to_train_on() -> None:
    frames = [frame(group="a")] * 5 + [frame(group="b")] * 5
    train, valid = split(frames, method="group", count=9, seed=0)
    assert (len(train), len(valid)) == (5, 5)


def test_default_fraction_is_a_tenth() -> None:
    assert len(split([frame() for _ in range(40)], seed=0)[1]) == 4


BAD = {
    "method": ({"method": "kmeans"}, "unknown split method 'kmeans': it is 'random' or 'group'"),
    "both": ({"fraction": 0.1, "count": 3}, r"a fraction \(0.1\) or a count \(3\), not both"),
    "fraction": ({"fraction": 1.2}, "the validation fraction is 1.2, but must lie between 0 and 1"),
    "count": ({"count": 0}, "the validation count is 0, but must be at least 1"),
    "empty train": ({"count": 10}, "a validation set of 10 of 10 frames leaves none to train on"),
    "rounded": ({"fraction": 0.99}, "leaves none to train on"),
    "one group": ({"method": "group"}, r"needs two groups, but all 10 frames are in 'run'; name the entry .*group_key"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(DataError, match=message):
        split([frame(group="run") for _ in range(10)], seed=0, **options)  # type: ignore[arg-type]
