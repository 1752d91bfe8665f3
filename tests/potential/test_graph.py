"""Packing structures into one graph: nothing is lost, nothing is truncated."""

import dataclasses

import numpy as np
import pytest
from helpers import awkward_structures, evaluate
from numpy.testing import assert_allclose, assert_array_equal

from adatom.potential.graph import batch, neighbourhood, species_of
from adatom.potential.pairwise import Morse

ELEMENTS = (8, 1)
MORSE = Morse(ELEMENTS, depth=0.4, alpha=1.3, distance=2.0, cutoff=4.0)


@pytest.fixture
def items():
    return [neighbourhood(s, ELEMENTS, 4.0) for s in awkward_structures(ELEMENTS).values()]


def test_every_pair_has_a_slot_of_its_species_and_knows_its_other_side(items):
    graph, rows = batch(items)
    assert graph.mask.sum() == sum(len(x.pairs.i) for x in items)
    assert sorted(rows.tolist()) == np.flatnonzero(graph.atom_mask).tolist()
    group = np.repeat(np.arange(2), graph.atom_capacity)
    section = np.repeat(np.arange(2), graph.slot_capacity)
    a, k = np.nonzero(graph.mask)
    assert_array_equal(group[graph.neighbours[a, k]], section[k])
    assert_array_equal(graph.structure[graph.neighbours[a, k]], graph.structure[a])
    flat = np.arange(graph.mask.size)
    assert_array_equal(graph.reverse[graph.reverse], flat)
    assert_array_equal(graph.reverse.reshape(graph.mask.shape)[~graph.mask], flat.reshape(graph.mask.shape)[~graph.mask])
    b, m = np.divmod(graph.reverse.reshape(graph.mask.shape)[a, k], graph.mask.shape[1])
    assert_array_equal(b, graph.neighbours[a, k])
    assert_array_equal(graph.neighbours[b, m], a)
    assert_array_equal(graph.shifts[:, b, m], -graph.shifts[:, a, k])
    numbers = np.concatenate([x.structure.numbers for x in items])
    assert_array_equal(np.array(ELEMENTS)[group[rows]], numbers)


@pytest.mark.parametrize("what", ["atom_capacity", "slot_capacity", "n_structures"])
def test_a_capacity_too_small_is_an_error(items, what):
    graph, _ = batch(items)
    full = {"atom_capacity": graph.atom_capacity, "slot_capacity": graph.slot_capacity, "n_structures": len(items)}
    batch(items, **full)
    less = full[what] - 1 if what == "n_structures" else (full[what][0], full[what][1] - 1)
    with pytest.raises(ValueError, match="capacity too small"):
        batch(items, **(full | {what: less}))


def test_unknown_elements_are_named():
    with pytest.raises(ValueError, match="^the model knows O, H; structure 17 of water.xyz has Na, Cl$"):
        species_of(np.array([8, 17, 11, 17]), ELEMENTS, name="structure 17 of water.xyz")


def test_atoms_hundreds_of_cells_away_need_wider_shifts():
    """Shifts are stored in 8 bits where they fit, and only there."""
    s = awkward_structures(ELEMENTS)["triclinic"]
    move = np.zeros((len(s), 3))
    move[0], move[1] = [1000.0, -127.0, 0.0], [0.0, 128.0, -300.0]
    far = dataclasses.replace(s, positions=s.positions + move @ s.cell)
    assert batch([neighbourhood(s, ELEMENTS, 4.0)])[0].shifts.dtype == np.int8
    assert batch([neighbourhood(far, ELEMENTS, 4.0)])[0].shifts.dtype == np.int32
    near, out = evaluate(MORSE, {}, s), evaluate(MORSE, {}, far)
    assert_allclose(out.energy, near.energy, rtol=1e-10)
    assert_allclose(out.forces, near.forces, atol=1e-9)
