"""What labels will cost, from what those that are done have cost."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.ledger import Ledger

USUAL_EXPONENT = 2.0
"""Cost ∝ atoms**2 is assumed until labels of two sizes are done: between small and large cells in plane waves."""


def estimate(config: LabelConfig, structures: Sequence[ase.Atoms], ledger: Ledger) -> float | None:
    """Rough cost of labelling these structures, core hours; those done already are free. None while nothing is known.

    log t = a + b log N is fitted to the labels done with these settings, 1 ≤ b ≤ 3.
    """
    if config.fingerprint != ledger.settings:
        raise ValueError(f"the ledger was opened for settings {ledger.settings}, the config has {config.fingerprint}")
    known = ledger.costs()
    if not known:
        return None
    x, y = np.log([n for n, _ in known]), np.log([t for _, t in known])
    slope = float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0.1 else USUAL_EXPONENT
    slope = min(max(slope, 1.0), 3.0)
    offset = float(np.median(y - slope * x))
    found = (ledger.find(atoms) for atoms in structures)
    sizes = [len(atoms) for atoms, c in zip(structures, found, strict=True) if c is None or c.state != "done"]
    return float(sum(np.exp(offset) * n**slope for n in sizes)) / 3600.0
