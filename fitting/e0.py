"""Energies of free atoms, E0 per element: from isolated-atom frames, or by least squares over compositions.

Least squares: minimise Σ_f w_f (E_f − Σ_Z n_fZ E0_Z)² / n_f², n_fZ the number of atoms of element Z and n_f of all
atoms. Where compositions are collinear (every frame is H2O, say) the minimum is a whole line or plane; the solution
of smallest norm is taken, and `CompositionRank` says which elements cannot be told apart. Energies of frames are
unaffected by that choice as long as the proportions stay as they were in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from adatom.fitting.dataset import Frame
from adatom.fitting.labels import DataError
from adatom.potential.structure import Structure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CompositionRank:
    """How many of the elements the compositions tell apart.

    `together`: sets of elements whose E0 only a combination is known of; `absent`: elements in no frame.
    """

    rank: int
    elements: tuple[str, ...]
    together: tuple[tuple[str, ...], ...]
    absent: tuple[str, ...]

    @property
    def full(self) -> bool:
        """Whether each element's E0 is determined by the compositions alone."""
        return self.rank == len(self.elements)

    def summary(self) -> str:
        """One line to print."""
        if self.full:
            return f"compositions determine E0 of all {len(self.elements)} elements"
        parts = [f"{', '.join(group)} cannot be told apart" for group in self.together]
        parts += [f"{symbol} is in no frame" for symbol in self.absent]
        return f"compositions determine {self.rank} of {len(self.elements)} E0: {'; '.join(parts)}"


def elements_of(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Symbols of all elements in the frames, by atomic number."""
    numbers = sorted({int(z) for frame in frames for z in np.unique(frame.structure.numbers)})
    return tuple(chemical_symbols[z] for z in numbers)


def composition_counts(frames: Sequence[Frame], elements: Sequence[str]) -> Array:
    """Number of atoms of each element, (frames, elements). DataError where a frame has another element."""
    column = {atomic_numbers[symbol]: k for k, symbol in enumerate(elements)}
    counts = np.zeros((len(frames), len(elements)))
    for row, frame in zip(counts, frames, strict=True):
        for z, n in zip(*np.unique(frame.structure.numbers, return_counts=True), strict=True):
            if int(z) not in column:
                raise DataError(f"the elements are {', '.join(elements)}; {frame.source} has {chemical_symbols[z]}")
            row[column[int(z)]] = n
    return counts


def composition_rank(counts: Array, elements: Sequence[str]) -> CompositionRank:
    """Rank of the compositions `counts` (frames, elements), and the elements they do not tell apart."""
    fractions = np.unique(np.round(counts / counts.sum(axis=1, keepdims=True), 12), axis=0)
    _, singular, vectors = np.linalg.svd(fractions, full_matrices=True)
    rank = int((singular > 1e-8 * singular[0]).sum())
    projector = vectors[rank:].T @ vectors[rank:]  # onto the combinations of E0 that no frame feels
    present = (counts != 0).sum(axis=0) > 0
    linked = (np.abs(projector) > 1e-8) & present[:, None] & present[None, :]
    groups: list[tuple[str, ...]] = []
    left = {k for k in range(len(elements)) if linked[k, k]}
    while left:
        group, frontier = set(), {min(left)}
        while frontier:
            group |= frontier
            frontier = {int(j) for k in frontier for j in np.flatnonzero(linked[k])} - group
        groups.append(tuple(elements[k] for k in sorted(group)))
        left -= group
    absent = tuple(symbol for symbol, here in zip(elements, present, strict=True) if not here)
    return CompositionRank(rank, tuple(elements), tuple(groups), absent)


def is_isolated(frame: Frame, *, cutoff: float = 6.0) -> bool:
    """Whether the frame is one atom without neighbours: by its config_type, without a period, or in a cell so large
    that its images are more than 2 × cutoff (Å) away."""
    if len(frame.structure) != 1:
        return False
    name = "".join(c for c in frame.config_type.lower() if c.isalpha())
    return name in {"isolatedatom", "isolatedatoms"} or nearest_image(frame.structure) > 2.0 * cutoff


def nearest_image(structure: Structure) -> float:
    """Distance in Å from an atom to its nearest periodic image; inf without periodicity."""
    steps = [range(-2, 3) if periodic else range(1) for periodic in structure.pbc]
    shifts = np.array([(a, b, c) for a in steps[0] for b in steps[1] for c in steps[2] if (a, b, c) != (0, 0, 0)])
    if len(shifts) == 0:
        return float("inf")
    return float(np.linalg.norm(shifts @ structure.cell, axis=1).min())


def isolated_e0(frames: Sequence[Frame], *, cutoff: float = 6.0) -> dict[str, float]:
    """E0 in eV of the elements that have an isolated-atom frame with a finite energy: symbol → energy.

    Raises DataError where two frames of one element differ by more than 1 meV.
    """
    found: dict[str, tuple[float, str]] = {}
    for frame in frames:
        energy = frame.labels.energy
        if energy is None or not np.isfinite(energy) or not is_isolated(frame, cutoff=cutoff):
            continue
        symbol = chemical_symbols[int(frame.structure.numbers[0])]
        first, source = found.setdefault(symbol, (energy, frame.source))
        if abs(first - energy) > 1e-3:
            raise DataError(
                f"two isolated atoms of {symbol} differ: {source} has {first:.6f} eV and {frame.source} has "
                f"{energy:.6f} eV; keep the one with the right spin state"
            )
    return {symbol: energy for symbol, (energy, _) in found.items()}


def least_squares_e0(frames: Sequence[Frame], elements: Sequence[str]) -> tuple[dict[str, float], CompositionRank]:
    """E0 in eV of `elements` (symbols) from all frames with a finite energy, weighted by weight × energy_weight.

    Isolated atoms are left out, unless there is nothing else: a free atom lies eV above the atoms of a solid.
    Returns the energies, zero for an element in no frame, and what the compositions determine. Raises DataError
    where no frame has an energy.
    """
    usable = [f for f in frames if f.labels.energy is not None and np.isfinite(f.labels.energy)]
    bound = [f for f in usable if not is_isolated(f)] or usable
    if not bound:
        raise DataError(f"E0 cannot be fitted: none of the {len(frames)} frames has an energy")
    counts = composition_counts(bound, elements)
    energies = np.array([f.labels.energy for f in bound], dtype=np.float64)
    weights = np.array([f.weight * f.energy_weight for f in bound])
    if not weights.any():
        raise DataError(f"E0 cannot be fitted: the energy weight of all {len(bound)} frames is zero")
    e0 = fit_composition(counts, energies, weights)
    rank = composition_rank(counts[weights > 0], elements)
    return {symbol: float(e) for symbol, e in zip(elements, e0, strict=True)}, rank


def fit_composition(counts: Array, energies: Array, weights: Array, *, robust: bool = False) -> Array:
    """E0 (elements,) eV that minimises Σ w (E/n − counts/n · E0)², or Σ w |…| where `robust` (outliers then do not
    pull).

    counts (frames, elements), energies (frames,) eV, weights (frames,). Smallest-norm solution where it is not
    unique.
    """
    atoms = counts.sum(axis=1)
    fractions, target = counts / atoms[:, None], energies / atoms
    scale = np.sqrt(weights)
    e0 = np.linalg.lstsq(fractions * scale[:, None], target * scale, rcond=1e-10)[0]
    for _ in range(40 if robust else 0):
        residual = np.abs(target - fractions @ e0)
        scale = np.sqrt(weights / np.maximum(residual, 1e-5))
        e0 = np.linalg.lstsq(fractions * scale[:, None], target * scale, rcond=1e-10)[0]
    return np.asarray(e0, dtype=np.float64)
