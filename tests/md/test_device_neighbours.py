"""The device's neighbour list is matscipy's, for any cell, alone and in a batch, and says so when it is not."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, fcc111
from helpers import awkward_structures

from adatom.md.neighbours import (
    NeighbourList,
    Plan,
    _build,
    _compiled_rows,
    _fill,
    _rows,
    allocate,
    enlarge,
    make_plan,
    stale,
)
from adatom.md.system import Packed, pack
from adatom.potential.compilation import jit
from adatom.potential.kernels.build import compiled
from adatom.potential.neighbours import neighbour_pairs
from adatom.potential.structure import from_atoms

ELEMENTS = (1, 8, 14)
LENGTH = 4.7


def packed(structures: Sequence[ase.Atoms], elements: Sequence[int] = ELEMENTS, block: int | None = None) -> Packed:
    return pack(structures, elements, movable=[np.ones((len(x), 3)) for x in structures], block=block)


def pairs_of(found: NeighbourList, p: Packed, s: int) -> set[tuple[int, ...]]:
    """(i, j, S) in the numbering of structure s and for its unwrapped positions."""
    mask, neighbours, shifts, images = (np.asarray(x) for x in (found.mask, found.neighbours, found.shifts, found.images))
    rows, own = p.rows[s], np.full(p.system.n_rows, -1)
    own[rows] = np.arange(len(rows))
    i, k = np.nonzero(mask[rows])
    j = neighbours[rows[i], k]
    assert (own[j] >= 0).all()
    shift = shifts[:, rows[i], k].T + images[rows[i]] - images[j]
    return set(zip(i.tolist(), own[j].tolist(), *shift.astype(int).T.tolist(), strict=True))


def expected(atoms: ase.Atoms, length: float) -> set[tuple[int, ...]]:
    found = neighbour_pairs(from_atoms(atoms), length)
    return set(zip(found.i.tolist(), found.j.tolist(), *found.shifts.T.tolist(), strict=True))


def check(structures: Sequence[ase.Atoms], length: float, elements: Sequence[int] = ELEMENTS, plan: Plan | None = None) -> None:
    p = packed(structures, elements)
    where = p.system, jnp.asarray(p.positions), jnp.asarray(p.cell), length
    found = _build(p.system, plan, *where[1:3], length) if plan else allocate(*where)[1]
    assert not bool(found.overflow), found.needs
    for s, atoms in enumerate(structures):
        assert pairs_of(found, p, s) == expected(atoms, length), s
    check_reverse(found)


def check_reverse(found: NeighbourList) -> None:
    """Reverse is an involution that finds the same pair from the other side; empty slots find themselves."""
    mask, reverse = np.asarray(found.mask), np.asarray(found.reverse)
    n, k = mask.shape
    assert (reverse[reverse] == np.arange(n * k)).all()
    used, i = mask.ravel(), np.repeat(np.arange(n), k)
    back = reverse[used]
    assert (back // k == np.asarray(found.neighbours).ravel()[used]).all()
    assert (np.asarray(found.neighbours).ravel()[back] == i[used]).all()
    shifts = np.asarray(found.shifts).reshape(3, -1)
    assert (shifts[:, back] == -shifts[:, used]).all()
    assert (reverse[~used] == np.flatnonzero(~used)).all()


@pytest.mark.parametrize("slots", [None, 3])
def test_compiled_rows_are_those_of_jax(slots: int | None) -> None:
    """To the last bit and in the same order; where slots are too few, what was needed."""
    if compiled("neighbours").library is None:
        pytest.skip(f"no kernel on this machine: {compiled('neighbours').why}")
    crystal = bulk("Si", cubic=True).repeat((3, 2, 4))
    crystal.rattle(0.2, seed=1)
    p = packed([*(s.to_atoms() for s in awkward_structures(ELEMENTS, 0).values()), crystal], block=33)
    positions, cell = jnp.asarray(p.positions), jnp.asarray(p.cell)
    plan, _ = allocate(p.system, positions, cell, LENGTH)
    plan = plan._replace(slot_capacity=(slots,) * 3) if slots else plan
    table = _fill(p.system, plan, positions, cell, LENGTH)
    wrapped = positions - jnp.einsum("ac,acd->ad", table.bins.images, cell[p.system.structure], precision="highest")
    where = p.system, plan, table, wrapped, cell, LENGTH
    want, got = (jit(rows, static_argnames=("plan", "length"))(*where) for rows in (_rows, _compiled_rows))
    np.testing.assert_array_equal(got.most, want.most)
    if slots is None:
        for x, y in zip(got, want, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_awkward_cells_together() -> None:
    """Triclinic, left-handed, smaller than the range, slab, wire, molecule: one batch, mixed periodicity."""
    check([s.to_atoms() for s in awkward_structures(ELEMENTS, 0).values()], LENGTH)


@pytest.mark.parametrize("name", ["small", "slab"])
def test_awkward_cells_alone(name: str) -> None:
    check([awkward_structures(ELEMENTS, 1)[name].to_atoms()], LENGTH)


def test_random_cells() -> None:
    """Many of them through one plan: any shape, atoms far outside the cell, on its faces, nearly on top of each other."""
    plan = Plan((1, 1, 1), (4, 4, 4), 5, (60, 60, 60))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        while True:
            cell = rng.normal(0.0, 2.5, (3, 3))
            heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
            if heights.min() > 3.6 / 3.9 and abs(np.linalg.det(cell)) > 8.0:
                break
        fractional = rng.choice([0.0, 1.0, 0.5, 1e-17, -1e-17], (4, 3)) if seed % 4 == 0 else rng.uniform(-5.0, 5.0, (4, 3))
        fractional += 1e-4 * np.arange(4)[:, None] if seed % 4 == 0 else 0.0
        check([ase.Atoms(rng.choice(ELEMENTS, 4), fractional @ cell, cell=cell, pbc=True)], 3.6, plan=plan)


def test_many_bins() -> None:
    """Several bins along each direction, atoms displaced by lattice vectors, two elements and a vacancy."""
    rng = np.random.default_rng(3)
    atoms = bulk("Si", cubic=True).repeat((3, 2, 4))
    atoms.numbers[rng.permutation(len(atoms))[:60]] = 8
    del atoms[7]
    atoms.rattle(0.2, seed=1)
    atoms.positions += rng.integers(-4, 5, (len(atoms), 3)) @ atoms.cell.array
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.1, (3, 3))), scale_atoms=True)
    check([atoms], 4.0)


def test_slab_with_an_atom_far_away() -> None:
    """Gaps are closed before binning: an atom that has left costs no bins."""
    slab = fcc111("Al", (3, 3, 3), vacuum=None)
    slab.numbers[:] = 14
    slab += ase.Atoms("Si", positions=[[1.0, 1.0, 4.0e4]])
    slab.pbc = (True, True, False)
    check([slab], 5.0)
    p = packed([slab])
    assert max(make_plan(p.system, jnp.asarray(p.positions), jnp.asarray(p.cell), 5.0, slots=(1, 1, 1)).grid) < 20


def test_overflow_is_said_and_cured() -> None:
    """Too few slots, too small bins, too short a reach: each is a flag, and `enlarge` makes the plan that fits."""
    p = packed([bulk("Si", cubic=True).repeat(2)])
    where = p.system, jnp.asarray(p.positions), jnp.asarray(p.cell), 4.0
    good, found = allocate(*where)
    for bad in (
        good._replace(slot_capacity=(0, 0, 4)),
        good._replace(bin_capacity=1),
        good._replace(reach=(good.reach[0], good.reach[1], good.reach[2] - 1)),
    ):
        found = _build(p.system, bad, *where[1:])
        assert bool(found.overflow)
        plan = bad
        for _ in range(3):
            plan = enlarge(plan, found.needs, *where)
            found = _build(p.system, plan, *where[1:])
            if not bool(found.overflow):
                break
        assert not bool(found.overflow)
        assert pairs_of(found, p, 0) == expected(bulk("Si", cubic=True).repeat(2), 4.0)


def test_stale() -> None:
    """Half the skin by one atom, or a cell that shrinks: the list must be made anew just before a pair can be missed."""
    atoms = bulk("Si", cubic=True)
    p = packed([atoms, atoms])
    positions, cell = jnp.asarray(p.positions), jnp.asarray(p.cell)
    _, found = allocate(p.system, positions, cell, 4.5)

    def old(positions: jnp.ndarray, cell: jnp.ndarray) -> bool:
        return bool(stale(p.system, found, positions, cell, cutoff=4.0, skin=0.5))

    row = int(p.rows[1][3])
    assert not old(positions, cell)
    assert not old(positions.at[row, 0].add(0.2499), cell)
    assert old(positions.at[row, 0].add(0.2501), cell)
    shrunk = jnp.asarray([1.0, 0.93])[:, None, None]
    assert not old(positions * shrunk[p.system.structure, :, 0], cell * shrunk)
    shrunk = jnp.asarray([1.0, 0.88])[:, None, None]
    assert old(positions * shrunk[p.system.structure, :, 0], cell * shrunk)


def test_too_many_pairs() -> None:
    p = packed([bulk("Si", cubic=True)])
    with pytest.raises(ValueError, match="more pairs than one device can number"):
        make_plan(p.system, jnp.asarray(p.positions), jnp.asarray(p.cell), 4.0, slots=(2**28, 2**28, 2**28))
    thin = packed([ase.Atoms("Si", cell=[0.01, 5.0, 5.0], pbc=True)])
    with pytest.raises(ValueError, match=r"a cell 0.01 Å high is too thin for pairs up to 4 Å"):
        make_plan(thin.system, jnp.asarray(thin.positions), jnp.asarray(thin.cell), 4.0, slots=(1, 1, 1))
