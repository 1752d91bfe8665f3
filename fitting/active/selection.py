"""Which frames of an exploration are worth a DFT calculation: trust windows, broken structures, and the two simplest choices.

    accurate:  ε < lower;    candidate:  lower ≤ ε < upper;    failed:  upper ≤ ε, or ε is not a number

with ε the largest deviation of the force on an atom among a committee, eV/Å: DP-GEN's windows, Zhang, Lin, Wang, Car and E,
Phys. Rev. Materials 3, 023804 (2019). Choices that look at the structures, too, are in `diversity`; all are functions of arrays,
so that a rule is a composition of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import ase
import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from adatom.potential.neighbours import Pairs, neighbour_pairs
from adatom.potential.structure import Structure, from_atoms

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Verdict(IntEnum):
    """What a deviation says about a frame."""

    ACCURATE = 0
    CANDIDATE = 1
    FAILED = 2


class Window(NamedTuple):
    """Trust window in the unit of the deviation, eV/Å for forces."""

    lower: float
    upper: float


class Fractions(NamedTuple):
    """Shares of `frames` frames; they add up to 1, or are all 0 where there are no frames."""

    accurate: float
    candidate: float
    failed: float
    frames: int


def classify(deviation: Array, lower: float, upper: float) -> Indices:
    """`Verdict` of each deviation, shape kept. NaN and infinity are failed.

    Raises ValueError unless 0 ≤ lower ≤ upper.
    """
    if not 0.0 <= lower <= upper:
        raise ValueError(f"a window has 0 ≤ lower ≤ upper, not {lower} and {upper}")
    epsilon = np.asarray(deviation, dtype=np.float64)
    verdict = np.full(epsilon.shape, int(Verdict.FAILED), dtype=np.int64)
    verdict[epsilon < upper] = Verdict.CANDIDATE
    verdict[epsilon < lower] = Verdict.ACCURATE
    return verdict


def fractions(verdicts: Indices) -> Fractions:
    """The three shares of an array of verdicts."""
    counts = np.bincount(np.asarray(verdicts, dtype=np.int64).ravel(), minlength=3)
    share = counts / max(1, counts.sum())
    return Fractions(float(share[0]), float(share[1]), float(share[2]), int(counts.sum()))


def diluted(share: Fractions, accurate: int) -> Fractions:
    """With so many more frames that are accurate."""
    frames = share.frames + accurate
    counts = [x * share.frames for x in share[:3]]
    parts = [x / max(1, frames) for x in (counts[0] + accurate, *counts[1:])]
    return Fractions(parts[0], parts[1], parts[2], frames)


def adaptive_thresholds(
    validation_force_rmse: float, *, lower_factor: float = 2.5, upper_factor: float = 10.0, least_lower: float = 0.05,
    most_lower: float = 0.25, least_width: float = 0.15,
) -> Window:  # fmt: skip
    """lower = lower_factor · RMSE within [least_lower, most_lower], upper = max(upper_factor · RMSE, lower + least_width): eV/Å.

    RMSE: of force components on validation data, eV/Å. A deviation is the largest over some N atoms of the length of a vector:
    Gaussian errors, alike at every atom, have about √(3 + 2 ln N) RMSE there, 3.5 for N = 100, and a committee usually spreads
    less than it errs. Ratio and floors are those of the window 0.05 to 0.20 eV/Å that DP-GEN's users know; below it, DFT's own
    noise would be labelled. A poor potential must not take its own errors for the measure of what is accurate: most_lower.
    Raises ValueError for values that are negative or not finite, and factors in the wrong order.
    """
    values = (validation_force_rmse, lower_factor, upper_factor, least_lower, most_lower, least_width)
    if not all(0.0 <= v < np.inf for v in values) or upper_factor < lower_factor:
        raise ValueError(
            f"no window from RMSE {validation_force_rmse}, factors {lower_factor} and {upper_factor}, floors {least_lower} and "
            f"{least_width}: all must be zero or positive and finite, the upper factor not below the lower"
        )
    lower = max(min(lower_factor * validation_force_rmse, most_lower), least_lower)
    return Window(lower, max(upper_factor * validation_force_rmse, lower + least_width))


def random_within(allowed: NDArray[np.bool_], count: int, *, seed: int) -> Indices:
    """Up to `count` indices of True, at random in random order: DP-GEN's choice among the candidates."""
    if count < 0:
        raise ValueError(f"count must be zero or more, not {count}")
    return np.random.default_rng(seed).permutation(np.flatnonzero(allowed))[:count]


def highest(deviation: Array, allowed: NDArray[np.bool_], count: int) -> Indices:
    """Up to `count` indices of True, the largest deviation first; NaN is the smallest, ties go to the lower index."""
    if count < 0:
        raise ValueError(f"count must be zero or more, not {count}")
    epsilon = np.asarray(deviation, dtype=np.float64)
    where = np.flatnonzero(allowed)
    rank = np.where(np.isnan(epsilon[where]), -np.inf, epsilon[where])
    return where[np.argsort(-rank, kind="stable")][:count]


def broken(
    atoms: ase.Atoms, *, reference: ase.Atoms | None = None, closest: float = 0.5, linking_A: float = 6.0,
    volume_ratio: float = 2.0, packing: float = 4.0, stretch: float = 2.0, skew: float = 5.0,
) -> str | None:  # fmt: skip
    """Why a structure is not worth a calculation, in words; None where nothing is wrong. ValueError only for a bad reference.

    - positions or cell are not finite, or the cell has no volume;
    - cell skewed: a periodic lattice vector is more than `skew` times its height over the others (DP-GEN's height_ratio);
    - density: the covalent spheres fill more than `packing` times a 3-D periodic cell (0.8 in copper, 1.5 in uranium);
    - against `reference`, the structure at the start: the volume changed `volume_ratio` times either way (3-D periodic), or a
      direction of the cell was stretched or compressed `stretch` times (singular values of cell_ref⁻¹ cell);
    - two atoms are closer than `closest` of the sum of their covalent radii (ase.data; 0.5 is where the audit warns);
    - atoms that no chain of links of at most `linking_A` joins to the largest group: evaporated. As many groups as `reference`
      has are allowed, without one a single group.
    """
    start = None if reference is None else from_atoms(reference, name="the reference")
    try:
        structure = from_atoms(atoms)
    except ValueError as error:
        return str(error)
    if start is not None and (start.pbc != structure.pbc).any():
        raise ValueError(f"the structure has pbc {structure.pbc.tolist()}, its reference {start.pbc.tolist()}")
    return (
        _bad_cell(structure, start, volume_ratio, packing, stretch, skew)
        or _crowded(structure, closest)
        or _evaporated(structure, start, linking_A)
    )


def _bad_cell(
    x: Structure, start: Structure | None, volume_ratio: float, packing: float, stretch: float, skew: float
) -> str | None:
    periodic = x.cell[x.pbc]
    if len(periodic) > 1:
        lengths, heights = np.linalg.norm(periodic, axis=1), 1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
        k = int(np.argmax(lengths / heights))
        if lengths[k] > skew * heights[k]:
            return f"the cell is skewed: a lattice vector of {lengths[k]:.3g} Å has a height of {heights[k]:.3g} Å"
    if x.pbc.all():
        filled = float((4.0 / 3.0 * np.pi * covalent_radii[x.numbers] ** 3).sum() / x.volume)
        if filled > packing:
            return f"absurd density: {x.volume / len(x):.3g} Å³ an atom, covalent spheres fill it {filled:.3g} times"
    if start is None:
        return None
    if x.pbc.all():
        change = (x.volume / len(x)) / (start.volume / len(start))
        if not 1.0 / volume_ratio <= change <= volume_ratio:
            return f"the volume is {change:.3g} times that at the start"
    if len(periodic):
        factors = np.linalg.svd(np.linalg.pinv(start.cell[start.pbc]) @ periodic, compute_uv=False)[: len(periodic)]
        worst = factors[int(np.argmax(np.abs(np.log(np.maximum(factors, 1e-12)))))]
        if len(start) == len(x) and not 1.0 / stretch <= worst <= stretch:
            return f"the cell exploded: one direction is {worst:.3g} times as long as at the start"
    return None


def _crowded(x: Structure, closest: float) -> str | None:
    radii = covalent_radii[x.numbers]
    pairs = neighbour_pairs(x, max(2.0 * closest * float(radii.max()), 1e-3))
    if not len(pairs.i):
        return None
    d = _lengths(x, pairs)
    ratio = d / (radii[pairs.i] + radii[pairs.j])
    k = int(np.argmin(ratio))
    if ratio[k] >= closest:
        return None
    a, b = (f"{chemical_symbols[x.numbers[atom]]}{atom}" for atom in (pairs.i[k], pairs.j[k]))
    return f"{a} and {b} are {d[k]:.3g} Å apart, {ratio[k]:.2g} of the sum of covalent radii"


def _evaporated(x: Structure, start: Structure | None, linking: float) -> str | None:
    label = _groups(x, linking)
    sizes = np.bincount(label)
    allowed = 1 if start is None else len(np.unique(_groups(start, linking)))
    if len(sizes) <= allowed:
        return None
    lost = np.flatnonzero(label != np.argmax(sizes))
    name = f"{chemical_symbols[x.numbers[lost[0]]]}{lost[0]}"
    return f"{name} and {len(lost) - 1} other atoms have left the rest: {linking:g} Å away or more, {len(sizes)} separate groups"


def _groups(x: Structure, linking: float) -> Indices:
    """Number of the connected group each atom belongs to: (atoms,)."""
    pairs = neighbour_pairs(x, linking)
    links = coo_matrix((np.ones(len(pairs.i)), (pairs.i, pairs.j)), shape=(len(x), len(x)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _lengths(x: Structure, pairs: Pairs) -> Array:
    return np.linalg.norm(x.positions[pairs.j] - x.positions[pairs.i] + pairs.shifts @ x.cell, axis=1)
