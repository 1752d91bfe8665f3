"""Frames between the stages of a campaign: from data to Atoms and back, on disk, in order, divided."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from adatom.fitting.active.ledger import content_hash
from adatom.fitting.dataset import Frame
from adatom.fitting.labels import Labels
from adatom.potential.model_file import write_atomically
from adatom.potential.structure import from_atoms


def frame_of(atoms: ase.Atoms) -> Frame:
    """Labels from the results of its calculator."""
    results = atoms.calc.results if atoms.calc else {}
    stress = None if "stress" not in results else atoms.get_stress(voigt=False)
    labels = Labels(results.get("energy"), np.asarray(results["forces"]) if "forces" in results else None, stress)
    return Frame(from_atoms(atoms), labels, str(atoms.info.get("config_type", "default")))


def atoms_of(frame: Frame) -> ase.Atoms:
    """With its labels as results of a calculator."""
    s, labels = frame.structure, frame.labels
    atoms = s.to_atoms()
    results: dict[str, Any] = {"energy": labels.energy, "forces": labels.forces}
    if labels.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(labels.stress)
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
    atoms.info["config_type"] = frame.config_type
    return atoms


def first_structures(made: list[ase.Atoms], count: int) -> list[ase.Atoms]:
    """Up to `count`: of every config_type in turn, evenly spread over each."""
    kinds: dict[str, list[ase.Atoms]] = {}
    for atoms in made:
        kinds.setdefault(atoms.info["config_type"], []).append(atoms)
    shares = dict.fromkeys(kinds, 0)
    for _ in range(min(count, len(made))):
        name = min((n for n in kinds if shares[n] < len(kinds[n])), key=lambda n: shares[n])
        shares[name] += 1
    spread = {n: np.linspace(0, len(kinds[n]) - 1, shares[n]).round().astype(int) for n in kinds if shares[n]}
    return [kinds[n][int(k)] for n, where in spread.items() for k in where]


def save_frames(path: Path, frames: list[ase.Atoms]) -> None:
    """As extended XYZ, whole or not at all."""
    text = io.StringIO()
    if frames:
        ase.io.write(text, frames, format="extxyz")
    write_atomically(path, text.getvalue().encode())


def read(path: Path) -> list[ase.Atoms]:
    """What `save_frames` has written."""
    found = ase.io.read(path, ":") if path.stat().st_size else []
    assert isinstance(found, list)
    return found


def divided(frames: Sequence[ase.Atoms], fraction: float) -> tuple[list[ase.Atoms], list[ase.Atoms]]:
    """Training and validation frames; a frame's side follows from its content alone, so that what a potential has been trained on
    never judges one that goes on from it. Frames with elements that no training frame has go to training."""
    held = [int(content_hash(from_atoms(x), "")[:8], 16) < fraction * 2.0**32 for x in frames]
    known = {z for x, h in zip(frames, held, strict=True) if not h for z in x.numbers}
    held = [h and known.issuperset(x.numbers) for x, h in zip(frames, held, strict=True)]
    sides = [[x for x, h in zip(frames, held, strict=True) if h == side] for side in (False, True)]
    return sides[0], sides[1]
