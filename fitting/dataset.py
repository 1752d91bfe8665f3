"""From files of a DFT code to frames: structures with their labels, weights and groups, and how many have which
label.

`read_frames` keeps NaN and infinite labels as they stand, so that `audit` can name all of them at once (severity
error); fitting refuses them. A label that is missing is None, never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import ase
import numpy as np

from adatom.fitting.deepmd_data import find_systems, read_systems
from adatom.fitting.labels import NOTES, DataError, LabelKeys, Labels, available_keys, explicit_value, find_labels
from adatom.fitting.readers import expand_paths, read_file
from adatom.potential.structure import Structure, from_atoms

__all__ = ["Coverage", "DataError", "Frame", "LabelKeys", "Labels", "read_frames"]

TERMS = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Frame:
    """One labelled structure.

    `config_type` is "default" where the file has none. The weight of a term in the loss is `weight` times the
    term's own (`config_weight`, `config_energy_weight`, `config_forces_weight`, `config_stress_weight` in the file;
    1 where absent). `group` is what a split by group keeps together: the value of the group key, or the file.
    `source` is "file.xyz:17".
    """

    structure: Structure
    labels: Labels
    config_type: str = "default"
    weight: float = 1.0
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 1.0
    group: str = ""
    source: str = "frame"


@dataclass(frozen=True)
class Coverage:
    """How many of `frames` frames have each label, and from where: `sources["stress"] == {"calculator": 202}`.

    `notes` counts what was done to labels: the keys are those of `labels.NOTES`, e.g. "masked_stress".
    """

    frames: int
    files: int
    sources: dict[str, dict[str, int]]
    notes: dict[str, int] = field(default_factory=dict)

    def count(self, label: str) -> int:
        """Frames that have `label` ("energy", "forces" or "stress")."""
        return sum(self.sources.get(label, {}).values())

    def summary(self) -> str:
        """Lines to print."""
        lines = [f"{self.frames} frames from {self.files} file{'' if self.files == 1 else 's'}"]
        for label in TERMS:
            where = self.sources.get(label, {})
            origin = ", ".join(name if len(where) == 1 else f"{name}: {n}" for name, n in where.items()) or "none found"
            lines.append(f"  {label:<7} {self.count(label)}/{self.frames} ({origin})")
        lines += [f"  {NOTES[note]} ({n} frame{'' if n == 1 else 's'})" for note, n in self.notes.items()]
        return "\n".join(lines)


def read_frames(
    paths: Sequence[str | Path], *, keys: LabelKeys | None = None, group_key: str | None = None
) -> tuple[list[Frame], Coverage]:
    """Read every frame of `paths`: files ASE can read (also packed with gzip), patterns with *, DeePMD folders.

    `keys` names where the labels stand; without it they are searched (see labels.py). `group_key` names the entry
    of the file that tells which frames belong together; without it each file is a group. Frames keep the order of
    the files, counted from 0 in `source`.

    Raises DataError (a ValueError) with one line for a path that does not exist, a file that cannot be read, is
    empty or truncated, labels of wrong shape or type, two sources that disagree, an explicit key found nowhere, or
    no labels at all.
    """
    keys = LabelKeys() if keys is None else keys
    files = expand_paths(paths)
    frames: list[Frame] = []
    sources: dict[str, Counter[str]] = {label: Counter() for label in TERMS}
    notes: Counter[str] = Counter()
    unseen = {f.name: getattr(keys, f.name) for f in fields(keys) if getattr(keys, f.name) is not None}
    available: set[str] = set()
    for path in files:
        for atoms, where in _read(path):
            structure = _structure(atoms, where)
            found = find_labels(atoms, structure, keys=keys, where=where)
            unseen = {label: key for label, key in unseen.items() if explicit_value(atoms, key) is None}
            available.update(available_keys(atoms))
            for label, source in found.sources.items():
                sources[label][source] += 1
            notes.update(found.notes)
            frames.append(_frame(atoms, structure, found.labels, path, where, group_key))
    names = ", ".join(sorted(available)[:12]) or "nothing but positions"
    for label, key in unseen.items():
        raise DataError(f"the {label} key {key!r} is in none of the {len(frames)} frames; they have {names}")
    if not any(sources.values()):
        raise DataError(
            f"no energy, forces or stress in any of the {len(frames)} frames of {files[0]}"
            f"{' …' if len(files) > 1 else ''}; they have {names}; name the keys, e.g. keys: energy = '…'"
        )
    return frames, Coverage(len(frames), len(files), {k: dict(v) for k, v in sources.items()}, dict(notes))


def _read(path: Path) -> Iterator[tuple[ase.Atoms, str]]:
    if not path.is_dir():
        return read_file(path)
    if find_systems(path):
        return read_systems(path)
    if (path / "metadata.json").is_file() or (path / "metadata.ulm").is_file():
        return read_file(path)
    raise DataError(f"{path}: a folder without DeePMD data (no type.raw in it); name its files, e.g. {path}/*.xyz")


def _structure(atoms: ase.Atoms, where: str) -> Structure:
    try:
        return from_atoms(atoms, name=where)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from error


def _frame(atoms: ase.Atoms, structure: Structure, labels: Labels, path: Path, where: str, group_key: str | None) -> Frame:
    config_type = explicit_value(atoms, "config_type")
    group: object = path
    if group_key is not None:
        group = explicit_value(atoms, group_key)
        if group is None:
            raise DataError(f"{where}: no {group_key!r} to group by; the frame has {', '.join(available_keys(atoms)[:12])}")
    return Frame(
        structure,
        labels,
        config_type="default" if config_type is None else str(config_type),
        weight=_weight(atoms, ("config_weight",), where),
        energy_weight=_weight(atoms, ("config_energy_weight",), where),
        forces_weight=_weight(atoms, ("config_forces_weight",), where),
        stress_weight=_weight(atoms, ("config_stress_weight", "config_virials_weight"), where),
        group=str(group),
        source=where,
    )


def _weight(atoms: ase.Atoms, names: tuple[str, ...], where: str) -> float:
    for name in names:
        value = explicit_value(atoms, name)
        if value is not None:
            number = float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else np.nan
            if not np.isfinite(number) or number < 0:
                shown = value.item() if isinstance(value, np.generic) else value
                raise DataError(f"{where}: {name} is {shown!r}, but a weight is a number that is not negative")
            return number
    return 1.0
