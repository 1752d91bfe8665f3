"""The pieces of an audit report: findings, and the table per config_type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adatom.fitting.audit_geometry import Geometry
from adatom.fitting.dataset import Frame
from adatom.fitting.e0 import composition_counts, elements_of, fit_composition, is_isolated
from adatom.potential.units import GPA

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One thing the audit found. code: a stable name for programs; frames: sources of all the frames it is about."""

    severity: Literal["error", "warning", "info"]
    code: str
    message: str
    frames: tuple[str, ...] = ()

    def text(self, names: int = 3) -> str:
        """Lines for the terminal, naming the first `names` frames."""
        lines = [f"{self.severity.upper():<7} {self.code}: {self.message}"]
        if self.frames:
            more = f" and {len(self.frames) - names} more" if len(self.frames) > names else ""
            lines.append(f"        {', '.join(self.frames[:names])}{more}")
        return "\n".join(lines)


@dataclass(frozen=True)
class TypeRow:
    """A row of the table. Energies: mean eV/atom and standard deviation meV/atom of what the fit of compositions
    leaves (isolated atoms aside); forces eV/Å, rms per component and the longest vector; stress rms per component
    in GPa; distance Å; nan where there is nothing to tell."""

    config_type: str
    frames: int
    atoms: int
    with_energy: int
    with_forces: int
    with_stress: int
    energy_mean_eV: float
    energy_std_meV: float
    force_rms: float
    force_max: float
    stress_rms_GPa: float
    min_distance: float

    def cells(self) -> tuple[str, ...]:
        """The row as strings."""
        numbers = (
            (self.energy_mean_eV, ".4f"), (self.energy_std_meV, ".1f"),
            (self.force_rms, ".3f"), (self.force_max, ".2f"), (self.stress_rms_GPa, ".2f"), (self.min_distance, ".3f"),
        )  # fmt: skip
        counts = (self.frames, self.atoms, self.with_energy, self.with_forces, self.with_stress)
        return (
            self.config_type,
            *(str(n) for n in counts),
            *("–" if not np.isfinite(x) else format(x, spec) for x, spec in numbers),
        )


def fitted_energies(frames: Sequence[Frame]) -> Array:
    """Energy per atom minus a robust fit of compositions, (frames,) eV; nan without a finite energy and for
    isolated atoms."""
    residual = np.full(len(frames), np.nan)
    usable = [
        k for k, f in enumerate(frames) if f.labels.energy is not None and np.isfinite(f.labels.energy) and not is_isolated(f)
    ]
    if usable:
        some = [frames[k] for k in usable]
        counts = composition_counts(some, elements_of(some))
        energies = np.array([f.labels.energy for f in some], dtype=np.float64)
        e0 = fit_composition(counts, energies, np.ones(len(some)), robust=True)
        residual[usable] = (energies - counts @ e0) / counts.sum(axis=1)
    return residual


def type_table(frames: Sequence[Frame], geometry: Sequence[Geometry], residual: Array) -> tuple[TypeRow, ...]:
    """A row per config_type, in alphabetical order."""
    types = np.array([f.config_type for f in frames])
    return tuple(_row(name, frames, geometry, residual, np.flatnonzero(types == name)) for name in np.unique(types).tolist())


def _row(
    name: str, frames: Sequence[Frame], geometry: Sequence[Geometry], residual: Array, members: NDArray[np.int64]
) -> TypeRow:
    some = [frames[k] for k in members]
    energies = residual[members][np.isfinite(residual[members])]
    forces = [f.labels.forces for f in some if f.labels.forces is not None]
    stresses = [f.labels.stress for f in some if f.labels.stress is not None]
    all_forces = np.concatenate(forces) if forces else np.full((1, 3), np.nan)
    distances = [d for k in members for d in geometry[k].min_distance.values()]
    return TypeRow(
        config_type=name,
        frames=len(some),
        atoms=sum(len(f.structure) for f in some),
        with_energy=sum(f.labels.energy is not None for f in some),
        with_forces=len(forces),
        with_stress=len(stresses),
        energy_mean_eV=float(energies.mean()) if len(energies) else float("nan"),
        energy_std_meV=float(1e3 * energies.std()) if len(energies) else float("nan"),
        force_rms=float(np.sqrt((all_forces**2).mean())),
        force_max=float(np.linalg.norm(all_forces, axis=1).max()),
        stress_rms_GPa=float(np.sqrt((np.array(stresses) ** 2).mean()) / GPA) if stresses else float("nan"),
        min_distance=float(min(distances)) if distances else float("nan"),
    )


def sources(frames: Sequence[Frame], which: Iterable[int]) -> tuple[str, ...]:
    """Where the frames `which` come from."""
    return tuple(frames[k].source for k in which)


def plural(n: int, noun: str) -> str:
    """The number with its noun: 1 frame, 2 frames."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
