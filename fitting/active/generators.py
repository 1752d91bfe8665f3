"""What `[[explore.structures]]` may hold, and the structures an exploration starts from.

    [[explore.structures]]
    kind = "rattled"
    atoms = 64
    displacement_A = 0.15

Each entry is made from every prototype it names (all of them where it names none). `generate` depends on nothing but entries,
prototypes and seed, and an entry's structures do not change when others are added behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Annotated, Literal

import ase
import numpy as np
from ase.data import atomic_numbers, covalent_radii
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adatom.fitting.active import builders

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Made = Iterator[tuple[ase.Atoms, str]]
Random = np.random.Generator


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prototypes: Annotated[tuple[str, ...], Field(description="names; empty: every prototype")] = ()
    config_type: Annotated[str, Field(description="label of the structures; empty: the kind")] = ""


class _Crystal(_Entry):
    atoms: Annotated[Count, Field(description="at most so many in the supercell, as cubic as possible")] = 64
    displacement_A: Annotated[NotNegative, Field(description="Gaussian displacements, standard deviation a component")] = 0.0
    closest: Annotated[NotNegative, Field(le=1.0, description="× sum of covalent radii, kept by displacements")] = 0.6

    def _supercell(self, prototype: ase.Atoms) -> ase.Atoms:
        return builders.supercell(prototype, self.atoms)

    def _shake(self, atoms: ase.Atoms, rng: Random) -> ase.Atoms:
        return builders.displaced(atoms, self.displacement_A, self.closest, rng)


class Bulk(_Crystal):
    """The prototype as it is, as a supercell."""

    kind: Literal["bulk"] = "bulk"

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        yield self._shake(self._supercell(prototype), rng), "supercell"


class Strained(_Crystal):
    """Random symmetric strains, and a scan of the volume."""

    kind: Literal["strained"] = "strained"
    count: Annotated[int, Field(ge=0, description="structures with a random strain")] = 10
    max_strain: Annotated[NotNegative, Field(lt=0.3, description="of each of the six components")] = 0.05
    volumes: Annotated[tuple[Positive, ...], Field(description="relative volumes, each a structure")] = (0.85, 0.92, 1.08, 1.16)

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._supercell(prototype)
        for _ in range(self.count):
            epsilon = builders.random_strain(self.max_strain, rng)
            yield self._shake(builders.strain(cell, epsilon), rng), f"strain {np.abs(epsilon).max():.3f}"
        for volume in self.volumes:
            yield self._shake(builders.scaled(cell, volume), rng), f"volume × {volume:g}"


class Rattled(_Crystal):
    """Gaussian displacements, with a random strain where one is wanted."""

    kind: Literal["rattled"] = "rattled"
    count: Count = 10
    displacement_A: Annotated[Positive, Field(description="standard deviation a component")] = 0.1
    max_strain: Annotated[NotNegative, Field(lt=0.3, description="of each of the six components; 0: none")] = 0.0

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._supercell(prototype)
        for _ in range(self.count):
            strained = builders.strain(cell, builders.random_strain(self.max_strain, rng)) if self.max_strain else cell
            yield self._shake(strained, rng), f"displaced by {self.displacement_A:g} Å"


class Surfaces(_Crystal):
    """Slabs, from a conventional cell: the Miller indices refer to the prototype's own."""

    kind: Literal["surfaces"] = "surfaces"
    miller: Annotated[tuple[tuple[int, int, int], ...], Field(min_length=1)] = ((1, 0, 0), (1, 1, 0), (1, 1, 1))
    thickness_A: Positive = 10.0
    vacuum_A: Annotated[Positive, Field(description="both sides together")] = 14.0
    periodic: Annotated[bool, Field(description="also along the normal, through the vacuum; else pbc is T T F")] = False

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        for h, k, l in self.miller:  # noqa: E741
            made = builders.slab(prototype, (h, k, l), self.thickness_A, self.vacuum_A, self.atoms, self.periodic)
            yield self._shake(made, rng), f"surface ({h} {k} {l})"


class Vacancies(_Crystal):
    """Atoms taken out at random."""

    kind: Literal["vacancies"] = "vacancies"
    count: Annotated[Count, Field(description="structures")] = 1
    vacancies: Annotated[Count, Field(description="in each")] = 1
    element: Annotated[str, Field(description="taken out; empty: any")] = ""

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._supercell(prototype)
        for _ in range(self.count):
            yield self._shake(builders.without(cell, self.vacancies, self.element, rng), rng), f"{self.vacancies} vacancies"


class Interstitials(_Crystal):
    """Atoms put into voids: the first structure uses the largest, the next those of the next smaller size, and so on."""

    kind: Literal["interstitials"] = "interstitials"
    count: Annotated[Count, Field(description="structures for each element")] = 2
    interstitials: Annotated[Count, Field(description="in each")] = 1
    elements: Annotated[tuple[str, ...], Field(description="put in; empty: those of the prototype")] = ()
    closest: Annotated[NotNegative, Field(le=1.0, description="× sum of covalent radii, kept by displacements")] = 0.4

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._supercell(prototype)
        for element in self.elements or sorted(set(prototype.get_chemical_symbols())):
            for k in range(self.count):
                made = builders.with_interstitials(cell, element, self.interstitials, k, rng)
                yield self._shake(made, rng), f"{self.interstitials} interstitial {element}, voids of size {k + 1}"


class Alloy(_Crystal):
    """Elements at random on sites of the prototype."""

    kind: Literal["alloy"] = "alloy"
    compositions: Annotated[tuple[dict[str, NotNegative], ...], Field(min_length=1, description="relative amounts of elements")]
    count: Annotated[Count, Field(description="structures for each composition")] = 4
    element: Annotated[str, Field(description="whose sites are filled anew; empty: all")] = ""
    volumes_A3: Annotated[dict[str, Positive], Field(description="per atom, to scale the cell; empty: as it is")] = {}

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._supercell(prototype)
        for composition in self.compositions:
            for _ in range(self.count):
                made = builders.alloy(cell, composition, self.element, self.volumes_A3, rng)
                yield self._shake(made, rng), f"random alloy {made.get_chemical_formula()}"


class ClosePairs(_Crystal):
    """A pair of neighbours pushed together in a crystal: the repulsion in condensed surroundings."""

    kind: Literal["close_pairs"] = "close_pairs"
    count: Count = 4
    shortest: Annotated[Positive, Field(description="× sum of covalent radii")] = 0.5
    longest: Annotated[Positive, Field(description="× sum of covalent radii")] = 0.8

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        cell = self._shake(self._supercell(prototype), rng)
        for ratio in np.linspace(self.shortest, self.longest, self.count):
            yield builders.squeezed(cell, float(ratio), rng), f"a pair at {ratio:.2f} of its covalent radii"


class Dimers(_Entry):
    """Two atoms alone, at distances evenly spaced. No prototype is used but for its elements."""

    kind: Literal["dimers"] = "dimers"
    pairs: Annotated[tuple[tuple[str, str], ...], Field(description="empty: all pairs of the prototypes' elements")] = ()
    count: Annotated[Count, Field(description="distances for each pair")] = 8
    shortest: Annotated[Positive, Field(description="× sum of covalent radii")] = 0.6
    longest: Annotated[Positive, Field(description="× sum of covalent radii")] = 2.0
    box_A: Positive = 15.0
    periodic: Annotated[bool, Field(description="a box that repeats; else pbc is F F F")] = False

    @model_validator(mode="after")
    def _elements(self) -> Dimers:
        for symbol in (s for pair in self.pairs for s in pair):
            if atomic_numbers.get(symbol, 0) < 1:
                raise ValueError(f"{symbol!r} is not the symbol of an element")
        return self

    def make(self, elements: Sequence[str]) -> Made:
        for a, b in self.pairs or combinations_with_replacement(elements, 2):
            radii = float(covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]])
            for distance in radii * np.linspace(self.shortest, self.longest, self.count):
                yield builders.dimer((a, b), float(distance), self.box_A, self.periodic), f"{a}-{b} at {distance:.2f} Å"


class Melt(_Crystal):
    """A crystal, expanded and displaced, that MD has to melt: `info` says at which temperature and for how long."""

    kind: Literal["melt"] = "melt"
    temperature_K: Annotated[Positive, Field(description="well above melting, in `info` as md_temperature_K")]
    duration_ps: Annotated[Positive, Field(description="in `info` as md_duration_ps")] = 10.0
    expansion: Annotated[float, Field(gt=-0.1, lt=0.3, description="linear")] = 0.03
    displacement_A: Annotated[NotNegative, Field(description="standard deviation a component")] = 0.1

    def make(self, prototype: ase.Atoms, rng: Random) -> Made:
        made = self._shake(builders.scaled(self._supercell(prototype), (1.0 + self.expansion) ** 3), rng)
        made.info |= {"md_temperature_K": self.temperature_K, "md_duration_ps": self.duration_ps}
        yield made, f"to be melted at {self.temperature_K:g} K"


Generator = Annotated[
    Bulk | Strained | Rattled | Surfaces | Vacancies | Interstitials | Alloy | ClosePairs | Dimers | Melt,
    Field(discriminator="kind"),
]


def generate(entries: Sequence[Generator], prototypes: Mapping[str, ase.Atoms], seed: int) -> list[ase.Atoms]:
    """The structures of all entries, in order, with `info["config_type"]` and `info["origin"]` (of what it is made, and how).

    Raises ValueError that names the entry and the prototype: an unknown prototype, none at all, or what `builders` refuse.
    """
    made: list[ase.Atoms] = []
    for e, entry in enumerate(entries):
        place = f"structures[{e}] ({entry.kind})"
        for name in entry.prototypes:
            if name not in prototypes:
                raise ValueError(f"{place}: no prototype {name!r}, there are {', '.join(prototypes) or 'none'}")
        names = entry.prototypes or tuple(prototypes)
        if not names and not (isinstance(entry, Dimers) and entry.pairs):
            raise ValueError(f"{place}: there are no prototypes to make it from")
        if isinstance(entry, Dimers):
            elements = sorted({s for name in names for s in prototypes[name].get_chemical_symbols()})
            made += _collect(entry.make(elements), entry, place, "")
            continue
        for p, name in enumerate(names):
            rng = np.random.default_rng((seed, e, p))
            made += _collect(entry.make(prototypes[name], rng), entry, f"{place}, prototype {name!r}", f"{name}: ")
    return made


def _collect(structures: Made, entry: Generator, place: str, prefix: str) -> list[ase.Atoms]:
    found = []
    try:
        for atoms, what in structures:
            atoms.info |= {"config_type": entry.config_type or entry.kind, "origin": prefix + what}
            found.append(atoms)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return found
