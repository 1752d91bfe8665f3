"""Distances in a structure, and a fingerprint that tells whether two structures are the same.

One pass over the neighbours of each frame gives the shortest distance of each pair of elements, the atoms without a
neighbour, and per atom, with g(d) = (1 + cos πd/r_c)/2 over its neighbours j,

    Σ g,   Σ g²,   and with weights w = g √Z_j / 5:   Σ w,   |Σ w r̂|,   the three eigenvalues of Σ w r̂ r̂ᵀ.

None of these changes with the order of the atoms, translation, rotation, mirror image or the choice of periodic
images; all are smooth, so that rounding in a file changes them little. Sorted within each element they are the
fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from adatom.fitting.e0 import nearest_image
from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import Structure

Array = NDArray[np.float64]

SAME = 1e-4
"""Largest difference of fingerprints of the same structure: rounding to 1e-5 Å passes, moving an atom by 0.01 Å
does not."""


@dataclass(frozen=True)
class Geometry:
    """What the audit needs of one structure.

    min_distance: shortest distance in Å per pair of atomic numbers (Z1 ≤ Z2) within the cutoff; crowding: smallest
    distance in units of the sum of the covalent radii, and the pair it belongs to; lonely: atoms that have no
    neighbour within the cutoff; key: structures that may be the same have the same key; fingerprint: (atoms × 7 + 2,).
    """

    min_distance: dict[tuple[int, int], float]
    crowding: float
    crowded_pair: tuple[int, int]
    lonely: NDArray[np.int64]
    key: tuple[int, ...]
    fingerprint: Array


def measure(structure: Structure, cutoff: float) -> Geometry:
    """Geometry of a structure, with neighbours up to `cutoff` Å."""
    numbers, atoms = structure.numbers, len(structure)
    pairs = neighbour_pairs(structure, cutoff)
    vectors = structure.positions[pairs.j] - structure.positions[pairs.i] + pairs.shifts @ structure.cell
    distance = np.linalg.norm(vectors, axis=1)
    first, second = np.minimum(numbers[pairs.i], numbers[pairs.j]), np.maximum(numbers[pairs.i], numbers[pairs.j])
    code = first * 256 + second
    order = np.argsort(distance, kind="stable")
    kinds, at = np.unique(code[order], return_index=True)
    shortest = {(int(c) // 256, int(c) % 256): float(distance[order[k]]) for c, k in zip(kinds, at, strict=True)}
    ratio = {pair: d / float(covalent_radii[pair[0]] + covalent_radii[pair[1]]) for pair, d in shortest.items()}
    crowded = min(ratio, key=lambda pair: ratio[pair]) if ratio else (0, 0)
    lonely = np.flatnonzero(np.bincount(pairs.i, minlength=atoms) == 0)
    key = (*np.sort(numbers).tolist(), int(structure.pbc.sum()))
    fingerprint = _fingerprint(structure, pairs.i, numbers[pairs.j], vectors, distance, cutoff)
    return Geometry(shortest, ratio.get(crowded, np.inf), crowded, lonely, key, fingerprint)


def _fingerprint(
    structure: Structure, i: NDArray[np.int64], z_j: NDArray[np.int64], vectors: Array, distance: Array, cutoff: float
) -> Array:
    atoms = len(structure)
    g = 0.5 * (1.0 + np.cos(np.pi * distance / cutoff))
    unit = vectors / np.maximum(distance, 1e-9)[:, None]

    def per_atom(values: Array) -> Array:
        return np.bincount(i, weights=values, minlength=atoms).astype(np.float64)

    w = g * np.sqrt(z_j) / 5.0
    dipole = np.column_stack([per_atom(w * unit[:, c]) for c in range(3)])
    columns = [per_atom(g), per_atom(g * g), per_atom(w), np.linalg.norm(dipole, axis=1)]
    tensor = np.empty((atoms, 3, 3))
    for c in range(3):
        for d in range(c + 1):
            tensor[:, c, d] = tensor[:, d, c] = per_atom(w * unit[:, c] * unit[:, d])
    features = np.column_stack([*columns, np.linalg.eigvalsh(tensor)])
    order = np.argsort(structure.numbers, kind="stable")
    numbers, features = structure.numbers[order], features[order]
    for z in np.unique(numbers):
        features[numbers == z] = np.sort(features[numbers == z], axis=0)
    centred = structure.positions - structure.positions.mean(axis=0)
    if structure.pbc.all():
        extent = structure.volume ** (1.0 / 3.0)
    elif structure.pbc.any():
        extent = min(nearest_image(structure), 1e6)
    else:
        extent = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return np.concatenate([[features[:, 0].mean(), extent], features.ravel()])


def same_structures(first: Sequence[Geometry], second: Sequence[Geometry] | None = None) -> list[tuple[int, int]]:
    """Pairs (a, b) of structures that are the same: within `first` with a < b, or a in `first` and b in `second`."""
    everything = [*first, *(second or ())]
    buckets: dict[tuple[int, ...], list[int]] = {}
    for k, geometry in enumerate(everything):
        buckets.setdefault(geometry.key, []).append(k)
    found: list[tuple[int, int]] = []
    for members in buckets.values():
        index = np.array(members)
        prints = np.array([everything[k].fingerprint for k in members])
        order = np.argsort(prints[:, 0], kind="stable")
        index, prints = index[order], prints[order]
        for row, last in enumerate(np.searchsorted(prints[:, 0], prints[:, 0] + SAME, side="right")):
            if last <= row + 1:
                continue
            close = np.abs(prints[row + 1 : last] - prints[row]).max(axis=1) < SAME
            for other in index[row + 1 : last][close]:
                a, b = sorted((int(index[row]), int(other)))
                if second is None:
                    found.append((a, b))
                elif a < len(first) <= b:
                    found.append((a, b - len(first)))
    return sorted(found)
