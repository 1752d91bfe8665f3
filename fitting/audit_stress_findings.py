"""What the report says of the stress labels: the verdicts of audit_stress, put together and worded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adatom.fitting.audit_report import Finding, sources
from adatom.fitting.audit_stress import StressVerdict, check_stress
from adatom.fitting.dataset import Frame
from adatom.potential.units import GPA

OFFSET_GPA = 0.6
"""Constant difference between labels and dE/dstrain that is worth a warning."""
LARGE_STRESS = 1.0
"""eV/Å³ (160 GPa), rms; larger labels that cannot be checked are suspected to be in another unit."""


def check_stresses(frames: Sequence[Frame], cutoff: float) -> list[Finding]:
    """Sign, unit, order and offset of the stress labels, from energies and forces (see audit_stress)."""
    if not any(f.labels.stress is not None for f in frames):
        return []
    verdicts = check_stress(frames, cutoff=cutoff)
    findings = []
    good = [v for v in verdicts if v.kind == "ok"]
    if good:
        best = min(good, key=lambda v: v.method != "strain")
        listed = ", ".join(v.config_type for v in good)
        findings.append(Finding("info", "stress-agrees", f"sign and unit of the stress agree in {listed} ({best.text})"))
    for kind in ("sign", "unit", "virial", "order", "factor"):
        wrong = [v for v in verdicts if v.kind == kind]
        for text in dict.fromkeys(_diagnosis(v) for v in wrong):
            alike = [v for v in wrong if _diagnosis(v) == text]
            best = min(alike, key=lambda v: (v.method != "strain", not v.sure))
            listed = ", ".join(v.config_type for v in alike)
            severity = "error" if any(v.sure for v in alike) else "warning"
            frames_of = sorted({k for v in alike for k in v.frames})
            message = f"stress labels of {listed}: {best.text}"
            findings.append(
                Finding("error" if severity == "error" else "warning", f"stress-{kind}", message, sources(frames, frames_of))
            )
    findings += _offsets(frames, verdicts)
    findings += _unchecked(frames, [v for v in verdicts if v.kind == "unknown"])
    return findings


def _diagnosis(verdict: StressVerdict) -> str:
    text = verdict.text.removeprefix("as in ")
    return text.split(": ", 1)[1].split(" (")[0] if verdict.text.startswith("as in ") else text.split(" (")[0].split(", or")[0]


def _offsets(frames: Sequence[Frame], verdicts: Sequence[StressVerdict]) -> list[Finding]:
    off = [v for v in verdicts if v.kind != "unknown" and abs(v.offset_GPa) > OFFSET_GPA]
    if not off:
        return []
    listed = ", ".join(f"{v.config_type} {v.offset_GPa:+.1f} GPa" for v in off)
    message = (
        f"a constant pressure is missing from the stress labels: {listed} must be added to the diagonal to agree "
        "with dE/dstrain; Pulay stress, or settings that differ between energies and stress? Fit without stress, or "
        "correct it"
    )
    return [Finding("warning", "stress-offset", message, sources(frames, sorted({k for v in off for k in v.frames})))]


def _unchecked(frames: Sequence[Frame], verdicts: Sequence[StressVerdict]) -> list[Finding]:
    if not verdicts:
        return []
    listed = ", ".join(v.config_type for v in verdicts)
    indices = sorted({k for v in verdicts for k in v.frames})
    reason = verdicts[0].text
    findings = [
        Finding(
            "info",
            "stress-unchecked",
            f"sign and unit of the stress of {listed} could not be checked: {reason}",
            sources(frames, indices),
        )
    ]
    for v in verdicts:
        rms = np.sqrt(np.mean([np.mean(np.square(frames[k].labels.stress)) for k in v.frames]))  # type: ignore[arg-type]
        if rms > LARGE_STRESS:
            message = f"stress of {v.config_type} is {rms / GPA:.4g} GPa rms if it is in eV/Å³: is it in GPa or kbar?"
            findings.append(Finding("warning", "stress-large", message, sources(frames, v.frames)))
    return findings
