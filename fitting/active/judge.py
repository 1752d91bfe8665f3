"""Errors of a potential on labels it has not been trained on: the honest number of an iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np

from adatom.fitting.calibration import errors_and_spreads, judged
from adatom.fitting.dataset import Frame
from adatom.fitting.labels import Labels
from adatom.fitting.metrics import compare
from adatom.potential.potential import Potential
from adatom.potential.structure import from_atoms


def frame_of(atoms: ase.Atoms) -> Frame:
    """Labels from the results of its calculator."""
    results = atoms.calc.results if atoms.calc else {}
    stress = None if "stress" not in results else atoms.get_stress(voigt=False)
    labels = Labels(results.get("energy"), np.asarray(results["forces"]) if "forces" in results else None, stress)
    return Frame(from_atoms(atoms), labels, str(atoms.info.get("config_type", "default")))


def new_label_errors(potential: Potential, labelled: Sequence[ase.Atoms]) -> dict[str, Any] | None:
    """RMSE of energy [meV/atom], forces [meV/Å], stress [GPa], and how the calibration held; None without labels."""
    if not labelled:
        return None
    frames = [frame_of(x) for x in labelled]
    errors = compare(potential, frames).errors()
    found: dict[str, Any] = {"frames": len(frames)} | {name: errors[name]["rmse"] for name in ("energy", "forces", "stress")}
    known = potential.committee and potential.committee.calibration
    if known:
        energy, forces = errors_and_spreads(potential, frames)
        found["coverage"] = {"energy": judged(known.energy, energy), "forces": judged(known.forces, forces)}
    return found
