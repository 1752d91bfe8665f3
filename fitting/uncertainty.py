"""What a fit says about how sure its potential is: on which frames, in words, numbers and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adatom.fitting import plots
from adatom.fitting.calibration import LEAST, errors_and_spreads, judged, table
from adatom.fitting.dataset import Frame
from adatom.potential.potential import Potential


def judge(
    potential: Potential, validation: Sequence[Frame], test: Sequence[Frame], picture: Path, *, precision: str
) -> dict[str, Any] | None:  # fmt: skip
    """How the calibration holds on test frames, {"energy": judged(…), "forces": judged(…)}; None where it cannot be said.

    Draws it, too: on test frames, or without them on those it was calibrated on, where the parts found are those of one half of
    the frames with the factors of the other.
    """
    known = potential.committee and potential.committee.calibration
    frames = test or validation
    if not known or not frames:
        return None
    energy, forces = errors_and_spreads(potential, frames, precision=precision)
    pairs = {name: x for name, x in (("energy", energy), ("forces", forces)) if len(x.error)}
    found = {name: judged(getattr(known, name), x) for name, x in pairs.items()}
    on = f"{len(frames)} {'test' if test else 'validation'} frames"
    shown = {name: found[name]["found"] if test else list(getattr(known, name).found) for name in pairs}
    plots.calibration(known, pairs, shown, picture, on=on)
    return found if test else None


def about(potential: Potential, judgement: dict[str, Any] | None) -> str:
    """For people."""
    assert potential.committee is not None
    c, known = potential.committee, potential.committee.calibration
    text = f"uncertainty: {c.kind}, {c.size} members, "
    if known is None:
        return text + f"not calibrated: that takes {LEAST} validation frames with energies and forces"
    text += f"calibrated on {known.data} (spread × {known.energy.scale:.3g} energy, × {known.forces.scale:.3g} forces)"
    return text + (f"; on test frames\n{table(judgement)}" if judgement else "")
