"""Divide frames into training and validation: at random within each config_type, or by whole groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adatom.fitting.dataset import Frame
from adatom.fitting.e0 import is_isolated
from adatom.fitting.labels import DataError

Indices = NDArray[np.int64]


def split(
    frames: Sequence[Frame],
    *,
    method: str = "random",
    fraction: float | None = None,
    count: int | None = None,
    seed: int,
) -> tuple[Indices, Indices]:
    """Indices (training, validation), each sorted; the same for the same frames, arguments and seed.

    `fraction` (default 0.1) or `count` says how many frames go to validation. method "random" gives every
    config_type its share; "group" moves whole groups (`Frame.group`: one trajectory, say), so that no group is on
    both sides, and comes as near to the wanted number as whole groups allow. Isolated atoms always stay in
    training: they set E0.

    Raises DataError where either side would be empty or there is only one group.
    """
    if method not in {"random", "group"}:
        raise DataError(f"unknown split method {method!r}: it is 'random' or 'group'")
    movable = np.array([k for k, frame in enumerate(frames) if not is_isolated(frame)], dtype=np.int64)
    wanted = _wanted(len(movable), fraction, count)
    rng = np.random.default_rng(seed)
    choose = _stratified if method == "random" else _groups
    labels = [frames[k].config_type if method == "random" else frames[k].group for k in movable]
    valid = np.sort(movable[choose(np.array(labels), wanted, rng)])
    return np.setdiff1d(np.arange(len(frames), dtype=np.int64), valid), valid


def _wanted(available: int, fraction: float | None, count: int | None) -> int:
    if fraction is not None and count is not None:
        raise DataError(f"give the validation set a fraction ({fraction}) or a count ({count}), not both")
    if fraction is not None and not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction is {fraction}, but must lie between 0 and 1")
    if count is not None and count < 1:
        raise DataError(f"the validation count is {count}, but must be at least 1")
    wanted = count if count is not None else max(1, round((0.1 if fraction is None else fraction) * available))
    if wanted >= available:
        raise DataError(
            f"a validation set of {wanted} of {available} frames leaves none to train on; "
            "ask for fewer, or give validation files of their own"
        )
    return wanted


def _stratified(labels: NDArray[np.str_], wanted: int, rng: np.random.Generator) -> Indices:
    """Positions chosen so that each label has its share to within one frame (largest remainders)."""
    names, counts = np.unique(labels, return_counts=True)
    share = wanted * counts / counts.sum()
    quota = np.floor(share).astype(np.int64)
    order = np.lexsort((rng.random(len(names)), quota - share))
    quota[order[: wanted - quota.sum()]] += 1
    picked = [rng.permutation(np.flatnonzero(labels == name))[:n] for name, n in zip(names, quota, strict=True)]
    return np.concatenate(picked)


def _groups(labels: NDArray[np.str_], wanted: int, rng: np.random.Generator) -> Indices:
    """Positions of whole groups, taken in random order while they bring the number nearer to the wanted one."""
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"a split by group needs two groups, but all {len(labels)} frames are in {str(names[0])!r}; "
            "name the entry that tells trajectories apart (group_key), or split at random"
        )
    taken: list[int] = []
    total = 0
    for g in rng.permutation(len(names)):
        nearer = abs(total + counts[g] - wanted) < abs(total - wanted)
        if nearer and total + counts[g] < counts.sum():
            taken.append(g)
            total += counts[g]
    if not taken:
        taken = [int(np.argmin(counts))]
    return np.flatnonzero(np.isin(labels, names[taken]))
