"""The models of `interop.py`'s first table with their structures: those of the tests, published ones, and our own, written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "potential" / "interop")]
import engines  # noqa: E402
import n2p2_reference  # noqa: E402
import nep_reference  # noqa: E402
import numpy as np  # noqa: E402
import ours as own  # noqa: E402
import yaml  # noqa: E402
from ase.data import atomic_numbers  # noqa: E402
from helpers import evaluate_all  # noqa: E402

from adatom.potential.evaluator import Precision  # noqa: E402
from adatom.potential.interop import convert, deepmd, n2p2, nep  # noqa: E402
from adatom.potential.potential import Potential  # noqa: E402
from adatom.potential.structure import Structure  # noqa: E402

BOHR, HARTREE = n2p2_reference.BOHR, n2p2_reference.HARTREE
ATOMIC = {"length_unit": "bohr", "energy_unit": "hartree"}


@dataclass(frozen=True)
class Case:
    """written: what we wrote of a potential that was read from `path`; None where `path` itself was written by us."""

    name: str
    path: Path
    potential: Potential
    structures: list[Structure]
    written: Path | None
    units: tuple[float, float] = (1.0, 1.0)


READERS = {"deepmd": deepmd.read, "n2p2": n2p2.read, "nep": nep.read}
"""Without the self-test that `convert.read` makes, which is a compilation each."""


def of(family: str, models: Path, scratch: Path, names: Sequence[str] | None = None) -> Iterator[Case]:
    """Those named, or all of a family."""
    for n, (name, path, units, structures) in enumerate({"deepmd": _deepmd, "n2p2": _n2p2, "nep": _nep}[family](models, scratch)):
        if names and name not in names:
            continue
        potential = READERS[family](path, **(ATOMIC if units != (1.0, 1.0) else {}))
        (scratch / f"written_{n}").mkdir()
        written = scratch / f"written_{n}" / own.FILES[family]
        convert.write(potential, family, written)
        yield Case(name, path, potential, structures, written, units)
    for n, name in enumerate(own.NAMES[family]):
        if names and f"ours, {name}" not in names:
            continue
        potential = own.make(family, name)
        (scratch / f"own_{n}").mkdir()
        path = scratch / f"own_{n}" / own.FILES[family]
        convert.write(potential, family, path)
        yield Case(f"ours, {name}", path, potential, own.structures(family, potential.model.elements), None)


Found = Iterator[tuple[str, Path, tuple[float, float], list[Structure]]]


def _structure(symbols: Sequence[str], positions: Any, cell: Any) -> Structure:
    numbers = np.array([atomic_numbers[s] for s in symbols])
    box = np.zeros((3, 3)) if cell is None else np.array(cell, dtype=float).reshape(3, 3)
    return Structure(numbers, np.array(positions, dtype=float).reshape(-1, 3), box, np.full(3, cell is not None))


def _deepmd(models: Path, scratch: Path) -> Found:
    folder = TESTS / "potential" / "interop" / "deepmd"
    references = json.loads((folder / "references.json").read_text(encoding="utf-8"))["models"]
    for name, items in references.items():
        types = deepmd.read(folder / name).symbols
        yield Path(name).stem, folder / name, (1.0, 1.0), [
            _structure([types[t] for t in x["types"]], x["coord"], x["box"]) for x in items
        ]  # fmt: skip
    for name in ("deeppot", "deeppot-r"):
        case = yaml.safe_load((models / "deepmd" / f"{name}-testcase.yaml").read_text(encoding="utf-8"))
        types = case["type_map"]
        structures = [_structure([types[t] for t in x["atype"]], x["coord"], x.get("box")) for x in case["results"]]
        yield f"{name}, of its tests", models / "deepmd" / case["filename"], (1.0, 1.0), structures


def _n2p2(models: Path, scratch: Path) -> Found:
    forms = {name: (n, settings) for n, (name, settings) in enumerate(n2p2_reference.MODELS.items())}
    for name in [*forms, *n2p2_reference.PUBLISHED]:
        path = models / "n2p2" / name
        if name in forms:
            n, settings = forms[name]
            path = n2p2_reference.write(n2p2_reference.make(n, **settings), scratch / f"form_{n}")
        structures = [
            _structure(symbols, positions * BOHR, None if cell is None else cell * BOHR)
            for key, symbols, positions, cell in n2p2_reference.structures(name)
            if key != n2p2_reference.SMALL
        ]
        yield name, path, (BOHR, HARTREE), structures


def _nep(models: Path, scratch: Path) -> Found:
    for n, name in enumerate([*nep_reference.HEADERS, *nep_reference.PUBLISHED]):
        path = models / "nep" / name
        if name in nep_reference.HEADERS:
            path = scratch / f"form_{n}.txt"
            path.write_text(nep_reference.text_of(name), encoding="ascii")
        yield Path(name).stem[:28], path, (1.0, 1.0), [_structure(*nep_reference.case(name))]


def ours(case: Case, precision: Precision) -> list[engines.Numbers]:
    """The model itself, not compressed nor in C++; all structures in one graph, compiled quickly."""
    found = evaluate_all(case.potential.model, case.potential.params, case.structures, dtype=precision)
    return [
        engines.Numbers(r.energy, r.forces, r.stress * s.volume if s.pbc.all() else None)
        for r, s in zip(found, case.structures, strict=True)
    ]


def engine(family: str, program: str, case: Case, path: Path) -> list[engines.Numbers]:
    """The other program; what we wrote is in Å and eV."""
    if family == "n2p2" and path == case.path:
        return engines.n2p2(program, path, case.structures, *case.units)
    return engines.run(family, program, path, case.structures)


def differences(
    case: Case, got: list[engines.Numbers], said: list[engines.Numbers], *, written: bool = False
) -> tuple[float, float, float]:
    """The largest of energy per atom, force and virial; NaN where no structure has a virial."""
    energy = max(abs(x.energy - y.energy) / len(s) for x, y, s in zip(got, said, case.structures, strict=True))
    force = max(np.abs(x.forces - y.forces).max() for x, y in zip(got, said, strict=True))
    virials = [
        np.abs(x.virial - y.virial).max() for x, y in zip(got, said, strict=True) if x.virial is not None and y.virial is not None
    ]
    return energy, float(force), max(virials, default=np.nan)
