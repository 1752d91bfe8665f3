"""Pair vectors, and the way back to forces."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import FAST, awkward_structures
from numpy.testing import assert_allclose, assert_array_equal

from adatom.potential.geometry import distances, forces_from_pairs, pair_vectors, swap_pairs, virials_from_pairs
from adatom.potential.graph import batch, neighbourhood


def test_distances_are_safe_to_differentiate_twice_at_zero():
    def total(x):
        return (distances(x) ** 3).sum() + (1.0 / (1.0 + distances(x))).sum()

    zero = jnp.zeros((3, 1, 2))
    assert_allclose(distances(zero), 1e-6)
    assert (np.asarray(jax.jit(jax.grad(total), compiler_options=FAST)(zero)) == 0.0).all()
    assert np.isfinite(jax.jit(jax.hessian(total), compiler_options=FAST)(zero)).all()
    of_forces = jax.grad(lambda x: (jax.grad(total)(x) ** 2).sum())
    assert np.isfinite(jax.jit(of_forces, compiler_options=FAST)(zero)).all()


def test_distances_are_lengths():
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    assert_allclose(distances(jnp.asarray(x)), np.linalg.norm(x, axis=0), rtol=1e-15)


def test_distances_have_the_derivatives_of_lengths():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 1)))
    one = x[:, 0, 0] / jnp.linalg.norm(x)

    def length(x):
        return distances(x).sum()

    assert_allclose(jax.grad(length)(x)[:, 0, 0], one, rtol=1e-14)
    second = jax.hessian(length)(x)[:, 0, 0, :, 0, 0]
    assert_allclose(second, (np.eye(3) - np.outer(one, one)) / np.linalg.norm(x), rtol=0, atol=1e-14)


def graph_of(name="triclinic"):
    s = awkward_structures((1, 8))[name]
    x = neighbourhood(s, (1, 8), 4.0)
    graph, rows = batch([x], slot_capacity=x.slot_counts + 2)
    return s, x, graph, rows


def test_pair_vectors_point_from_centre_to_neighbour():
    s, x, graph, rows = graph_of()
    n = len(graph.positions)
    vectors = np.asarray(
        pair_vectors(
            jnp.asarray(graph.positions), jnp.asarray(graph.cell), jnp.asarray(graph.structure), jnp.arange(n),
            jnp.asarray(graph.neighbours), jnp.asarray(graph.shifts), jnp.asarray(graph.mask), 8.0,
        )
    )  # fmt: skip
    i, j, shifts = x.pairs
    want = s.positions[j] - s.positions[i] + shifts @ s.cell
    got = vectors[:, np.asarray(graph.mask)].T
    assert_allclose(got[np.lexsort(got.T)], want[np.lexsort(want.T)], rtol=0, atol=1e-12)
    empty = vectors[:, ~np.asarray(graph.mask)]
    assert empty.size
    assert_array_equal(empty, np.broadcast_to([[8.0], [0.0], [0.0]], empty.shape))
    assert_allclose(np.linalg.norm(got, axis=1).max(), np.linalg.norm(want, axis=1).max())
    for atom, row in enumerate(rows):  # each atom's own row has its own pairs
        mine = vectors[:, row, graph.mask[row]].T
        theirs = want[i == atom]
        assert_allclose(mine[np.lexsort(mine.T)], theirs[np.lexsort(theirs.T)], atol=1e-12)


def test_swapping_is_its_own_inverse_and_transpose():
    *_, graph, _ = graph_of()
    reverse = jnp.asarray(graph.reverse)
    rng = np.random.default_rng(1)
    a, b = (jnp.asarray(rng.normal(size=(3, len(graph.reverse)))) for _ in range(2))
    assert_array_equal(swap_pairs(swap_pairs(a, reverse), reverse), a)
    _, transpose = jax.vjp(lambda x: swap_pairs(x, reverse), a)
    assert_allclose((swap_pairs(a, reverse) * b).sum(), (a * transpose(b)[0]).sum(), rtol=1e-12)


def test_forces_and_virials_against_loops():
    _, x, graph, _ = graph_of()
    shape = graph.mask.shape
    g = np.random.default_rng(2).normal(size=(3, *shape)) * np.asarray(graph.mask)
    want = np.zeros((shape[0], 3))
    for a, k in zip(*np.nonzero(graph.mask), strict=True):
        want[a] += g[:, a, k]
        want[graph.neighbours[a, k]] -= g[:, a, k]
    assert_allclose(forces_from_pairs(jnp.asarray(g), jnp.asarray(graph.reverse)), want, atol=1e-12)
    d = np.random.default_rng(3).normal(size=(3, *shape))
    w = np.einsum("cak,dak->acd", d, g)
    assert_allclose(virials_from_pairs(jnp.asarray(d), jnp.asarray(g)), 0.5 * (w + w.transpose(0, 2, 1)), atol=1e-12)
