"""Errors of a potential on labelled frames: the one function behind `adatom fit`, `adatom test` and every table.

MAE and RMSE of energies per atom [meV/atom], of force components [meV/Å] and of the six independent stress components
[GPa], over all frames and per `config_type`, with counts. Frames without a label are left out of its error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from adatom.fitting.batches import ONCE, Targets, make_buckets, neighbourhoods, portions
from adatom.fitting.dataset import DataError, Frame
from adatom.fitting.problem import forward
from adatom.potential.compilation import jit
from adatom.potential.evaluator import Precision
from adatom.potential.graph import Graph
from adatom.potential.potential import Potential
from adatom.potential.predict import Prediction
from adatom.potential.units import GPA

Column = tuple[np.ndarray, np.ndarray, np.ndarray]
UPPER = np.triu_indices(3)
_forward = jit(forward, static_argnames=("model", "precision"))
ATOMS = 512
"""Atoms evaluated at once, about."""


@dataclass(frozen=True)
class Comparison:
    """Labels and predictions of many frames, in report units, ready for errors and parity plots.

    Each entry is (labels, predictions, index of the frame): energies per atom eV, forces eV/Å, stress GPa. `types` is the
    config_type of every frame.
    """

    energy: Column
    forces: Column
    stress: Column
    types: tuple[str, ...]

    def part(self, start: int, stop: int) -> Comparison:
        """Of the frames from `start` to `stop` only."""
        cut = [tuple(x[(f >= start) & (f < stop)] for x in (a, b, f)) for a, b, f in (self.energy, self.forces, self.stress)]
        energy, forces, stress = ((a, b, f - start) for a, b, f in cut)
        return Comparison(energy, forces, stress, self.types[start:stop])

    def of_type(self, name: str) -> np.ndarray:
        """Which frames are of a config_type, (frames,)."""
        return np.array([t == name for t in self.types], dtype=bool)

    @property
    def config_types(self) -> tuple[str, ...]:
        """Each once, in the order of the data."""
        return tuple(dict.fromkeys(self.types))

    def errors(self) -> dict[str, Any]:
        """Nested dict with the keys energy, forces, stress, frames, by_config_type, units."""
        total = self._errors(np.ones(len(self.types), dtype=bool))
        by_type = {name: self._errors(self.of_type(name)) for name in self.config_types}
        units = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
        return {**total, "by_config_type": by_type, "units": units}

    def _errors(self, which: np.ndarray) -> dict[str, Any]:
        out: dict[str, Any] = {"frames": int(which.sum())}
        for name, factor in (("energy", 1e3), ("forces", 1e3), ("stress", 1.0)):
            label, predicted, frame = getattr(self, name)
            d = factor * (predicted - label)[which[frame]]
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
    """Evaluate every frame, in batches of few sizes (`batches`), each compiled once.

    Raises ValueError naming a frame with an unknown element, a label of NaN, or atoms on top of each other.
    """
    for frame in frames:
        require_finite(frame)
    items = neighbourhoods(frames, potential.model.elements, potential.model.cutoff)
    columns: dict[str, list[Column]] = {"energy": [], "forces": [], "stress": []}
    done = 0
    for bucket in make_buckets(frames, items, worth=ONCE):
        for part, index, present in portions(bucket, ATOMS):
            with jax.enable_x64(True):
                every, params = np.arange(len(present)), potential.params
                graph, targets, out = _forward(
                    potential.model, params["network"], {}, params["statistics"], part, every, present, precision
                )
            _collect(columns, [frames[k] for k in index], index, graph, targets, out)
            done += len(index)
            if progress:
                progress(done, len(frames))
    merged = {name: _merge(column) for name, column in columns.items()}
    return Comparison(merged["energy"], merged["forces"], merged["stress"], tuple(f.config_type for f in frames))


def _collect(
    columns: dict[str, list[Column]], here: list[Frame], index: np.ndarray, graph: Graph, targets: Targets, out: Prediction
) -> None:  # fmt: skip
    """Append labels and predictions of the frames of one batch, `here`, where they have the label. index (frames,)."""
    n = len(here)
    lost = (np.asarray(out.nearest).min(axis=1) < 1e-3) | ~np.isfinite(np.asarray(out.forces)).all(axis=1)
    lost &= np.asarray(graph.atom_mask) & (np.asarray(graph.structure) < n)
    if lost.any():
        raise DataError(f"{here[int(np.asarray(graph.structure)[lost][0])].source}: atoms on top of each other")
    energy, forces, stress = (np.array([getattr(f.labels, x) is not None for f in here]) for x in columns)
    stress &= np.array([f.structure.pbc.all() for f in here])
    atoms = np.asarray(targets.n_atoms)[:n]
    label, predicted = (np.asarray(x)[:n] / atoms for x in (targets.energy, out.energy))
    columns["energy"].append((label[energy], predicted[energy], index[energy]))
    structure = np.asarray(graph.structure)
    rows = np.asarray(graph.atom_mask) & np.pad(forces, (0, graph.n_structures - n))[structure]
    label, predicted = (np.asarray(x, dtype=np.float64)[rows].ravel() for x in (targets.forces, out.forces))
    columns["forces"].append((label, predicted, np.repeat(index[structure[rows]], 3)))
    label, predicted = (np.asarray(x)[:n][stress][:, *UPPER].ravel() / GPA for x in (targets.stress, out.stress))
    columns["stress"].append((label, predicted, np.repeat(index[stress], 6)))


def require_finite(frame: Frame) -> None:
    """DataError naming the frame where a label is NaN or infinite: there is nothing to learn from it or to compare with."""
    for name in ("energy", "forces", "stress"):
        label = getattr(frame.labels, name)
        if label is not None and not np.isfinite(label).all():
            raise DataError(f"{frame.source}: {name} is NaN or infinite; remove or recompute the frame")


def _merge(column: list[Column]) -> Column:
    if not column:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)
    labels, predictions, index = (np.concatenate(x) for x in zip(*column, strict=True))
    return labels, predictions, index


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
