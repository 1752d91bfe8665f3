"""From explored frames to those that are labelled: a window, sound structures, then what tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import ase
import numpy as np

from adatom.fitting.active.config import Rule
from adatom.fitting.active.diversity import (
    deviation_weighted_determinant,
    farthest_points,
    greedy_determinant,
    standardised,
)
from adatom.fitting.active.selection import Fractions, Verdict, Window, broken, classify, fractions, highest, random_within

Array = np.ndarray
CROWD = 2000
"""Candidates that are told apart at most; more are thinned at random."""


class Choice(NamedTuple):
    """chosen: indices of frames, the most useful first; fractions of the explored frames; rejected: reasons and how often;
    beyond: how many of the chosen are above the window."""

    chosen: list[int]
    fractions: Fractions
    rejected: dict[str, int]
    beyond: int


def choose(
    frames: Sequence[ase.Atoms], deviation: Array, features: Array, labelled: Array, *, window: Window, rule: Rule, count: int,
    seed: int, quiet: float = 0.0,
) -> Choice:  # fmt: skip
    """At most `count` frames. features (n, d), of labelled frames (m, d); deviation (n,) eV/Å.

    quiet: this part of them from the accurate frames, those that differ most from the labelled ones (none where nothing else is
    chosen): small errors of forces leave those of energy and stress, of which lattice and elastic constants are made.
    Where the window holds fewer sound frames than wanted, frames above it follow, the least deviating first: a potential that
    fails at once would else never learn why.
    """
    verdicts = classify(deviation, *window)
    accurate = np.flatnonzero(verdicts == Verdict.ACCURATE)
    spare = min(round(quiet * count), len(accurate))
    count -= spare
    reasons: Counter[str] = Counter()
    sound = np.zeros(len(frames), dtype=bool)
    for k in np.flatnonzero(verdicts != Verdict.ACCURATE):
        reason = broken(frames[int(k)])
        sound[k] = reason is None
        if reason:
            reasons[_kind(reason)] += 1
    candidates = _thinned(np.flatnonzero((verdicts == Verdict.CANDIDATE) & sound), seed)
    found = _pick(rule, deviation[candidates], features[candidates], labelled, count, seed, window.lower)
    picked = [int(candidates[k]) for k in found]
    above = np.flatnonzero((verdicts == Verdict.FAILED) & sound & np.isfinite(deviation))
    more = [int(k) for k in above[np.argsort(deviation[above], kind="stable")][: max(0, count - len(candidates))]]
    chosen = picked + more
    if few := min(spare, round(len(chosen) * quiet / (1.0 - quiet))):
        accurate = _thinned(accurate, seed)
        x, y = standardised(features[accurate], np.concatenate([labelled, features[chosen]]))
        chosen += [int(accurate[k]) for k in greedy_determinant(x, few, labelled=y)]
    return Choice(chosen, fractions(verdicts), dict(reasons), len(more))


def _thinned(indices: np.ndarray, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(indices)[:CROWD])


def _pick(
    rule: Rule, deviation: Array, features: Array, labelled: Array, count: int, seed: int, accepted: float
) -> Sequence[int] | Array:  # fmt: skip
    allowed = np.ones(len(deviation), dtype=bool)
    if rule == "random":
        return random_within(allowed, count, seed=seed)
    if rule == "highest" or len(deviation) <= count:
        return highest(deviation, allowed, count)
    x, y = standardised(features, labelled)
    if rule == "weighted":
        return deviation_weighted_determinant(x, deviation, count, noise=max(accepted, 1e-9))
    return (greedy_determinant if rule == "determinant" else farthest_points)(x, count, labelled=y)


def _kind(reason: str) -> str:
    """Reasons without their numbers, to be counted."""
    for word, kind in (("apart", "atoms too close"), ("left the rest", "evaporated"), ("density", "absurd density")):
        if word in reason:
            return kind
    return "broken cell"
