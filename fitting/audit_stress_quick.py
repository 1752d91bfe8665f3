"""A rough stress without strained cells: fit pair forces to the force labels and take their virial.

F_i = −Σ_j f(d_ij) r̂_ij with f a sum of hat functions per pair of elements, by ridge least squares; then σ =
−(1/2V) Σ_ij f(d) d r̂ r̂ᵀ. Forces do not see a constant pressure, so only differences between frames and the
traceless part are compared. Good for a sign and a factor of ten, no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adatom.fitting.dataset import Frame
from adatom.potential.neighbours import neighbour_pairs

Array = NDArray[np.float64]

KNOTS = 16
MAX_FRAMES = 48
MAX_ATOMS = 4000


def quick_factor(frames: Sequence[Frame], *, cutoff: float) -> tuple[float, float, int] | None:
    """(labels ÷ fitted stress, their correlation, frames used), or None where pair forces do not explain the
    stress."""
    usable = [f for f in frames if f.labels.forces is not None and np.abs(f.labels.forces).max() > 1e-3]
    every = max(1, -(-len(usable) // MAX_FRAMES))
    chosen, atoms = [], 0
    for frame in usable[::every]:
        if atoms + len(frame.structure) <= MAX_ATOMS:
            chosen.append(frame)
            atoms += len(frame.structure)
    elements = sorted({int(z) for f in chosen for z in np.unique(f.structure.numbers)})
    if len(chosen) < 4 or len(elements) > 4 or 3 * atoms < 10 * KNOTS * len(elements) * (len(elements) + 1) // 2:
        return None
    designs = [_design(f, elements, cutoff) for f in chosen]
    matrix = np.concatenate([d for d, _ in designs])
    target = np.concatenate([f.labels.forces.ravel() for f in chosen if f.labels.forces is not None])
    if np.sqrt((target**2).mean()) < 0.03:  # crystals at rest: nothing to fit
        return None
    normal = matrix.T @ matrix
    ridge = 1e-6 * np.trace(normal) / len(normal) + 1e-12
    coefficients = np.linalg.solve(normal + ridge * np.eye(len(normal)), matrix.T @ target)
    if ((target - matrix @ coefficients) ** 2).sum() > 0.7 * (target**2).sum():
        return None
    fitted = np.array([s @ coefficients for _, s in designs])
    label = np.array([f.labels.stress for f in chosen if f.labels.stress is not None])
    fitted, label = _comparable(fitted, chosen), _comparable(label, chosen)
    size = np.sqrt((fitted**2).sum() * (label**2).sum())
    correlation = float((fitted * label).sum() / size) if size > 0 else 0.0
    if abs(correlation) < 0.7:
        return None
    factor = np.sign(correlation) * np.sqrt((label**2).sum() / (fitted**2).sum())
    return float(factor), correlation, len(chosen)


def _comparable(stress: Array, frames: Sequence[Frame]) -> Array:
    """Six components of stress (frames, 3, 3), with the mean pressure of each composition taken away."""
    stress = stress.copy()
    keys = np.unique([str(np.sort(f.structure.numbers).tolist()) for f in frames], return_inverse=True)[1]
    for k in np.unique(keys):
        pressure = np.trace(stress[keys == k], axis1=1, axis2=2).mean() / 3.0
        stress[keys == k] -= pressure * np.eye(3)
    return stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _design(frame: Frame, elements: Sequence[int], cutoff: float) -> tuple[Array, Array]:
    """Forces (3 atoms, functions) and stress (3, 3, functions) of unit coefficients."""
    structure = frame.structure
    pairs = neighbour_pairs(structure, cutoff)
    vectors = structure.positions[pairs.j] - structure.positions[pairs.i] + pairs.shifts @ structure.cell
    distance = np.maximum(np.linalg.norm(vectors, axis=1), 1e-6)
    unit = vectors / distance[:, None]
    species = np.searchsorted(elements, structure.numbers)
    first, second = np.minimum(species[pairs.i], species[pairs.j]), np.maximum(species[pairs.i], species[pairs.j])
    kind = first * len(elements) + second
    functions = len(elements) ** 2 * KNOTS
    low = 0.25 * cutoff
    x = np.clip((distance - low) / (cutoff - low), 0.0, 1.0) * KNOTS
    left = np.minimum(x.astype(np.int64), KNOTS - 1)
    right_share = x - left
    forces = np.zeros((len(structure), 3, functions))
    stress = np.zeros((3, 3, functions))
    for knot, share in ((left, 1.0 - right_share), (left + 1, right_share)):
        used = knot < KNOTS  # the last knot, at the cutoff, is held at zero
        column = kind[used] * KNOTS + knot[used]
        pull = share[used, None] * unit[used]
        for c in range(3):
            np.add.at(forces[:, c], (pairs.i[used], column), pull[:, c])
            for d in range(3):
                weight = 0.5 / structure.volume * pull[:, c] * vectors[used, d]
                stress[c, d] += np.bincount(column, weights=weight, minlength=functions)
    return forces.reshape(3 * len(structure), functions), stress
