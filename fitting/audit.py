"""Look at the data before any fit: every finding has a severity and names the frames.

error: fitting would give nonsense (fitting refuses NaN labels). warning: look at it. info: good to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from adatom.fitting.audit_checks import (
    check_compositions,
    check_distances,
    check_energies,
    check_forces,
    check_numbers,
)
from adatom.fitting.audit_duplicates import check_duplicates, check_leakage
from adatom.fitting.audit_geometry import Geometry, measure
from adatom.fitting.audit_report import Finding, TypeRow, fitted_energies, type_table
from adatom.fitting.audit_stress_findings import check_stresses
from adatom.fitting.dataset import Frame
from adatom.fitting.labels import DataError

__all__ = ["AuditReport", "Finding", "TypeRow", "audit", "audit_leakage"]

_ORDER = {"error": 0, "warning": 1, "info": 2}
_HEADER = (
    "config_type", "frames", "atoms", "E", "F", "S", "E mean eV/atom", "E std meV/atom", "F rms eV/Å", "F max",
    "S rms GPa", "d min Å",
)  # fmt: skip


@dataclass(frozen=True)
class AuditReport:
    """What the audit found: findings (worst first), a row per config_type, the shortest distance (Å) per pair of
    elements; and what it measured in each frame."""

    frames: int
    findings: tuple[Finding, ...]
    table: tuple[TypeRow, ...]
    min_distances: dict[str, float]
    geometry: tuple[Geometry, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings of severity error."""
        return tuple(f for f in self.findings if f.severity == "error")

    def text(self) -> str:
        """For the terminal."""
        rows = [_HEADER, *(row.cells() for row in self.table)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADER))]
        lines = [
            "  ".join(cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        lines += ["(E, F, S: frames with energy, forces, stress; E mean and std after the fit of compositions)", ""]
        distances = ", ".join(f"{pair} {d:.3f}" for pair, d in self.min_distances.items())
        lines += [f"shortest distances (Å): {distances or 'none within the cutoff'}", ""]
        lines += [finding.text() for finding in self.findings]
        count = {s: sum(f.severity == s for f in self.findings) for s in _ORDER}
        lines.append(f"{count['error']} errors, {count['warning']} warnings, {count['info']} notes in {self.frames} frames")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers, strings, lists; not-a-number becomes None."""
        return {
            "frames": self.frames,
            "findings": [{**asdict(f), "frames": list(f.frames)} for f in self.findings],
            "table": [{k: _plain(v) for k, v in asdict(row).items()} for row in self.table],
            "min_distances": dict(self.min_distances),
        }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def audit(frames: Sequence[Frame], *, cutoff: float = 6.0) -> AuditReport:
    """Run every check on `frames`; neighbours are looked for within `cutoff` Å. Raises DataError where there are no
    frames."""
    if not frames:
        raise DataError("nothing to audit: no frames were given")
    geometry = [measure(frame.structure, cutoff) for frame in frames]
    residual = fitted_energies(frames)
    findings = [
        *check_numbers(frames),
        *check_distances(frames, geometry, cutoff),
        *check_duplicates(frames, geometry),
        *check_compositions(frames),
        *check_energies(frames, residual),
        *check_forces(frames),
        *check_stresses(frames, cutoff),
    ]
    findings.sort(key=lambda f: _ORDER[f.severity])
    table = type_table(frames, geometry, residual)
    return AuditReport(len(frames), tuple(findings), table, _shortest(geometry), tuple(geometry))


def audit_leakage(
    train: Sequence[Frame], test: Sequence[Frame], *, cutoff: float = 6.0, geometry: Sequence[Geometry] = ()
) -> list[Finding]:  # fmt: skip
    """Frames of `test` whose structure is also in `train`, and groups that are on both sides. geometry: of `train`, where `audit`
    has measured it with this cutoff."""
    known = geometry or [measure(frame.structure, cutoff) for frame in train]
    return check_leakage(train, test, known, [measure(frame.structure, cutoff) for frame in test])


def _shortest(geometry: Sequence[Geometry]) -> dict[str, float]:
    """Shortest distance in Å per pair of elements over all frames, "H-O"."""
    found: dict[tuple[int, int], float] = {}
    for g in geometry:
        for pair, d in g.min_distance.items():
            found[pair] = min(d, found.get(pair, np.inf))
    return {f"{chemical_symbols[a]}-{chemical_symbols[b]}": d for (a, b), d in sorted(found.items())}
