"""The checks of the audit, each a function from frames to findings. Thresholds stand at the top, with their units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from adatom.fitting.audit_geometry import Geometry
from adatom.fitting.audit_report import Finding, plural, sources
from adatom.fitting.dataset import Frame
from adatom.fitting.e0 import composition_counts, composition_rank, elements_of, is_isolated

Array = NDArray[np.float64]

CLOSE, OVERLAPPING = 0.5, 0.3
"""Shortest distance in units of the sum of covalent radii: below CLOSE a warning, below OVERLAPPING an error."""
NET_FORCE = 0.05
"""|ΣF|/√(3N) in units of the rms force component: a larger noise in the forces is a warning (plus 2 meV/Å)."""
OUTLIER_SIGMA, OUTLIER_FLOOR = 8.0, 5e-3
"""Energy outlier: this many robust standard deviations from the median of its config_type, σ at least the floor
(eV/atom)."""
LARGE_FORCE = 50.0
"""eV/Å; longer force vectors are a warning."""


def check_numbers(frames: Sequence[Frame]) -> list[Finding]:
    """NaN and infinite labels; frames without labels; labels that are exactly zero where they hardly can be."""
    findings = []
    for label in ("energy", "forces", "stress"):
        values = [getattr(f.labels, label) for f in frames]
        bad = [k for k, v in enumerate(values) if v is not None and not np.isfinite(v).all()]
        if bad:
            message = f"{label} of {plural(len(bad), 'frame')} is NaN or infinite; remove or recompute them"
            findings.append(Finding("error", f"nan-{label}", message, sources(frames, bad)))
    empty = [k for k, f in enumerate(frames) if f.labels.energy is None and f.labels.forces is None and f.labels.stress is None]
    if empty:
        message = f"{plural(len(empty), 'frame')} with no energy, forces or stress: nothing to learn from"
        findings.append(Finding("warning", "no-labels", message, sources(frames, empty)))
    zero = [k for k, f in enumerate(frames) if f.labels.stress is not None and not f.labels.stress.any()]
    if zero:
        message = f"stress of {plural(len(zero), 'frame')} is exactly zero; where it was not calculated, leave it out"
        findings.append(Finding("warning", "zero-stress", message, sources(frames, zero)))
    still = [
        k for k, f in enumerate(frames) if len(f.structure) > 1 and f.labels.forces is not None and not f.labels.forces.any()
    ]
    if still:
        message = f"forces of {plural(len(still), 'frame')} are all exactly zero: right by symmetry, wrong if not calculated"
        findings.append(Finding("info", "zero-forces", message, sources(frames, still)))
    return findings


def check_distances(frames: Sequence[Frame], geometry: Sequence[Geometry], cutoff: float) -> list[Finding]:
    """Overlapping atoms, and atoms with no neighbour within the cutoff."""
    findings = []
    kinds: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
        ("error", "overlapping-atoms", lambda x: x < OVERLAPPING),
        ("warning", "close-atoms", lambda x: OVERLAPPING <= x < CLOSE),
    )
    for severity, code, test in kinds:
        bad = sorted((k for k, g in enumerate(geometry) if test(g.crowding)), key=lambda k: geometry[k].crowding)
        if bad:
            worst = geometry[bad[0]]
            a, b = worst.crowded_pair
            limit = OVERLAPPING if severity == "error" else CLOSE
            closest = f"{chemical_symbols[a]}-{chemical_symbols[b]} {worst.min_distance[a, b]:.3f} Å"
            message = (
                f"{plural(len(bad), 'frame')} with atoms closer than {limit} × the sum of covalent radii; "
                f"the closest is {closest}"
            )
            findings.append(Finding("error" if severity == "error" else "warning", code, message, sources(frames, bad)))
    lonely = [k for k, g in enumerate(geometry) if len(g.lonely) and not is_isolated(frames[k], cutoff=cutoff)]
    if lonely:
        atoms = sum(len(geometry[k].lonely) for k in lonely)
        first = geometry[lonely[0]].lonely[0]
        message = (
            f"{plural(atoms, 'atom')} in {plural(len(lonely), 'frame')} with no neighbour within {cutoff:g} Å "
            f"(atom {first} of the first): their forces cannot be learnt"
        )
        findings.append(Finding("warning", "no-neighbour", message, sources(frames, lonely)))
    return findings


def check_compositions(frames: Sequence[Frame]) -> list[Finding]:
    """Isolated atoms, and compositions that do not determine E0."""
    findings = []
    isolated = [k for k, f in enumerate(frames) if is_isolated(f)]
    named = [
        k
        for k, f in enumerate(frames)
        if "".join(c for c in f.config_type.lower() if c.isalpha()) == "isolatedatom" and k not in set(isolated)
    ]
    if named:
        message = f"{plural(len(named), 'frame')} called isolated atom with more than one atom"
        findings.append(Finding("error", "isolated-atom-type", message, sources(frames, named)))
    if isolated:
        elements = elements_of([frames[k] for k in isolated])
        message = f"{plural(len(isolated), 'isolated-atom frame')} ({', '.join(elements)}): they can set E0"
        findings.append(Finding("info", "isolated-atoms", message, sources(frames, isolated)))
    bound = [f for f in frames if not is_isolated(f) and f.labels.energy is not None]
    if bound:
        elements = elements_of(bound)
        rank = composition_rank(composition_counts(bound, elements), elements)
        have = set(elements_of([frames[k] for k in isolated])) if isolated else set()
        if not rank.full:
            covered = have >= set(elements)
            advice = "the isolated atoms settle it" if covered else "give E0 or isolated atoms where compositions will change"
            findings.append(Finding("info" if covered else "warning", "collinear-compositions", f"{rank.summary()}; {advice}"))
    return findings


def check_energies(frames: Sequence[Frame], residual: Array) -> list[Finding]:
    """Energies far from the median of their config_type, after the fit of compositions."""
    found: list[tuple[float, int]] = []
    everywhere = _spread(residual[np.isfinite(residual)])
    types = np.array([f.config_type for f in frames])
    for name in np.unique(types):
        members = np.flatnonzero((types == name) & np.isfinite(residual))
        centre, sigma = _spread(residual[members]) if len(members) >= 8 else everywhere
        away = np.abs(residual[members] - centre) / max(sigma, OUTLIER_FLOOR)
        found += [(float(x), int(k)) for x, k in zip(away, members, strict=True) if x > OUTLIER_SIGMA]
    if not found:
        return []
    found.sort(reverse=True)
    sigma, worst = found[0]
    message = (
        f"energies of {plural(len(found), 'frame')} lie more than {OUTLIER_SIGMA:g} σ (robust) from the median of "
        f"their config_type; the worst, {frames[worst].source}, by {sigma:.0f} σ, at {residual[worst]:+.3f} eV/atom"
    )
    return [Finding("warning", "energy-outliers", message, sources(frames, (k for _, k in found)))]


def _spread(values: Array) -> tuple[float, float]:
    """Median, and a standard deviation that a tenth of outliers on either side does not move: the larger of what
    the median absolute deviation and the inner 80 % give (a type may hold several temperatures)."""
    if len(values) == 0:
        return 0.0, np.inf
    low, centre, high = np.quantile(values, [0.1, 0.5, 0.9])
    return float(centre), max(1.4826 * float(np.median(np.abs(values - centre))), float(high - low) / 2.563)


def check_forces(frames: Sequence[Frame]) -> list[Finding]:
    """Net forces and very large forces."""
    net: list[tuple[float, int]] = []
    large: list[tuple[float, int]] = []
    for k, f in enumerate(frames):
        forces = f.labels.forces
        if forces is None or not np.isfinite(forces).all():
            continue
        noise = float(np.linalg.norm(forces.sum(axis=0)) / np.sqrt(forces.size))
        if noise > NET_FORCE * np.sqrt((forces**2).mean()) + 2e-3:
            net.append((noise, k))
        longest = float(np.linalg.norm(forces, axis=1).max())
        if longest > LARGE_FORCE:
            large.append((longest, k))
    findings = []
    if net:
        net.sort(reverse=True)
        total = np.linalg.norm(frames[net[0][1]].labels.forces.sum(axis=0))  # type: ignore[union-attr]
        message = (
            f"forces of {plural(len(net), 'frame')} do not sum to zero, by up to {total:.3g} eV/Å in "
            f"{frames[net[0][1]].source}: constraints, missing atoms, or forces of another structure?"
        )
        findings.append(Finding("warning", "net-force", message, sources(frames, (k for _, k in net))))
    if large:
        large.sort(reverse=True)
        message = f"{plural(len(large), 'frame')} with forces above {LARGE_FORCE:g} eV/Å, up to {large[0][0]:.4g} eV/Å"
        findings.append(Finding("warning", "large-forces", message, sources(frames, (k for _, k in large))))
    return findings
