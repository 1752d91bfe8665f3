"""Findings about structures that are there more than once, in one list of frames or in training and test.

Fingerprints (audit_geometry) say which structures may be the same; labels and a comparison atom on atom decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adatom.fitting.audit_geometry import Geometry, same_structures
from adatom.fitting.audit_report import Finding, plural, sources
from adatom.fitting.dataset import Frame
from adatom.potential.structure import Structure

SAME_ENERGY, SAME_FORCE = 1e-3, 0.05
"""Labels of one structure may differ by this much: eV/atom, eV/Å."""


def check_duplicates(frames: Sequence[Frame], geometry: Sequence[Geometry]) -> list[Finding]:
    """The same structure more than once, and the same structure with different labels."""
    repeats: list[int] = []
    contradictions: list[tuple[int, int]] = []
    for group in groups_of(same_structures(geometry)):
        distinct: list[int] = []
        for k in group:
            for first in distinct:
                relation = _relation(frames[first], frames[k])
                if relation == "different":
                    continue
                repeats.append(k)
                if relation == "contradiction":
                    contradictions.append((first, k))
                break
            else:
                distinct.append(k)
    findings = []
    if contradictions:
        a, b = max(contradictions, key=lambda pair: label_difference(frames[pair[0]], frames[pair[1]]))
        energy, force = label_difference(frames[a], frames[b])
        message = (
            f"{plural(len(contradictions), 'pair')} of frames with the same structure and different labels, by up to "
            f"{1e3 * energy:.3g} meV/atom ({frames[a].source} and {frames[b].source}; forces differ there by "
            f"{force:.3g} eV/Å)"
        )
        both = [k for pair in contradictions for k in pair]
        findings.append(Finding("error", "contradicting-labels", message, sources(frames, dict.fromkeys(both))))
    if repeats:
        repeats.sort()
        count = plural(len(repeats), "frame")
        message = f"{count} repeat the structure of an earlier one (up to order, translation, symmetry)"
        findings.append(Finding("warning", "duplicates", message, sources(frames, repeats)))
    return findings


def _relation(a: Frame, b: Frame) -> str:
    """Of two structures with equal fingerprints: "same", "contradiction", or "different" where that is not certain.

    Equal distances do not make equal structures (orderings of an alloy can agree in all of them); with equal labels
    they are taken as the same up to a symmetry, with different labels only if they match atom on atom.
    """
    energy, force = label_difference(a, b)
    if energy < SAME_ENERGY and force < SAME_FORCE:
        return "same"
    return "contradiction" if aligned(a.structure, b.structure) else "different"


def check_leakage(
    train: Sequence[Frame], test: Sequence[Frame], first: Sequence[Geometry], second: Sequence[Geometry]
) -> list[Finding]:
    """Structures and groups that are in training and test."""
    findings = []
    shared = sorted({b for a, b in same_structures(first, second) if _relation(train[a], test[b]) != "different"})
    if shared:
        message = f"{len(shared)} of {len(test)} test frames are also in the training set; test errors will look too good"
        findings.append(Finding("warning", "leakage", message, sources(test, shared)))
    groups = {f.group for f in train} & {f.group for f in test} - {""}
    if groups and len({f.group for f in (*train, *test)}) > 1:
        both = [k for k, f in enumerate(test) if f.group in groups]
        message = f"{plural(len(groups), 'group')} on both sides, e.g. {min(groups)!r}; split by group keeps them apart"
        findings.append(Finding("warning", "group-leakage", message, sources(test, both)))
    return findings


def groups_of(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected sets of indices, each sorted, in order of their first member."""
    root: dict[int, int] = {}

    def find(k: int) -> int:
        while root.setdefault(k, k) != k:
            k = root[k]
        return k

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    groups: dict[int, list[int]] = {}
    for k in sorted(root):
        groups.setdefault(find(k), []).append(k)
    return list(groups.values())


def aligned(a: Structure, b: Structure, *, tolerance: float = 1e-3) -> bool:
    """Whether b is a, atom on atom within `tolerance` Å, after a translation and a change of order, in the same
    cell."""
    if (a.pbc != b.pbc).any() or len(a) != len(b) or np.abs(a.cell[a.pbc] - b.cell[b.pbc]).max(initial=0.0) > tolerance:
        return False
    kinds, counts = np.unique(a.numbers, return_counts=True)
    rarest = kinds[np.argmin(counts)]
    anchor = b.positions[b.numbers == rarest][:1]
    lattice = a.cell[a.pbc]
    to_fractions = np.linalg.pinv(lattice)
    other = a.numbers[:, None] != b.numbers[None, :]
    for target in a.positions[a.numbers == rarest]:
        apart = a.positions[:, None] - (b.positions - anchor + target)[None, :]
        apart -= np.round(apart @ to_fractions) @ lattice
        distance = np.linalg.norm(apart, axis=2)
        distance[other] = np.inf
        partner = distance.argmin(axis=1)
        if distance.min(axis=1).max() < tolerance and len(np.unique(partner)) == len(a):
            return True
    return False


def label_difference(a: Frame, b: Frame) -> tuple[float, float]:
    """(|ΔE| eV per atom, largest difference of the sorted force magnitudes eV/Å) of two equal structures; 0 where
    one of them is not labelled, or not with finite numbers."""
    energy = force = 0.0
    if a.labels.energy is not None and b.labels.energy is not None:
        energy = abs(a.labels.energy - b.labels.energy) / len(a.structure)
    if a.labels.forces is not None and b.labels.forces is not None:
        norms = [np.sort(np.linalg.norm(forces, axis=1)) for forces in (a.labels.forces, b.labels.forces)]
        force = float(np.abs(norms[0] - norms[1]).max())
    return (energy if np.isfinite(energy) else 0.0), (force if np.isfinite(force) else 0.0)
