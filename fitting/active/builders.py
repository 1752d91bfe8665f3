"""Structures made from a prototype: pure functions of atoms, parameters and a NumPy Generator.

Each gives new atoms with numbers, positions, cell and pbc of the prototype and nothing else of it: no calculator, no labels, no
constraints. Distances that must be kept are in units of the sum of the covalent radii (ase.data). All raise ValueError with one
line where the prototype does not allow what is asked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import ase
import numpy as np
from ase.build import make_supercell
from ase.build import surface as ase_surface
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.spatial import Voronoi, cKDTree

from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import from_atoms

Array = NDArray[np.float64]
ATTEMPTS = 200
"""Displacements drawn anew for atoms that came too close, before giving up."""


def supercell(prototype: ase.Atoms, atoms: int) -> ase.Atoms:
    """As cubic as possible with at most `atoms` atoms; the prototype itself where it is larger or not periodic in 3 directions.

    Of all integer matrices P near (N V)^(1/3) R cell⁻¹, R the orientation as it is or with a along x and b in the xy plane, the
    one with the smallest |3 G/tr G − 1|² + 2 (1 − atoms/wished)², G the metric of P cell; plus 0.2 unless all angles are right.
    """
    bare = ase.Atoms(prototype.numbers, positions=prototype.positions, cell=prototype.cell.array, pbc=prototype.pbc)
    if not bare.pbc.all() or atoms < 2 * len(bare):
        return bare
    wished = atoms // len(bare)
    side = (wished * bare.get_volume()) ** (1.0 / 3.0)
    around = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    guesses = [np.rint(side * np.linalg.inv(cell)) for cell in (bare.cell.array, bare.cell.standard_form()[0].array)]
    tried = [*(g.astype(np.int64) + around for g in guesses), np.eye(3, dtype=np.int64)[None]]
    matrices = np.concatenate(tried)
    times = np.rint(np.linalg.det(matrices.astype(np.float64))).astype(np.int64)
    matrices, times = matrices[(times >= 1) & (times <= wished)], times[(times >= 1) & (times <= wished)]
    cells = matrices @ bare.cell.array
    metric = cells @ np.swapaxes(cells, 1, 2)
    shape = metric * (3.0 / np.trace(metric, axis1=1, axis2=2))[:, None, None] - np.eye(3)
    oblique = np.abs(shape * (1.0 - np.eye(3))).max(axis=(1, 2)) > 1e-6
    cost = (shape**2).sum(axis=(1, 2)) + 2.0 * (1.0 - times / wished) ** 2 + 0.2 * oblique
    order = np.lexsort((np.abs(matrices).sum(axis=(1, 2)), cost.round(9)))
    return make_supercell(bare, matrices[order[0]])


def strain(atoms: ase.Atoms, epsilon: Array) -> ase.Atoms:
    """r → r (1 + ε), cell → cell (1 + ε), with a symmetric ε (3, 3). Raises ValueError without a 3-D periodic cell."""
    _periodic(atoms, "straining")
    deformed = atoms.copy()
    deformed.set_cell(atoms.cell.array @ (np.eye(3) + epsilon), scale_atoms=True)
    return deformed


def random_strain(largest: float, rng: np.random.Generator) -> Array:
    """Symmetric (3, 3), the six components uniform between ±largest."""
    upper = np.triu(rng.uniform(-largest, largest, (3, 3)))
    return upper + np.triu(upper, 1).T


def scaled(atoms: ase.Atoms, volume: float) -> ase.Atoms:
    """The same at `volume` times the volume."""
    return strain(atoms, (volume ** (1.0 / 3.0) - 1.0) * np.eye(3))


def displaced(atoms: ase.Atoms, sigma: float, closest: float, rng: np.random.Generator) -> ase.Atoms:
    """Gaussian displacements of standard deviation `sigma` [Å] a component; no pair closer than `closest` of its radii.

    Atoms of pairs that are too close are drawn again. Raises ValueError where they were closer at the start, or that fails.
    """
    if sigma == 0.0:
        return atoms.copy()
    too_close = _too_close(atoms, closest)
    if len(too_close):
        raise ValueError(f"atom {too_close[0]} is closer than {closest:g} of the sum of covalent radii before displacement")
    moved = atoms.copy()
    again = np.arange(len(atoms))
    for _ in range(ATTEMPTS):
        moved.positions[again] = atoms.positions[again] + rng.normal(0.0, sigma, (len(again), 3))
        again = _too_close(moved, closest)
        if not len(again):
            return moved
    raise ValueError(
        f"displacements of {sigma:g} Å keep bringing atoms closer than {closest:g} of the sum of covalent radii: make it smaller"
    )


def slab(prototype: ase.Atoms, miller: Sequence[int], thickness: float, vacuum: float, atoms: int, periodic: bool) -> ase.Atoms:
    """A slab with surfaces (h k l), at least `thickness` Å, in `vacuum` Å; laterally as wide as `atoms` allow. z is normal.

    miller refer to the prototype's own cell. pbc is (True, True, periodic). Raises ValueError for (0 0 0).
    """
    _periodic(prototype, "a surface")
    if not any(miller):
        raise ValueError("(0 0 0) is no surface")
    bare = supercell(prototype, 1)
    one = ase_surface(bare, tuple(miller), 1, periodic=True)
    layers = max(1, math.ceil(thickness / one.get_volume() * np.linalg.norm(np.cross(*one.cell.array[:2])) - 1e-9))
    made = ase_surface(bare, tuple(miller), layers, vacuum=0.5 * vacuum, periodic=periodic)
    a, b = made.cell.lengths()[:2]
    most = max(1, atoms // len(made))
    m = max(range(1, most + 1), key=lambda m: (min(m * a, most // m * b), -m))
    n = min(most // m, math.ceil(m * a / b - 1e-9))
    made = made.repeat((m, max(1, n), 1))
    return ase.Atoms(made.numbers, positions=made.positions, cell=made.cell.array, pbc=made.pbc)


def without(atoms: ase.Atoms, count: int, element: str, rng: np.random.Generator) -> ase.Atoms:
    """`count` atoms taken out at random, of one element where it is named."""
    where = _of(atoms, element)
    if count >= len(atoms) or count > len(where):
        raise ValueError(f"{count} vacancies among {len(where)} {element or ''} atoms of {len(atoms)}: make the supercell larger")
    kept = atoms.copy()
    del kept[rng.choice(where, count, replace=False)]
    return kept


def voids(atoms: ase.Atoms) -> tuple[Array, Array]:
    """Positions (n, 3) and distances to the nearest atoms (n,) [Å] of the corners of the Voronoi cells, the largest first.

    Spheres that touch at least four atoms and hold none; a 3-D periodic cell is needed.
    """
    _periodic(atoms, "looking for voids")
    cell = atoms.cell.array
    inside = atoms.get_scaled_positions(wrap=True)
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.float64)
    points = (inside[None] + images[:, None]).reshape(-1, 3) @ cell
    corners = Voronoi(points).vertices
    fractional = corners @ np.linalg.inv(cell)
    corners = corners[((fractional > -1e-6) & (fractional < 1.0 - 1e-6)).all(axis=1)]
    radius = cKDTree(points).query(corners)[0]
    order = np.argsort(-radius.round(6), kind="stable")
    corners, radius = corners[order], radius[order]
    keep = np.ones(len(corners), dtype=bool)
    near = cKDTree(corners).query_pairs(1e-3, output_type="ndarray")
    keep[near.max(axis=1)] = False
    return corners[keep], radius[keep]


def with_interstitials(atoms: ase.Atoms, element: str, count: int, kind: int, rng: np.random.Generator) -> ase.Atoms:
    """`count` atoms of `element` added one by one, each in the middle of a void.

    kind 0 takes the largest voids, 1 those of the next smaller size that is there, and so on, beginning anew after the last.
    """
    filled = atoms.copy()
    for _ in range(count):
        where, radius = voids(filled)
        sizes = np.unique(radius.round(3))[::-1]
        alike = np.flatnonzero(np.abs(radius - sizes[kind % len(sizes)]) < 1e-3)
        filled += ase.Atoms(element, positions=[where[rng.choice(alike)]])
    return filled


def alloy(
    atoms: ase.Atoms, composition: Mapping[str, float], element: str, volumes: Mapping[str, float], rng: np.random.Generator
) -> ase.Atoms:
    """Elements at random on the sites of `element` ("": all), as near to the composition (relative amounts) as whole atoms allow.

    volumes [Å³/atom]: where given, the cell is scaled to the sum of the atoms' volumes (Zen's law).
    """
    where = _of(atoms, element)
    shares = np.array(list(composition.values()))
    if not len(shares) or (shares < 0.0).any() or not 0.0 < shares.sum() < np.inf:
        raise ValueError(f"composition {dict(composition)} must have amounts that are not negative and not all zero")
    exact = shares / shares.sum() * len(where)
    whole = np.floor(exact + 1e-9).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: len(where) - int(whole.sum())]] += 1
    mixed = atoms.copy()
    mixed.numbers[rng.permutation(where)] = np.repeat([_number(s) for s in composition], whole)
    if not volumes:
        return mixed
    _periodic(atoms, "volumes of atoms")
    missing = sorted(set(mixed.get_chemical_symbols()) - set(volumes))
    if missing:
        raise ValueError(f"volumes are given for {', '.join(volumes)}, but not for {', '.join(missing)}")
    return scaled(mixed, sum(volumes[s] for s in mixed.get_chemical_symbols()) / mixed.get_volume())


def dimer(pair: tuple[str, str], distance: float, box: float, periodic: bool) -> ase.Atoms:
    """Two atoms, `distance` Å apart along a direction of no symmetry, in a cube of `box` Å."""
    direction = np.array([0.36, 0.48, 0.8])
    atoms = ase.Atoms([_number(s) for s in pair], cell=np.eye(3) * box, pbc=periodic)
    if periodic and distance > 0.5 * box:
        raise ValueError(f"a distance of {distance:g} Å does not fit into a periodic box of {box:g} Å: images are nearer")
    atoms.positions = 0.5 * box + distance * np.outer([-0.5, 0.5], direction)
    return atoms


def squeezed(atoms: ase.Atoms, ratio: float, rng: np.random.Generator) -> ase.Atoms:
    """One atom, drawn at random, and its nearest neighbour moved symmetrically to `ratio` of the sum of their covalent radii."""
    a = int(rng.integers(len(atoms)))
    others = np.delete(np.arange(len(atoms)), a)
    if not len(others):
        raise ValueError("one atom has no neighbour but its own images: make the supercell larger")
    vectors, distances = find_mic(atoms.positions[others] - atoms.positions[a], atoms.cell, atoms.pbc)
    k = int(np.argmin(distances))
    b, vector, distance = int(others[k]), vectors[k], float(distances[k])
    target = ratio * float(covalent_radii[atoms.numbers[a]] + covalent_radii[atoms.numbers[b]])
    pushed = atoms.copy()
    pushed.positions[a] += 0.5 * (1.0 - target / distance) * vector
    pushed.positions[b] -= 0.5 * (1.0 - target / distance) * vector
    return pushed


def _too_close(atoms: ase.Atoms, closest: float) -> NDArray[np.int64]:
    x = from_atoms(atoms)
    radii = covalent_radii[x.numbers]
    i, j, shifts = neighbour_pairs(x, 2.0 * closest * float(radii.max()))
    d = np.linalg.norm(x.positions[j] - x.positions[i] + shifts @ x.cell, axis=1)
    return np.unique(i[d < closest * (radii[i] + radii[j])])


def _of(atoms: ase.Atoms, element: str) -> NDArray[np.int64]:
    where = np.flatnonzero(atoms.numbers == _number(element)) if element else np.arange(len(atoms))
    if not len(where):
        raise ValueError(f"there is no {element} in {atoms.get_chemical_formula()}")
    return where


def _number(symbol: str) -> int:
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError(f"{symbol!r} is not the symbol of an element")
    return int(atomic_numbers[symbol])


def _periodic(atoms: ase.Atoms, what: str) -> None:
    if not atoms.pbc.all():
        raise ValueError(f"{what} needs a cell periodic in three directions, pbc is {atoms.pbc.tolist()}")
