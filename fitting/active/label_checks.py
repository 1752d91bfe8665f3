"""Is a label to be believed? Each check returns a reason in one line, or an empty string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from adatom.fitting.active.label_config import ChecksConfig
from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import Structure

ENOUGH = 8
"""Labels of the same composition before energies are compared."""
ENERGY_FLOOR = 0.05
"""Least spread of energies that is assumed, eV per atom: hot structures lie far from a narrow crowd of cold ones."""


def check_structure(structure: Structure, checks: ChecksConfig) -> str:
    """Before computing: no two atoms closer than a part of the sum of their covalent radii (periodic images included)."""
    if checks.min_distance == 0.0:
        return ""
    numbers = structure.numbers
    cutoff = checks.min_distance * 2.0 * float(covalent_radii[numbers].max())
    i, j, shifts = neighbour_pairs(structure, cutoff)
    if not len(i):
        return ""
    distances = np.linalg.norm(structure.positions[j] - structure.positions[i] + shifts @ structure.cell, axis=1)
    ratio = distances / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    k = int(np.argmin(ratio))
    if ratio[k] >= checks.min_distance:
        return ""
    names = " and ".join(f"{chemical_symbols[numbers[x]]} {x}" for x in (i[k], j[k]))
    return (
        f"atoms {names} are {distances[k]:.3f} Å apart, {ratio[k]:.2f} of the sum of their covalent radii "
        f"(min_distance {checks.min_distance:g})"
    )


def check_label(result: Mapping[str, Any], structure: Structure, checks: ChecksConfig, others: Sequence[float]) -> str:
    """After computing: converged, finite, net force, largest force, energy among `others` (eV per atom, same composition).

    `result` is what the worker wrote: energy and free_energy in eV, forces (atoms, 3) in eV/Å, stress (3, 3) in eV/Å³ or None.
    """
    if result["converged"] is False:
        return "the code says that it has not converged"
    forces = np.asarray(result["forces"], dtype=float)
    energy = float(result["energy"] if result["free_energy"] is None else result["free_energy"])
    stress = np.zeros((3, 3)) if result["stress"] is None else np.asarray(result["stress"], dtype=float)
    for name, value in (("energy", energy), ("forces", forces), ("stress", stress)):
        if not np.isfinite(value).all():
            return f"{name}: NaN or infinite"
    norms = np.linalg.norm(forces, axis=1)
    if norms.max() > checks.max_force_eV_A:
        atom = int(norms.argmax())
        symbol = chemical_symbols[structure.numbers[atom]]
        return f"force of {norms.max():.4g} eV/Å on atom {symbol} {atom} (max_force_eV_A {checks.max_force_eV_A:g})"
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(forces)
    if net > checks.max_net_force_eV_A:
        return f"net force of {net:.3g} eV/Å per atom: badly converged? (max_net_force_eV_A {checks.max_net_force_eV_A:g})"
    return _check_energy(energy / len(forces), np.asarray(others, dtype=float), checks.energy_deviations)


def _check_energy(energy: float, others: NDArray[np.float64], limit: float) -> str:
    """z = |e - median| / max(1.4826 median |e_i - median|, ENERGY_FLOOR), where there are enough others."""
    if limit == 0.0 or len(others) < ENOUGH:
        return ""
    median = float(np.median(others))
    spread = max(1.4826 * float(np.median(np.abs(others - median))), ENERGY_FLOOR)
    if abs(energy - median) <= limit * spread:
        return ""
    return (
        f"energy of {energy:.4f} eV/atom, {abs(energy - median) / spread:.0f} robust deviations from the {median:.4f} eV/atom of "
        f"{len(others)} labels of this composition (energy_deviations {limit:g})"
    )
