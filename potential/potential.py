"""A trained potential: model, parameters and what is known about them. Whole by itself; nothing else is needed to run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from adatom.potential.committee import Committee
from adatom.potential.model import FittedModel, Params, Statistics
from adatom.potential.structure import Structure


@dataclass(frozen=True)
class Golden:
    """One structure with this potential's own energy [eV] and forces (atoms, 3) [eV/Å] in float64, for the self-test."""

    structure: Structure
    energy: float
    forces: np.ndarray


@dataclass(frozen=True)
class Potential:
    """`params` = {"network": nested dict of arrays, "statistics": Statistics}; `info` is JSON: training summary, errors.

    committee: what it needs to know its own error, or None.
    """

    model: FittedModel
    params: Params
    info: dict[str, Any] = field(default_factory=dict)
    golden: Golden | None = None
    committee: Committee | None = None

    @property
    def statistics(self) -> Statistics:
        return self.params["statistics"]

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(chemical_symbols[z] for z in self.model.elements)

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(int(np.size(x)) for k, x in flatten(self.params["network"]).items() if not k.startswith("constants/"))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict of arrays -> {"a/b/c": array}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree
