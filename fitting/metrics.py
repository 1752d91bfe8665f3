"""Errors of a potential on labelled frames: the one function behind `adatom fit`, `adatom test` and every table.

MAE and RMSE of energies per atom [meV/atom], of force components [meV/Å] and of the six independent stress components
[GPa], over all frames and per `config_type`, with counts. Frames without a label are left out of its error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adatom.fitting.dataset import DataError, Frame
from adatom.potential.evaluator import Evaluator, Precision
from adatom.potential.potential import Potential
from adatom.potential.units import GPA

UPPER = np.triu_indices(3)


@dataclass(frozen=True)
class Comparison:
    """Labels and predictions of many frames, in report units, ready for errors and parity plots.

    Each entry is (labels, predictions, config_type index): energies per atom eV, forces eV/Å, stress GPa.
    """

    energy: tuple[np.ndarray, np.ndarray, np.ndarray]
    forces: tuple[np.ndarray, np.ndarray, np.ndarray]
    stress: tuple[np.ndarray, np.ndarray, np.ndarray]
    config_types: tuple[str, ...]
    frames: tuple[int, ...]

    def errors(self) -> dict[str, Any]:
        """Nested dict with the keys energy, forces, stress, frames, by_config_type, units."""
        total = self._errors(None)
        by_type = {name: self._errors(k) for k, name in enumerate(self.config_types)}
        units = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
        return {**total, "by_config_type": by_type, "units": units}

    def _errors(self, which: int | None) -> dict[str, Any]:
        out: dict[str, Any] = {"frames": sum(self.frames) if which is None else self.frames[which]}
        for name, factor in (("energy", 1e3), ("forces", 1e3), ("stress", 1.0)):
            label, predicted, kind = getattr(self, name)
            d = factor * (predicted - label)[slice(None) if which is None else kind == which]
            out[name] = {
                "mae": float(np.abs(d).mean()) if len(d) else None,
                "rmse": float(np.sqrt((d * d).mean())) if len(d) else None,
                "count": len(d),
            }
        return out


def compare(
    potential: Potential,
    frames: Sequence[Frame],
    *,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Evaluate every frame. Raises ValueError naming a frame with an element the potential does not know, or a label of NaN."""
    for frame in frames:
        require_finite(frame)
    evaluator = Evaluator(potential, precision=precision, skin=0.0)
    types = tuple(dict.fromkeys(f.config_type for f in frames))
    columns: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {"energy": [], "forces": [], "stress": []}
    order = sorted(range(len(frames)), key=lambda k: frames[k].structure.numbers.tobytes())
    for done, index in enumerate(order):
        frame = frames[index]
        try:
            out = evaluator(frame.structure)
        except ValueError as error:
            raise ValueError(f"{frame.source}: {error}") from error
        kind, labels = types.index(frame.config_type), frame.labels
        if labels.energy is not None:
            n = len(frame.structure)
            columns["energy"].append((np.array([labels.energy / n]), np.array([out.energy / n]), kind))
        if labels.forces is not None:
            columns["forces"].append((labels.forces.ravel(), out.forces.ravel(), kind))
        if labels.stress is not None and out.stress is not None:
            columns["stress"].append((labels.stress[UPPER] / GPA, out.stress[UPPER] / GPA, kind))
        if progress:
            progress(done + 1, len(frames))
    merged = {name: _merge(column) for name, column in columns.items()}
    counts = tuple(sum(f.config_type == t for f in frames) for t in types)
    return Comparison(merged["energy"], merged["forces"], merged["stress"], types, counts)


def require_finite(frame: Frame) -> None:
    """DataError naming the frame where a label is NaN or infinite: there is nothing to learn from it or to compare with."""
    for name in ("energy", "forces", "stress"):
        label = getattr(frame.labels, name)
        if label is not None and not np.isfinite(label).all():
            raise DataError(f"{frame.source}: {name} is NaN or infinite; remove or recompute the frame")


def _merge(column: list[tuple[np.ndarray, np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not column:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)
    kinds = [np.full(len(a), k) for a, _, k in column]
    return np.concatenate([a for a, _, _ in column]), np.concatenate([b for _, b, _ in column]), np.concatenate(kinds)


def table(errors: dict[str, Any]) -> str:
    """The errors as a table for people: MAE / RMSE per config_type and in total."""
    names = [*errors["by_config_type"], "all"]
    width = max(11, *(len(n) for n in names))
    lines = [
        f"{'config_type':<{width}}  frames   energy meV/atom     forces meV/Å         stress GPa",
        f"{'':<{width}}           MAE     RMSE      MAE     RMSE      MAE    RMSE",
    ]
    for name in names:
        e = errors if name == "all" else errors["by_config_type"][name]
        cells = [f"{e['frames']:>6}"]
        for key, digits in (("energy", 2), ("forces", 1), ("stress", 3)):
            cells += [f"{e[key][m]:>8.{digits}f}" if e[key][m] is not None else f"{'–':>8}" for m in ("mae", "rmse")]
        lines.append(f"{name:<{width}}  " + " ".join(cells))
    return "\n".join(lines)
