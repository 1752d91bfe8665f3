"""Errors of a potential on labels it has not been trained on: the honest number of an iteration, and data for the calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from adatom.fitting.active.frames import frame_of
from adatom.fitting.calibration import Errors, Pair, errors_and_spreads, judged, pooled
from adatom.fitting.metrics import compare
from adatom.potential.model_file import write_atomically
from adatom.potential.potential import Potential

RECENT = 3
"""Iterations whose new labels calibrate the next potential: those of a poor one say little of a good one."""


def judge_new_labels(potential: Potential, labelled: Sequence[ase.Atoms], path: Path) -> dict[str, Any] | None:
    """RMSE of energy [meV/atom], forces [meV/Å], stress [GPa], and how the calibration held; None without labels.

    Errors and spreads are written to `path`, for `earlier`.
    """
    if not labelled:
        return None
    frames = [frame_of(x) for x in labelled]
    errors = compare(potential, frames).errors()
    found: dict[str, Any] = {"frames": len(frames)} | {name: errors[name]["rmse"] for name in ("energy", "forces", "stress")}
    pair = errors_and_spreads(potential, frames)
    known = potential.committee and potential.committee.calibration
    if known:
        found["coverage"] = {"energy": judged(known.energy, pair[0]), "forces": judged(known.forces, pair[1])}
    content = {name: {k: v.tolist() for k, v in x._asdict().items()} for name, x in zip(("energy", "forces"), pair, strict=True)}
    write_atomically(path, json.dumps(content).encode())
    return found


def earlier(paths: Sequence[Path]) -> Pair | None:
    """What `judge_new_labels` has written in the latest iterations; None where there is nothing."""
    pairs = [_read(p) for p in [p for p in paths if p.exists()][-RECENT:]]
    return pooled(pairs) if pairs else None


def _read(path: Path) -> Pair:
    content = json.loads(path.read_text())
    energy, forces = (Errors(**{k: np.asarray(v) for k, v in content[name].items()}) for name in ("energy", "forces"))
    return energy, forces
