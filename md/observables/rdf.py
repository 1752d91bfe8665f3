"""Partial radial distribution functions and coordination numbers.

    g_ab(r) = <V · (number of b in the shell r … r + dr around an a)> / (N_b · 4π r² dr)
    n_ab(r) = <number of b closer than r to an a> = ∫ 4π r² ρ_b g_ab dr

Every periodic image counts, those of the atom itself too, and the density is ρ_b = N_b/V for a = b as for a ≠ b: g does not
change when the cell is repeated, has a value for one atom in a cell, and r may go beyond half the cell. Independent atoms
then have g_ab = 1 for a ≠ b, and g_aa = 1 − 1/N_a at distances that no image reaches: one place is taken by the atom itself.
Allen and Tildesley, "Computer simulation of liquids", section 8.2 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ase
import numpy as np
from ase.data import chemical_symbols

from adatom.md.observables.frames import Array
from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import from_atoms

Pair = tuple[str, str]


class Shell(NamedTuple):
    """The first shell: peak [Å], its height; end [Å], the minimum after it; coordination up to there."""

    peak: float
    height: float
    end: float
    coordination: float


@dataclass(frozen=True)
class RDF:
    """Averages over `frames` frames.

    r (bins,) Å, middle of each bin; edges (bins + 1,) Å. g[a, b] (bins,), symmetric in a and b; coordination[a, b] (bins,):
    b around an a, up to the outer edge of each bin, which is not symmetric.
    """

    edges: Array
    g: dict[Pair, Array]
    coordination: dict[Pair, Array]
    frames: int

    @property
    def r(self) -> Array:
        """Middles of the bins, Å."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def first_shell(self, a: str, b: str) -> Shell | None:
        """Highest peak of g_ab and the minimum between it and 1.5 times its distance; None where r ends before."""
        g, r = self.g[a, b], self.r
        top = int(np.argmax(g))
        after = np.flatnonzero((np.arange(len(r)) > top) & (r <= 1.5 * r[top]))
        if not g[top] > 0.0 or not len(after) or 1.5 * r[top] > self.edges[-1]:
            return None
        smooth = np.convolve(np.pad(g, 1, mode="edge"), np.ones(3) / 3.0, mode="valid")
        end = int(after[np.argmin(smooth[after])])
        return Shell(float(r[top]), float(g[top]), float(self.edges[end + 1]), float(self.coordination[a, b][end]))


class RDFAccumulator:
    """Adds up frames one by one: nothing is kept but the histograms.

    r_max [Å] may be larger than half the cell. Raises ValueError for r_max or bins that make no sense, and in `add` for
    frames that are not periodic in three directions (there is no density) or whose atoms are not those of the first.
    """

    def __init__(self, *, r_max: float, bins: int = 200) -> None:
        if not 0.0 < r_max < np.inf:
            raise ValueError(f"r_max must be positive, not {r_max}")
        if bins < 1:
            raise ValueError(f"bins must be at least 1, not {bins}")
        self.edges = np.linspace(0.0, r_max, bins + 1)
        self.frames = 0
        self._numbers: Array | None = None
        self._elements = np.empty(0, dtype=np.int64)
        self._counts: Array = np.empty(0)
        self._weighted: Array = np.empty(0)  # counts times volume

    def add(self, atoms: ase.Atoms) -> None:
        """One frame, positions wrapped or not."""
        structure = from_atoms(atoms, name=f"frame {self.frames}")
        if not structure.pbc.all():
            raise ValueError(f"frame {self.frames} has pbc {structure.pbc.tolist()}: g(r) needs a density, so a periodic cell")
        if self._numbers is None:
            self._numbers = structure.numbers
            self._elements = np.unique(structure.numbers)
            self._counts = np.zeros((len(self._elements), len(self._elements), len(self.edges) - 1))
            self._weighted = np.zeros_like(self._counts)
        elif len(self._numbers) != len(structure) or (self._numbers != structure.numbers).any():
            raise ValueError(f"frame {self.frames} is {structure.symbols}, other atoms than in the first frame")
        i, j, shifts = neighbour_pairs(structure, float(self.edges[-1]))
        vectors = structure.positions[j] - structure.positions[i] + shifts @ structure.cell
        bins = len(self.edges) - 1
        place = (np.sqrt((vectors * vectors).sum(axis=1)) * (bins / self.edges[-1])).astype(np.int64)
        kind = np.searchsorted(self._elements, structure.numbers)
        inside = place < bins
        code = ((kind[i] * len(self._elements) + kind[j]) * bins + place)[inside]
        found = np.bincount(code, minlength=self._counts.size).reshape(self._counts.shape)
        self._counts += found
        self._weighted += found * structure.volume
        self.frames += 1

    def result(self) -> RDF:
        """The averages so far. Raises ValueError where nothing was added."""
        if self._numbers is None:
            raise ValueError("no frames were added")
        shells = 4.0 / 3.0 * np.pi * np.diff(self.edges**3)
        symbols = [chemical_symbols[z] for z in self._elements]
        atoms = [int((self._numbers == z).sum()) for z in self._elements]
        g, coordination = {}, {}
        for a, name_a in enumerate(symbols):
            for b, name_b in enumerate(symbols):
                per_centre = self.frames * atoms[a]
                g[name_a, name_b] = self._weighted[a, b] / (per_centre * atoms[b] * shells)
                coordination[name_a, name_b] = np.cumsum(self._counts[a, b]) / per_centre
        return RDF(self.edges, g, coordination, self.frames)


def radial_distribution(frames: list[ase.Atoms], *, r_max: float, bins: int = 200) -> RDF:
    """Of a list of frames; as `RDFAccumulator`."""
    accumulator = RDFAccumulator(r_max=r_max, bins=bins)
    for atoms in frames:
        accumulator.add(atoms)
    return accumulator.result()
