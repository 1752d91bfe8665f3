"""Where our own models, written for another program, are not the same: what no other program's form has a place for."""

from __future__ import annotations

import warnings

import numpy as np

from adatom.potential.model import Model, repulsion_radius
from adatom.potential.potential import Potential


class NotTheSameWarning(UserWarning):
    """Where the written model differs from the potential."""


def warn_of_differences(potential: Potential, program: str) -> None:
    """A NotTheSameWarning where the potential has an isolated limit or nuclear repulsion."""
    model = potential.model
    assert isinstance(model, Model)
    missing = ["atoms without neighbours have not E0"] if model.config.isolated_limit else []
    if model.config.repulsion:
        outer, names = np.asarray(repulsion_radius(potential.statistics.min_distance, model.elements)), potential.symbols
        pairs = [f"{a}-{b} {outer[i, j]:.2f}" for i, a in enumerate(names) for j, b in enumerate(names[i:], i)]
        missing.append(f"there is no nuclear repulsion below (Å) {', '.join(pairs)}")
    if missing:
        warnings.warn(f"in {program} {', and '.join(missing)}", NotTheSameWarning, stacklevel=4)
