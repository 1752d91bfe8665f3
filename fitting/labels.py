"""Find the labels of one structure: which energy, forces and stress did the calculation give, and where do they
stand?

Search order for each label, the first found wins and all that are found must agree:

    an explicit key (then nothing else is looked at) · REF_energy, REF_forces, REF_stress, REF_virials, REF_virial ·
    the results of an ASE calculator · energy, forces, force, stress, virial, virials · dft_…, DFT_…

Conventions: energy eV, total; forces eV/Å; stress eV/Å³, ASE's sign (positive = tension), virial W eV, σ = −W/V.
Stress and virial may be 3×3, flat 9 or Voigt 6 (xx, yy, zz, yz, xz, xy). Of a calculator's `free_energy` and
`energy`, where they differ, `free_energy` is taken: with smeared occupations it is the one the forces are
derivatives of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray

from adatom.potential.structure import Structure

Array = NDArray[np.float64]

ENERGY_TOLERANCE = 1e-6
"""Two energies agree within this, eV per atom (and within 1e-9 of the total)."""
FORCE_TOLERANCE = 1e-5
"""Two force components agree within this, eV/Å: files are rounded to 8 decimals or fewer."""
STRESS_TOLERANCE = 1e-7
"""Two stress components agree within this, eV/Å³, plus 1e-5 of the largest component."""

_NAMES = {
    "energy": ("energy",),
    "forces": ("forces", "force"),
    "stress": ("stress", "virials", "virial"),
}


class DataError(ValueError):
    """Data that cannot be used as they are; the message says what, where, and what to do, in one line."""


@dataclass(frozen=True)
class Labels:
    """What was calculated for one structure; None where it was not.

    energy eV, total; forces (atoms, 3) eV/Å; stress (3, 3) eV/Å³, symmetric, positive = tension.
    """

    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None


@dataclass(frozen=True)
class LabelKeys:
    """Names under which the labels stand in the file; None: search. An explicit name is the only one looked at."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None


@dataclass(frozen=True)
class Found:
    """The labels of a frame, `sources` (label → where it stood) and `notes` (codes of what was done to it)."""

    labels: Labels
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


NOTES = {
    "free_energy": "energy and free_energy of the calculator differ: free_energy taken, the forces belong to it",
    "zero_stress": "zero stress ignored: the cell is not periodic in three directions",
    "masked_stress": "WARNING: stress masked: it is not defined without a cell periodic in three directions",
}


def find_labels(atoms: ase.Atoms, structure: Structure, *, keys: LabelKeys, where: str) -> Found:
    """Labels of `atoms` (read by ASE, `structure` made from it), checked and in our conventions.

    NaN and infinite labels are passed on as they are, so that the audit can name them all; fitting refuses them.
    Raises DataError, naming `where`, where a label has the wrong shape or is no number, a stress is not symmetric,
    or two sources disagree.
    """
    store = _everything(atoms)
    notes: list[str] = []
    energies = [(name, _scalar(value, f"{where}: {name}")) for name, value in _candidates(store, "energy", keys.energy)]
    energies = _choose_free_energy(energies, notes)
    forces = [
        (name, _forces(value, len(structure), f"{where}: {name}")) for name, value in _candidates(store, "forces", keys.forces)
    ]
    stresses = _stresses(store, structure, keys, where, notes)
    tolerance = ENERGY_TOLERANCE * len(structure)
    _agree([(n, np.array([e])) for n, e in energies], tolerance, 1e-9, where=where, label="energy", unit="eV")
    _agree(forces, FORCE_TOLERANCE, 1e-6, where=where, label="forces", unit="eV/Å")
    _agree(stresses, STRESS_TOLERANCE, 1e-5, where=where, label="stress", unit="eV/Å³")
    sources = {label: found[0][0] for label, found in (("energy", energies), ("forces", forces), ("stress", stresses)) if found}
    labels = Labels(
        energy=energies[0][1] if energies else None,
        forces=forces[0][1] if forces else None,
        stress=stresses[0][1] if stresses else None,
    )
    return Found(labels, sources, tuple(notes))


def explicit_value(atoms: ase.Atoms, key: str) -> Any:
    """Value of `key` wherever ASE has put it (info, arrays, calculator results, database key-value pairs), or
    None."""
    for store in _everything(atoms).values():
        if store.get(key) is not None:
            return store[key]
    return None


def available_keys(atoms: ase.Atoms) -> list[str]:
    """Every name that could hold a label, for messages."""
    skip = {"numbers", "positions", "key_value_pairs", "data", "unique_id"}
    return sorted({key for store in _everything(atoms).values() for key in store} - skip)


def _everything(atoms: ase.Atoms) -> dict[str, dict[str, Any]]:
    """All that ASE read, in two stores: the calculator's results, and what stands in the file under its own name."""
    results = {k: v for k, v in getattr(atoms.calc, "results", {}).items() if v is not None}
    info = dict(atoms.info)
    nested = {**info.get("data", {}), **info.get("key_value_pairs", {})} if "unique_id" in info else {}
    return {"calculator": results, "file": {**nested, **info, **atoms.arrays}}


def _candidates(store: dict[str, dict[str, Any]], label: str, key: str | None) -> list[tuple[str, Any]]:
    """(source, raw value) of every place that may hold `label`, in the order of trust."""
    file, results = store["file"], store["calculator"]
    if key is not None:
        value = file.get(key, results.get(key))
        return [] if value is None else [(key, value)]
    names = _NAMES[label]
    found = [(f"REF_{n}", file.get(f"REF_{n}")) for n in names]
    if label == "energy":
        found.append(("calculator free_energy", results.get("free_energy")))
    found.append(("calculator", results.get(names[0])))
    found += [(n, file.get(n)) for n in names]
    found += [(f"{prefix}_{n}", file.get(f"{prefix}_{n}")) for prefix in ("dft", "DFT") for n in names]
    return [(name, value) for name, value in found if value is not None]


def _choose_free_energy(energies: list[tuple[str, float]], notes: list[str]) -> list[tuple[str, float]]:
    """Drop one of the calculator's two energies; they may differ without contradiction (electronic entropy)."""
    names = dict(energies)
    if "calculator free_energy" not in names:
        return energies
    if "calculator" not in names:
        return energies
    free, plain = names["calculator free_energy"], names["calculator"]
    others = [e for n, e in energies if n.startswith("REF_")]
    same = bool(np.isclose(free, plain, rtol=1e-12, atol=1e-9, equal_nan=True))
    keep_plain = same or any(np.isclose(e, plain, rtol=1e-9, atol=1e-6) for e in others)
    if not same and not others:
        notes.append("free_energy")
    return [(n, e) for n, e in energies if n != ("calculator free_energy" if keep_plain else "calculator")]


def _stresses(
    store: dict[str, dict[str, Any]], structure: Structure, keys: LabelKeys, where: str, notes: list[str]
) -> list[tuple[str, Array]]:
    """Every stress and every virial of the frame as (source, stress (3, 3) eV/Å³); [] without a 3-D cell."""
    if keys.stress is not None or keys.virial is not None:
        raw = [(n, v, False) for n, v in _candidates(store, "stress", keys.stress) if keys.stress is not None]
        raw += [(n, v, True) for n, v in _candidates(store, "stress", keys.virial) if keys.virial is not None]
    else:
        raw = [(n, v, "virial" in n) for n, v in _candidates(store, "stress", None)]
    values = [(name, _tensor(value, f"{where}: {name}"), is_virial) for name, value, is_virial in raw]
    if not structure.pbc.all():
        if values:
            notes.append("masked_stress" if any(np.any(v != 0) for _, v, _ in values) else "zero_stress")
        return []
    return [(name, -v / structure.volume if is_virial else v) for name, v, is_virial in values]


def _numbers(value: Any, where: str) -> Array:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiuO":
            raise TypeError(f"type {array.dtype}")
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        text = repr(value) if np.size(value) < 5 else f"an array of shape {np.shape(value)}"
        raise DataError(f"{where} is {text}, not numbers: correct the file or name another key") from None


def _scalar(value: Any, where: str) -> float:
    array = _numbers(value, where)
    if array.size != 1:
        raise DataError(f"{where} has shape {array.shape}, but an energy is one number per structure (total, eV)")
    return float(array.reshape(()))


def _forces(value: Any, atoms: int, where: str) -> Array:
    array = _numbers(value, where)
    if array.shape == (3,) and atoms == 1:
        array = array.reshape(1, 3)
    if array.shape != (atoms, 3):
        raise DataError(f"{where} has shape {array.shape}, but {atoms} atoms need forces of shape ({atoms}, 3)")
    return array


def _tensor(value: Any, where: str) -> Array:
    """Symmetric (3, 3) tensor from 3×3, flat 9 or Voigt 6."""
    array = _numbers(value, where)
    if array.shape in {(6,), (1, 6)}:
        xx, yy, zz, yz, xz, xy = array.reshape(6)
        array = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    elif array.shape in {(3, 3), (9,), (1, 9)}:
        array = array.reshape(3, 3)
    else:
        raise DataError(f"{where} has shape {array.shape}, but a stress or virial is 3×3, flat 9 or Voigt 6")
    return symmetric(array, where)


def symmetric(tensor: Array, where: str) -> Array:
    """The symmetric part; DataError where the antisymmetric part is more than rounding (0.1 % and 1e-6)."""
    finite = np.isfinite(tensor).all()
    asymmetry = np.abs(tensor - tensor.T).max() if finite else 0.0
    if finite and asymmetry > 1e-6 + 1e-3 * np.abs(tensor).max():
        raise DataError(
            f"{where} is not symmetric: components differ by {asymmetry:.3g} of {np.abs(tensor).max():.3g}; "
            "check the order of its numbers"
        )
    return 0.5 * (tensor + tensor.T)


def _agree(found: list[tuple[str, Array]], tolerance: float, relative: float, *, where: str, label: str, unit: str) -> None:
    """DataError where a later source differs from the first."""
    for name, other in found[1:]:
        first, value = found[0]
        limit = tolerance + relative * np.nan_to_num(np.abs(value), posinf=0.0, neginf=0.0).max(initial=0.0)
        close = np.isclose(value, other, rtol=0.0, atol=limit, equal_nan=True)
        if not close.all():
            k = tuple(np.argwhere(~close)[0])
            at = "" if value.size == 1 else f" at {[int(n) for n in k]}"
            raise DataError(
                f"{where}: two sources of the {label} disagree: {first} has {value[k]:.8g} {unit} and {name} has "
                f"{other[k]:.8g} {unit}{at}; name the right one (keys: {label} = …)"
            )
