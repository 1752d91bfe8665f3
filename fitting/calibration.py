"""How large errors are where the committee spreads: factors, and how far they can be trusted, from frames kept from the training.

    a² = ⟨err²⟩/⟨s²⟩        (not ⟨err²/s²⟩: the ratios to the smallest spreads would decide it)

and, for bounds that hold without any assumption but that future errors are drawn as these were, the p-quantiles of err/s with the
finite-sample correction ⌈(n + 1) p⌉/n (split conformal prediction: Angelopoulos, Bates, Found. Trends Mach.
Learn. 16, 494 (2023)). What part of errors they cover is measured apart: factors of one half of the frames, errors of the other,
and the reverse. Errors: of the total energy of a frame, and the length of the error of an atom's force vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from adatom.fitting.batches import ONCE, Bucket, assemble, make_buckets, neighbourhoods, portions
from adatom.fitting.dataset import Frame
from adatom.fitting.metrics import ATOMS
from adatom.potential.committee import Calibration, Coverage, spread
from adatom.potential.compilation import jit
from adatom.potential.model import FittedModel, Params
from adatom.potential.potential import Potential
from adatom.potential.predict import predict

NOMINAL = (0.5, 0.68, 0.8, 0.9, 0.95)
FLOOR = 1e-3
"""Spreads below this part of their median count as that: a ratio to almost nothing means nothing."""
LEAST = 8
"""Frames without which nothing is calibrated."""


class Errors(NamedTuple):
    """Of n labels: error (n,), spread (n,) before scaling, frame (n,)."""

    error: np.ndarray
    spread: np.ndarray
    frame: np.ndarray


Pair = tuple[Errors, Errors]
"""Of energies [eV, total] and of forces [eV/Å, per atom]."""


def errors_and_spreads(
    potential: Potential, frames: Sequence[Frame], *, precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Pair:  # fmt: skip
    """Of labelled frames. Raises ValueError where there is no committee."""
    if potential.committee is None:
        raise ValueError("the potential knows nothing about its own error: fit it with [uncertainty] kind other than 'none'")
    items = neighbourhoods(frames, potential.model.elements, potential.model.cutoff)
    members = {"network": potential.committee.members}
    parts: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    done = 0
    for bucket in make_buckets(frames, items, worth=ONCE):
        for part, numbers, present in portions(bucket, ATOMS):
            with jax.enable_x64(True):
                every = np.arange(len(present))
                found = _forward(potential.model, potential.params, members, part, every, present, precision)
            energy, s_energy, on_e, force, s_force, on_f, structure = (np.asarray(x, dtype=np.float64) for x in found)
            index = np.pad(numbers, (0, len(present) - len(numbers)))
            e, f = on_e > 0, on_f > 0
            parts.append(([energy[e], s_energy[e], index[e]], [force[f], s_force[f], index[structure[f].astype(int)]]))
            done += int(present.sum())
            if progress:
                progress(done, len(frames))
    energies, forces = (Errors(*(np.concatenate(x) for x in zip(*column, strict=True))) for column in zip(*parts, strict=True))
    return energies, forces


@partial(jit, static_argnames=("model", "precision"))
def _forward(
    model: FittedModel, params: Params, members: Params, bucket: Bucket, rows: np.ndarray, present: np.ndarray, precision: str
) -> tuple[jax.Array | np.ndarray, ...]:
    graph, targets = assemble(bucket, rows, present)
    dtype = jnp.dtype(precision)
    out = predict(model, params, graph, e0=params["statistics"].e0, dtype=dtype)
    known = spread(model, params, members, graph, dtype=dtype)
    wide = out.energy.dtype
    away = out.forces.astype(wide) - jnp.asarray(targets.forces, dtype=wide)
    on = targets.forces_weight[graph.structure] * graph.atom_mask.astype(targets.forces_weight.dtype)
    return (
        jnp.abs(out.energy - targets.energy), known.energy, targets.energy_weight,
        jnp.sqrt((away * away).sum(axis=1)), known.forces, on, graph.structure,
    )  # fmt: skip


def calibrated(
    potential: Potential, frames: Sequence[Frame], *, data: str, precision: str = "float32", earlier: Pair | None = None
) -> Potential:  # fmt: skip
    """The potential with its committee calibrated on `frames`; as it is where there are too few to say anything.

    earlier: errors and spreads of potentials before it, made in the same way, on frames that they had not been trained on: added
    to its own where these are too few. Its ratios of error to spread are then taken to be theirs.
    """
    assert potential.committee is not None
    about = f"{data}, {len(frames)} frames"
    pairs = [errors_and_spreads(potential, frames, precision=precision)] if frames else []
    if earlier is not None and not (pairs and enough(pairs[0])):
        about = f"{about}, and labels of earlier iterations before training on them" if frames else "labels of earlier iterations"
        pairs.append(earlier)
    if not pairs:
        return potential
    both = pooled(pairs)
    if not enough(both):
        return potential
    known = Calibration(energy=coverage(both[0]), forces=coverage(both[1]), data=about)
    return replace(potential, committee=replace(potential.committee, calibration=known))


def enough(pair: Pair) -> bool:
    return min(len(np.unique(x.frame)) for x in pair) >= LEAST


def pooled(pairs: Sequence[Pair]) -> Pair:
    """All together; frames of different pairs are different frames."""
    starts = np.cumsum([0, *(1 + max(int(x.frame.max(initial=-1)) for x in pair) for pair in pairs)])
    shifted = [[x._replace(frame=x.frame + start) for x in pair] for pair, start in zip(pairs, starts[:-1], strict=True)]
    energy, forces = (Errors(*(np.concatenate(x) for x in zip(*column, strict=True))) for column in zip(*shifted, strict=True))
    return energy, forces


def coverage(x: Errors) -> Coverage:
    """The factors of all errors, and how far those of one half hold on the other."""
    ratio = x.error / floored(x.spread)
    half = np.isin(x.frame, np.unique(x.frame)[::2])
    found = [_covered(ratio[a], ratio[~a], p) for p in NOMINAL for a in (half, ~half)]
    pairs = np.array(found).reshape(len(NOMINAL), 2)
    return Coverage(
        scale=float(np.sqrt(np.mean(x.error**2) / np.mean(floored(x.spread) ** 2))), nominal=NOMINAL,
        factors=tuple(quantile(ratio, p) for p in NOMINAL),
        found=tuple(pairs.mean(axis=1).tolist()), rank=rank(x), samples=len(ratio),
    )  # fmt: skip


def floored(spread: np.ndarray) -> np.ndarray:
    return np.maximum(spread, max(FLOOR * float(np.median(spread)), 1e-300))


def quantile(ratio: np.ndarray, p: float) -> float:
    """The ⌈(n + 1) p⌉-th smallest; the largest where there are too few."""
    n = len(ratio)
    return float(np.sort(ratio)[min(int(np.ceil((n + 1) * p)), n) - 1])


def rank(x: Errors) -> float:
    """Spearman's correlation of spreads and errors; 0 where one of them is constant."""
    if len(x.error) < 3 or np.ptp(x.error) == 0.0 or np.ptp(x.spread) == 0.0:
        return 0.0
    result: Any = spearmanr(x.spread, x.error)
    return float(result.statistic)


def _covered(ratio: np.ndarray, others: np.ndarray, p: float) -> float:
    return float((others <= quantile(ratio, p)).mean())


def judged(known: Coverage, x: Errors) -> dict[str, Any]:
    """A calibration put to the test on other frames: parts of errors below each bound, ⟨err²⟩/⟨σ²⟩, rank correlation."""
    s = floored(x.spread)
    return {
        "nominal": list(known.nominal),
        "found": [float((x.error <= f * s).mean()) for f in known.factors],
        "ratio": float(np.sqrt(np.mean(x.error**2) / np.mean((known.scale * s) ** 2))),
        "rank": rank(x),
        "count": len(s),
    }


def table(judgement: dict[str, dict[str, Any]]) -> str:
    """For people; of {"energy": judged(…), "forces": judged(…)}."""
    nominal = next(iter(judgement.values()))["nominal"]
    lines = ["errors below their bound   " + " ".join(f"{100 * p:>5.0f} %" for p in nominal) + "    error/σ   rank correlation"]
    for name, j in judgement.items():
        found = " ".join(f"{100 * p:>5.1f} %" for p in j["found"])
        lines.append(f"  {name:<24} {found}   {j['ratio']:>8.2f}   {j['rank']:>8.2f}")
    return "\n".join(lines)
