"""Pairs of frames with the same atoms in cells strained a little: their energies, and what the stress says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adatom.fitting.dataset import Frame

Array = NDArray[np.float64]

MAX_FRAMES = 300
"""Frames with the same atoms of which all pairs are looked at; of more, as many are drawn."""


@dataclass(frozen=True)
class StrainPairs:
    """Columns over pairs of frames a, b (indices).

    strain: largest principal strain between the cells; moved: rms displacement at fixed cell, Å; energy: E_b − E_a
    without what the forces account for, eV; work: what the stress predicts for it under each reading of the labels,
    eV; volume: the same for a unit pressure, Å³; atoms: in a frame.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    strain: Array
    moved: Array
    energy: Array
    work: dict[str, Array]
    volume: Array
    atoms: Array

    def select(self, mask: NDArray[np.bool_]) -> StrainPairs:
        """The pairs where mask (pairs,) is True."""
        return StrainPairs(
            self.a[mask], self.b[mask], self.strain[mask], self.moved[mask], self.energy[mask],
            {k: v[mask] for k, v in self.work.items()}, self.volume[mask], self.atoms[mask],
        )  # fmt: skip


# Voigt slots (xx, yy, zz, yz, xz, xy) as ASE has them, from labels whose last three were in another program's order
READINGS: dict[str, tuple[int, ...]] = {
    "as it stands": (0, 1, 2, 3, 4, 5),
    "VASP's order xy, yz, zx": (0, 1, 2, 4, 5, 3),
    "LAMMPS' order xy, xz, yz": (0, 1, 2, 5, 4, 3),
    "virial": (0, 1, 2, 3, 4, 5),
}


def strain_pairs(frames: Sequence[Frame], labelled: Sequence[int]) -> StrainPairs:
    """All usable pairs among the frames `labelled`, which must have stress."""
    groups: dict[bytes, list[int]] = {}
    for k in labelled:
        if frames[k].labels.energy is not None:
            groups.setdefault(frames[k].structure.numbers.tobytes(), []).append(k)
    rng = np.random.default_rng(0)
    parts = []
    for members in groups.values():
        chosen = np.array(members)
        if len(chosen) > MAX_FRAMES:
            chosen = np.sort(rng.permutation(chosen)[:MAX_FRAMES])
        parts += _pairs_of(frames, chosen)
    if not parts:
        none, empty = np.empty(0, dtype=np.int64), np.empty(0)
        return StrainPairs(none, none, empty, empty, empty, dict.fromkeys(READINGS, empty), empty, empty)
    columns = {
        f: np.concatenate([getattr(p, f) for p in parts]) for f in ("a", "b", "strain", "moved", "energy", "volume", "atoms")
    }
    return StrainPairs(work={r: np.concatenate([p.work[r] for p in parts]) for r in READINGS}, **columns)


def _pairs_of(frames: Sequence[Frame], members: NDArray[np.int64]) -> list[StrainPairs]:
    """Pairs of frames with the same atoms, whose cells differ by a small strain, one StrainPairs per first frame."""
    some = [frames[k] for k in members]
    cell = np.array([f.structure.cell for f in some])
    inverse, volume = np.linalg.inv(cell), np.abs(np.linalg.det(cell))
    fractional = np.array([f.structure.positions for f in some]) @ inverse
    atoms = fractional.shape[1]
    energy = np.array([f.labels.energy for f in some], dtype=np.float64)
    nan = np.full((atoms, 3), np.nan)
    forces = np.array([nan if f.labels.forces is None else f.labels.forces for f in some])
    voigt = np.array([_voigt(f.labels.stress) for f in some if f.labels.stress is not None])
    found = []
    for a in range(len(some) - 1):
        change = cell[a + 1 :] - cell[a]
        at_a, at_b = inverse[a] @ change, inverse[a + 1 :] @ change
        symmetric = 0.5 * (at_a + at_a.transpose(0, 2, 1))
        strain = np.abs(np.linalg.eigvalsh(symmetric)).max(axis=1)
        rotation = np.abs(at_a - symmetric).max(axis=(1, 2))
        near = np.flatnonzero((strain > 1e-3) & (strain < 0.06) & (rotation < 0.06))
        if len(near) == 0:
            continue
        b, at_a, at_b, strain = near + a + 1, at_a[near], at_b[near], strain[near]
        step = fractional[b] - fractional[a]
        step -= np.round(step)
        step -= step.mean(axis=1, keepdims=True)
        u_a, u_b = step @ cell[a], step @ cell[b]
        moved = np.sqrt((u_a**2).sum(axis=2).mean(axis=1))
        by_forces = 0.5 * ((u_a * forces[a]).sum(axis=(1, 2)) + (u_b * forces[b]).sum(axis=(1, 2)))
        by_forces = np.where(moved < 0.01, np.nan_to_num(by_forces), by_forces)
        d_a, d_b = _strain_voigt(at_a), _strain_voigt(at_b)
        work = {}
        for name, order in READINGS.items():
            v_a, v_b = (1.0, np.ones(len(b))) if name == "virial" else (volume[a], volume[b])
            work[name] = 0.5 * (v_a * d_a @ voigt[a][list(order)] + v_b * (d_b * voigt[b][:, order]).sum(axis=1))
        dv = 0.5 * (volume[a] * np.trace(at_a, axis1=1, axis2=2) + volume[b] * np.trace(at_b, axis1=1, axis2=2))
        keep = (moved < 0.2) & np.isfinite(by_forces)
        whole = StrainPairs(
            np.full(len(b), members[a]), members[b], strain, moved, energy[b] - energy[a] + by_forces, work, dv,
            np.full(len(b), float(atoms)),
        )  # fmt: skip
        found.append(whole.select(keep))
    return found


def _voigt(stress: Array) -> Array:
    return stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _strain_voigt(strain: Array) -> Array:
    """(n, 6) so that its product with Voigt stress is σ : ε."""
    double = strain + strain.transpose(0, 2, 1)
    return np.concatenate([0.5 * double[:, [0, 1, 2], [0, 1, 2]], double[:, [1, 0, 0], [2, 2, 1]]], axis=1)
