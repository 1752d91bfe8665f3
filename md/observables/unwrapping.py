"""Continuous paths: take back the jumps at cell boundaries, and the breathing of a cell that fluctuates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.geometry import complete_cell, find_mic

from adatom.md.observables.frames import Array, Frames

UNSAFE = 0.45
"""Of the shortest height of the cell: an atom that moves farther between two frames may have gone the other way round."""


def unwrap(frames: Frames) -> Frames:
    """Paths without jumps, from positions wrapped into the cell of each frame.

        r(t+1) = w(t+1) + n @ cell(t+1),    n integer such that r(t+1) − s(t) @ cell(t+1) is shortest,    s = r cell⁻¹

    so that every frame stays what it was up to lattice vectors (the lattice view; it is the one of programs that
    integrate unwrapped positions under a barostat). Mean square displacements take the breathing of the cell out
    afterwards (`without_breathing`), as it would otherwise grow with the distance from the origin: von Bülow,
    Bullerjahn, Hummer, J. Chem. Phys. 153, 021101 (2020).

    Raises ValueError where an atom moves so far between two frames that its direction is a guess.
    """
    positions = frames.positions.copy()
    for t in range(1, len(frames)):
        cell = complete_cell(frames.cells[t])
        to_fractions = np.linalg.inv(cell)
        expected = positions[t - 1] @ np.linalg.inv(complete_cell(frames.cells[t - 1])) @ cell
        jump = frames.positions[t] - expected
        shortest, length = find_mic(jump, cell, frames.pbc)
        heights = 1.0 / np.linalg.norm(to_fractions, axis=0)[frames.pbc]
        if len(heights) and length.max() > UNSAFE * heights.min():
            raise ValueError(
                f"cannot unwrap: atom {int(length.argmax())} moves {length.max():.2f} Å between frames {t - 1} and {t}, "
                f"the cell is only {heights.min():.2f} Å high; write frames more often"
            )
        images = np.rint((shortest - jump) @ to_fractions)
        positions[t] = frames.positions[t] + images @ cell
    return replace(frames, positions=positions)


def looks_wrapped(frames: Frames) -> bool:
    """Whether all atoms stay within one cell and some jump through more than half of it between two frames."""
    if not frames.pbc.any() or len(frames) < 2:
        return False
    inverse = np.linalg.inv(np.array([complete_cell(c) for c in frames.cells]))
    fractions = np.einsum("tac,tcd->tad", frames.positions, inverse)[..., frames.pbc]
    confined = np.ptp(fractions, axis=(0, 1)) <= 1.0 + 1e-6
    jumps = np.abs(np.diff(fractions, axis=0)).max(axis=(0, 1)) > 0.5
    return bool((confined & jumps).any())


def without_breathing(frames: Frames) -> Array:
    """Positions (frames, atoms, 3) [Å] in the mean cell: r cell(t)⁻¹ <cell>. The same positions where the cell is constant.

    A barostat scales all positions; what is left is the motion relative to the lattice.
    """
    if (frames.cells == frames.cells[0]).all():
        return frames.positions
    cells = np.array([complete_cell(c) for c in frames.cells])
    maps = np.linalg.inv(cells) @ cells.mean(axis=0)
    return np.einsum("tac,tcd->tad", frames.positions, maps)
