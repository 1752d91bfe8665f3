"""Which of n candidates differ most from each other and from what is labelled: features in, indices out.

Features are rows (n, d) in any unit, one a structure (or an atom); distances and scalar products are taken as they come, so
`standardised` first. Every rule gives indices in the order in which they were chosen, the most useful first, so that a shorter
list is the beginning of a longer one; fewer than `count` where no others are left. None builds an n × n matrix. Nothing is
random; ties go to the lower index.

    farthest_points                  x* = argmax_i min_{s chosen or labelled} |x_i − x_s|
    greedy_determinant               x* = argmax_i log det(A + x_i x_iᵀ),  A = σ² 1 + Σ_{labelled, chosen} x xᵀ
    deviation_weighted_determinant   the same with x_i → ε_i x_i/|x_i|: large and different errors first

Farthest points: Imbalzano et al., J. Chem. Phys. 148, 241730 (2018), after Bartók. Determinant: D-optimality as in Podryabinkin
and Shapeev, Comput. Mater. Sci. 140, 171 (2017); that the greedy maximum is the Gaussian case of BatchBALD (Kirsch et al.,
NeurIPS 2019) and "MaxDet" of Holzmüller et al., JMLR 24, 164 (2023), is why σ is a noise and why ε may weigh the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
BLOCK = 1 << 22
"""Numbers held at once where distances to many labelled points are taken."""


def standardised(features: Array, reference: Array | None = None) -> tuple[Array, Array]:
    """(features, reference) shifted and scaled to mean 0 and variance 1 of both together; constant columns become 0.

    Shapes (n, d) and (m, d); without a reference an empty (0, d). Raises ValueError for shapes that differ, NaN or infinity.
    """
    x, y = _checked(features, reference)
    both = np.concatenate([x, y])
    mean, scale = both.mean(axis=0), both.std(axis=0)
    factor = np.where(scale > 1e-12 * np.abs(both).max(axis=0, initial=0.0), 1.0 / np.where(scale > 0.0, scale, 1.0), 0.0)
    return (x - mean) * factor, (y - mean) * factor


def farthest_points(
    features: Array, count: int, *, labelled: Array | None = None, excluded: Sequence[int] = (), min_distance: float = 0.0
) -> Indices:
    """Each the farthest from all labelled and chosen ones: (≤ count,). Cost n·(count + m)·d.

    Stops where no candidate is farther than `min_distance` from these: a copy is never chosen. Without labelled points (m, d)
    the first is the one nearest to the mean. Raises ValueError as `standardised`, and for excluded indices out of range.
    """
    x, y = _checked(features, labelled)
    free = _free(len(x), count, excluded)
    if not free.any():
        return np.empty(0, dtype=np.int64)
    chosen: list[int] = []
    if len(y):
        squared = _to_nearest(x, y)
    elif count:
        off_centre = ((x - x[free].mean(axis=0)) ** 2).sum(axis=1)
        chosen = [int(np.argmin(np.where(free, off_centre, np.inf)))]
        squared = ((x - x[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count:
        free[chosen[-1:]] = False
        best = int(np.argmax(np.where(free, squared, -1.0)))
        if not free[best] or squared[best] <= min_distance**2:
            break
        chosen.append(best)
        squared = np.minimum(squared, ((x - x[best]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.int64)


def greedy_determinant(
    features: Array, count: int, *, labelled: Array | None = None, excluded: Sequence[int] = (), noise: float | None = None
) -> Indices:
    """Each the one with the largest xᵀA⁻¹x, A⁻¹ kept by rank-one updates: (≤ count,). Cost n·d·(count + d) + m·d².

    noise: σ in the features' unit; below it a direction counts as known. None: a tenth of the root mean square length of the
    rows. Stops where xᵀA⁻¹x is zero. Raises ValueError as `standardised`, for indices out of range and a noise not above 0.
    """
    x, y = _checked(features, labelled)
    free = _free(len(x), count, excluded)
    inverse = np.linalg.inv(_information(x, y, noise))
    score = np.einsum("nd,de,ne->n", x, inverse, x, optimize=True)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        best = int(np.argmax(np.where(free, score, -1.0)))
        if score[best] <= 0.0:
            break
        v = inverse @ x[best]
        gain = 1.0 + float(x[best] @ v)
        inverse -= np.outer(v, v) / gain
        score -= (x @ v) ** 2 / gain
        free[best] = False
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def exchanged(
    features: Array, chosen: Sequence[int] | Indices, *, labelled: Array | None = None, excluded: Sequence[int] = (),
    noise: float | None = None, swaps: int = 1000,
) -> Indices:  # fmt: skip
    """`chosen` with members swapped for other candidates as long as the determinant grows: what greed got wrong is mended.

    With g_ij = x_iᵀA⁻¹x_j, A holding the chosen ones too, p for j multiplies det A by (1 + g_jj)(1 − g_pp) + g_jp² (Fedorov,
    "Theory of optimal experiments" (1972)), the idea of maxvol. Same arguments, cost and errors as `greedy_determinant`.
    """
    x, y = _checked(features, labelled)
    current = np.array(chosen, dtype=np.int64)
    free = _free(len(x), len(current), excluded)
    if len(current) == 0:
        return current
    _free(len(x), len(current), current.tolist())  # indices out of range are an error
    free[current] = False
    a = _information(x, y, noise) + x[current].T @ x[current]
    for _ in range(swaps):
        projected = x @ np.linalg.inv(a)
        g = np.einsum("nd,nd->n", projected, x)
        ratio = (1.0 + g)[:, None] * (1.0 - g[current])[None, :] + (projected @ x[current].T) ** 2
        ratio[~free] = 0.0
        j, place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        if ratio[j, place] <= 1.0 + 1e-9:
            break
        p = current[place]
        a += np.outer(x[j], x[j]) - np.outer(x[p], x[p])
        free[p], free[j], current[place] = True, False, j
    return current


def deviation_weighted_determinant(
    features: Array, deviation: Array, count: int, *, excluded: Sequence[int] = (), noise: float
) -> Indices:
    """`greedy_determinant` of ε_i x_i/|x_i|: the joint entropy of errors with spread ε_i and correlation cos(x_i, x_j).

    deviation (n,): calibrated, in the unit of `noise`, the error one would accept (or DFT's own). No labelled points enter: a
    committee that was trained on them has taken them into account. Raises ValueError for a negative or not finite deviation.
    """
    x, _ = _checked(features, None)
    epsilon = np.asarray(deviation, dtype=np.float64)
    if epsilon.shape != (len(x),):
        raise ValueError(f"{len(x)} rows of features, but deviations of shape {epsilon.shape}")
    if not (np.isfinite(epsilon) & (epsilon >= 0.0)).all():
        raise ValueError(f"deviation {int(np.argmin(np.isfinite(epsilon) & (epsilon >= 0.0)))} is negative or not finite")
    length = np.sqrt((x * x).sum(axis=1))
    return greedy_determinant(x * (epsilon / np.where(length > 0.0, length, 1.0))[:, None], count, excluded=excluded, noise=noise)


def without_duplicates(features: Array, tolerance: float, *, labelled: Array | None = None) -> Indices:
    """Candidates farther than `tolerance` from every labelled point and from every one kept before them: sorted indices."""
    x, y = _checked(features, labelled)
    if not 0.0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be zero or positive, not {tolerance}")
    keep = np.sqrt(_to_nearest(x, y)) > tolerance if len(y) else np.ones(len(x), dtype=bool)
    tree = cKDTree(x)
    for i in range(len(x)):
        if keep[i]:
            near = np.array(tree.query_ball_point(x[i], tolerance * (1.0 + 1e-12)), dtype=np.int64)
            keep[near[near > i]] = False
    return np.flatnonzero(keep)


def _checked(features: Array, other: Array | None) -> tuple[Array, Array]:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"features must be rows (n, d), not of shape {x.shape}")
    y = np.empty((0, x.shape[1])) if other is None else np.asarray(other, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] != x.shape[1]:
        raise ValueError(f"candidates have features of shape {x.shape}, labelled points {y.shape}")
    for name, array in (("candidate", x), ("labelled point", y)):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise ValueError(f"the features of {name} {bad[0]} and {len(bad) - 1} more are not finite")
    return x, y


def _free(n: int, count: int, excluded: Sequence[int]) -> NDArray[np.bool_]:
    if count < 0:
        raise ValueError(f"count must be zero or more, not {count}")
    out = np.asarray(excluded, dtype=np.int64)
    if len(out) and (out.min() < 0 or out.max() >= n):
        raise ValueError(f"index {out.min() if out.min() < 0 else out.max()} is out of range: there are {n} candidates")
    free = np.ones(n, dtype=bool)
    free[out] = False
    return free


def _to_nearest(x: Array, y: Array) -> Array:
    """Squared distance of each row of x to the nearest row of y: (n,)."""
    best = np.empty(len(x))
    centre = y.mean(axis=0)  # |x|² − 2 x·y + |y|² loses digits far from the origin
    x, y = x - centre, y - centre
    rows = max(1, BLOCK // max(1, len(y)))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        cross = (y * y).sum(axis=1)[None, :] - 2.0 * part @ y.T
        nearest = y[np.argmin(cross, axis=1)]
        best[start : start + rows] = ((part - nearest) ** 2).sum(axis=1)
    return best


def _information(x: Array, y: Array, noise: float | None) -> Array:
    """σ² 1 + Σ_labelled y yᵀ, (d, d)."""
    if noise is None:
        rows = len(x) + len(y)
        noise = 0.1 * float(np.sqrt(((x * x).sum() + (y * y).sum()) / rows)) if rows else 1.0
        noise = noise or 1.0
    if not 0.0 < noise < np.inf:
        raise ValueError(f"noise must be positive, not {noise}")
    return noise**2 * np.eye(x.shape[1]) + y.T @ y
