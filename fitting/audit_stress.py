"""Do the stress labels belong to the energies? Finds a wrong sign, unit or order, virials, and a missing pressure.

Between two frames a, b with the same atoms in the same order, along the path with cell h(λ) and fractional
coordinates s(λ) linear in λ, dE/dλ = V σ : (h⁻¹ Δh) − Σ F · (Δs h). The trapezium rule over the two ends gives

    ΔE + ½ Σ (F_a · Δs h_a + F_b · Δs h_b)  =  s · ½ (V_a σ_a : h_a⁻¹Δh + V_b σ_b : h_b⁻¹Δh)
                                             + p · ½ (V_a tr h_a⁻¹Δh + V_b tr h_b⁻¹Δh)

with error of third order in strain and displacement. Over all pairs of small strain, s = 1 and p = 0 for right
labels; s = 1/f where the labels are f times the stress (f = −1 wrong sign, 160.2 GPa, 1602 kbar), and p is a
constant that is missing from them (Pulay stress, or a basis that changed). Where no cells differ enough, pair
forces are fitted to the force labels (`audit_stress_quick`) and the labels are compared with the stress of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adatom.fitting.audit_stress_pairs import READINGS, StrainPairs, strain_pairs
from adatom.fitting.audit_stress_quick import quick_factor
from adatom.fitting.dataset import Frame
from adatom.potential.units import GPA

Array = NDArray[np.float64]

ORDER_FRAMES = 10
"""Frames that must take part before another order of the shear components is believed: a few fit any order by chance."""
UNITS = {
    "eV/Å³": 1.0,
    "GPa": 1.0 / GPA,
    "kbar": 10.0 / GPA,
    "MPa": 1e3 / GPA,
    "bar": 1e4 / GPA,
    "Pa": 1e9 / GPA,
    "hartree/bohr³": 0.00339893,
    "Ry/bohr³": 0.00679786,
}
"""How many of the unit are one eV/Å³."""


@dataclass(frozen=True)
class StressVerdict:
    """What the labels of one config_type are. kind: "ok", "sign", "unit", "virial", "order", "factor" or "unknown".

    factor: label divided by what it should be; offset_GPa: what is missing from the labels, nan where it was not
    looked at; text: the evidence, for the reader; method: "strain", "forces" (rough) or "none"; sure: whether to
    act on it; frames: indices of the frames it is about.
    """

    config_type: str
    kind: str
    factor: float
    offset_GPa: float
    text: str
    method: str
    frames: tuple[int, ...]
    sure: bool = True


def check_stress(frames: Sequence[Frame], *, cutoff: float = 6.0) -> list[StressVerdict]:
    """A verdict for each config_type with stress labels."""
    labelled = [k for k, frame in enumerate(frames) if _usable(frame)]
    types = {
        t: tuple(k for k in labelled if frames[k].config_type == t) for t in sorted({frames[k].config_type for k in labelled})
    }
    pairs = strain_pairs(frames, labelled)
    verdicts = []
    for name, members in types.items():
        inside = np.isin(pairs.a, members) & np.isin(pairs.b, members)
        verdict = _from_strain(name, members, pairs.select(inside))
        verdicts.append(verdict or _from_forces(name, members, frames, cutoff))
    verdicts = [_as_elsewhere(v, verdicts) for v in verdicts]
    if verdicts and all(v.kind == "unknown" for v in verdicts):
        everything = _from_strain("all", tuple(labelled), pairs)
        if everything is not None:
            return [everything]
    return verdicts


def _usable(frame: Frame) -> bool:
    labels = frame.labels
    return (
        bool(frame.structure.pbc.all())
        and labels.stress is not None
        and bool(np.isfinite(labels.stress).all())
        and bool(labels.stress.any())
        and (labels.energy is None or bool(np.isfinite(labels.energy)))
        and (labels.forces is None or bool(np.isfinite(labels.forces).all()))
    )


@dataclass(frozen=True)
class _Fit:
    slope: float
    slope_error: float
    offset: float
    offset_error: float
    explained: float  # share of the energy differences that the stress explains beyond a constant pressure


def _fit(pairs: StrainPairs, reading: str) -> _Fit:
    """Robust weighted least squares of energy differences on (work, volume change); Huber weights."""
    w = 1.0 / (pairs.atoms * (pairs.strain**2 + (0.05 * pairs.moved) ** 2 + 1e-5))
    y, x = pairs.energy * w, np.column_stack([pairs.work[reading], pairs.volume]) * w[:, None]
    if not x[:, 0].any():
        return _Fit(0.0, np.inf, 0.0, np.inf, 0.0)
    scale = np.sqrt((x**2).sum(axis=0))
    scale[scale == 0] = 1.0
    x = x / scale
    h = np.ones(len(y))
    for _ in range(12):
        coefficients = np.linalg.lstsq(x * h[:, None], y * h, rcond=1e-8)[0]
        residual = y - x @ coefficients
        spread = 1.4826 * np.median(np.abs(residual)) + 1e-12
        h = np.sqrt(np.minimum(1.0, 2.0 * spread / np.maximum(np.abs(residual), 1e-12)))
    frames = len(np.unique(np.concatenate([pairs.a, pairs.b])))
    # pairs of the same frame are not independent: count frames, and let nothing look better than the trapezium rule is
    variance = ((h * residual) ** 2).sum() / max(frames - 2, 1)
    error = np.sqrt(np.diag(np.linalg.pinv((x * h[:, None]).T @ (x * h[:, None]))) * variance)
    alone = np.linalg.lstsq((x[:, 1] * h)[:, None], y * h, rcond=None)[0]
    without = ((h * (y - x[:, 1] * alone[0])) ** 2).sum()
    explained = 1.0 - ((h * residual) ** 2).sum() / max(without, 1e-300)
    slope, offset = coefficients / scale
    return _Fit(slope, error[0] / scale[0], offset, error[1] / scale[1], explained)


def _from_strain(name: str, members: tuple[int, ...], pairs: StrainPairs) -> StressVerdict | None:
    """The verdict of the regression, from the pairs with the smallest errors there are enough of; None if it is
    unclear."""
    for moved, strain in ((0.05, 0.03), (0.05, 0.06), (0.2, 0.03), (0.2, 0.06)):
        chosen = pairs.select((pairs.moved < moved) & (pairs.strain < strain))
        if len(chosen.a) < 4:
            continue
        fits = {reading: _fit(chosen, reading) for reading in READINGS}
        verdict = _judge(name, members, chosen, fits, judge_offset=moved < 0.1)
        if verdict is not None:
            return verdict
    return None


def _judge(
    name: str, members: tuple[int, ...], pairs: StrainPairs, fits: dict[str, _Fit], *, judge_offset: bool
) -> StressVerdict | None:
    plain = "as it stands"
    reading = max(fits, key=lambda r: fits[r].explained)
    much_better = 1.0 - fits[reading].explained < 0.2 * (1.0 - fits[plain].explained)
    frames = len(np.unique(np.concatenate([pairs.a, pairs.b])))
    enough = reading == "virial" or frames >= ORDER_FRAMES
    if not (much_better and enough and fits[reading].explained > 0.9 and fits[plain].explained < 0.995):
        reading = plain
    fit = fits[reading]
    if fit.explained < 0.7 or fit.slope_error > 0.15 * abs(fit.slope) or fit.slope == 0.0:
        return None
    factor = 1.0 / fit.slope
    evidence = f"labels are {factor:.4g} × dE/dstrain, from {len(pairs.a)} pairs of {frames} frames"
    offset = fit.offset / GPA if judge_offset and abs(fit.offset) > 8 * fit.offset_error else float("nan")
    kind, text = name_factor(factor, 1.6)
    if kind in {"unit", "factor"} or reading == "virial":
        virial = fits["virial"]
        of_unit = 0.0 if reading == "virial" else min(abs(np.log(abs(factor) / size)) for size in UNITS.values())
        of_virial = abs(np.log(max(abs(virial.slope), 1e-12)))
        if virial.explained > 0.7 and of_virial < (0.4 if reading == "virial" else min(0.2, 0.5 * of_unit)):
            sign = "−V × stress, the virial" if virial.slope < 0 else "+V × stress"
            return StressVerdict(name, "virial", factor, offset, f"they are {sign} in eV, not the stress", "strain", members)
    if reading in READINGS and reading not in {plain, "virial"}:
        unit = "" if kind == "ok" else f", and {text}"
        return StressVerdict(
            name,
            "order",
            factor,
            offset,
            f"the shear components stand in {reading}{unit} ({evidence})",
            "strain",
            members,
        )
    return StressVerdict(name, kind, factor, offset, f"{text} ({evidence})" if text else evidence, "strain", members)


def _from_forces(name: str, members: tuple[int, ...], frames: Sequence[Frame], cutoff: float) -> StressVerdict:
    """The verdict of the quick fit; kind "unknown" if that is unclear too."""
    result = quick_factor([frames[k] for k in members], cutoff=cutoff)
    if result is None:
        text = "too few frames with the same atoms in cells strained a little, and pair forces do not explain it"
        return StressVerdict(name, "unknown", float("nan"), float("nan"), text, "none", members, False)
    factor, correlation, used = result
    kind, text = name_factor(factor, 3.0)
    evidence = (
        f"labels are about {factor:.2g} × the stress of pair forces fitted to the forces of {used} frames, r = {correlation:.2f}"
    )
    if kind == "factor":
        return StressVerdict(name, "unknown", factor, float("nan"), evidence, "forces", members, False)
    volume = float(np.mean([frames[k].structure.volume for k in members]))
    if kind == "unit" and factor < 0 and 0.25 < -factor / volume < 4.0:
        text += ", or they are virials, −V × stress in eV"
    text = f"{text} ({evidence})" if text else evidence
    return StressVerdict(name, kind, factor, float("nan"), text, "forces", members, abs(correlation) > 0.8)


def _as_elsewhere(rough: StressVerdict, verdicts: Sequence[StressVerdict]) -> StressVerdict:
    """A quick fit is too rough to tell units apart that are near; what strain says of other frames decides between
    them."""
    sure = [v for v in verdicts if v.method == "strain"]
    if rough.method == "forces" and sure:
        nearest = min(sure, key=lambda v: abs(np.log(abs(rough.factor / v.factor))))
        if rough.factor * nearest.factor > 0 and 0.25 < rough.factor / nearest.factor < 4.0 and nearest.kind != rough.kind:
            return replace(rough, kind=nearest.kind, sure=True, text=f"as in {nearest.config_type}: {nearest.text}")
    return rough


def name_factor(factor: float, tolerance: float) -> tuple[str, str]:
    """(kind, what to say) of labels that are `factor` times the stress; a unit is recognised to within × or ÷
    `tolerance`."""
    distance = {unit: abs(np.log(abs(factor) / size)) for unit, size in UNITS.items()}
    unit = min(distance, key=lambda u: distance[u])
    flipped = factor < 0
    if distance[unit] > np.log(tolerance):
        return "factor", f"they are {factor:.4g} times the stress in eV/Å³, which is no unit known here"
    if unit == "eV/Å³":
        return ("sign", "the sign is wrong (positive must be tension): multiply by −1") if flipped else ("ok", "")
    turn = -1.0 if flipped else 1.0
    sign = " with the wrong sign" if flipped else ""
    return "unit", f"they are in {unit}{sign}: multiply by {turn / UNITS[unit]:.6g} to get eV/Å³"
