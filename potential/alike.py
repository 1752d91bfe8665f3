"""Which elements replace each other in alloys: what a model has for one is then a first guess for the others.

Metals, silicon and germanium whose radii differ by less than 15 % (the first of Hume-Rothery's rules: The Structure of Metals and
Alloys (1936)), from each to the next larger one. Hydrogen and carbon have nothing in common that would be a help.
"""

from __future__ import annotations

from collections.abc import Sequence

from ase.data import covalent_radii

RATIO = 1.15
NOT_METALS = {1, 2, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86}
"""Noble gases, and what forms anions or covalent bonds in compounds with metals: H, B, C, N, O, P, As, Sb, …"""


def alike(elements: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more, as indices into `elements` (atomic numbers), sorted."""
    metals = sorted((float(covalent_radii[z]), t) for t, z in enumerate(elements) if z not in NOT_METALS)
    groups: list[list[int]] = []
    last = 0.0
    for r, t in metals:
        if groups and r < RATIO * last:
            groups[-1].append(t)
        else:
            groups.append([t])
        last = r
    return tuple(tuple(sorted(g)) for g in groups if len(g) > 1)
