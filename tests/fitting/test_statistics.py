"""What the data fix before training, against the same by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
import pytest
from ase.data import covalent_radii
from helpers import awkward_structures, deep_potential, make_model, symmetry_functions

from adatom.fitting.batches import make_buckets, neighbourhoods
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.statistics import describe, make_statistics, shortest_distances
from adatom.potential.model import UNSEEN, Model, Statistics, repulsion_radius
from adatom.potential.structure import Structure

ELEMENTS = (13, 29)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def frame(structure: Structure, energy: float | None = None, forces: np.ndarray | None = None) -> Frame:
    return Frame(structure, Labels(energy, forces))


def pairs(s: Structure, cutoff: float, reach: int = 4) -> Iterator[tuple[int, int, float]]:
    """All (i, j, distance) closer than the cutoff, image by image."""
    steps = [range(-reach, reach + 1) if p else range(1) for p in s.pbc]
    for image in itertools.product(*steps):
        shift = np.array(image) @ s.cell
        d = np.linalg.norm(s.positions[None] + shift - s.positions[:, None], axis=-1)
        for i, j in itertools.product(range(len(s)), repeat=2):
            if 1e-9 < d[i, j] < cutoff:
                yield i, j, float(d[i, j])


def statistics_of(model: Model, frames: list[Frame], max_buckets: int, e0: np.ndarray) -> Statistics:
    items = neighbourhoods(frames, model.elements, model.cutoff)
    network = model.init(jax.random.key(0))
    return make_statistics(model, network, frames, items, make_buckets(frames, items, max_buckets), e0)


def radial_features(s: Structure, model: Model) -> np.ndarray:
    """G2 by hand, (atoms, species · functions)."""
    c = model.config.descriptor
    functions = c.radial_set()  # type: ignore[union-attr]
    out = np.zeros((len(s), len(model.elements), len(functions)))
    for i, j, r in pairs(s, model.cutoff):
        x = r / model.cutoff
        fc = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        for k, f in enumerate(functions):
            out[i, model.elements.index(int(s.numbers[j])), k] += np.exp(-f.eta * (r - f.shift) ** 2) * fc
    return out.reshape(len(s), -1)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """75 frames, so that they do not fit into one pass of 64, with and without both elements."""
    rng = np.random.default_rng(1)
    structures = list(awkward_structures(ELEMENTS).values())
    for k in range(1, 14):
        more = awkward_structures(ELEMENTS, k)
        structures += [more[name] for name in ("small", "molecule", "one element")]
    structures += [
        Structure(s.numbers, s.positions + rng.normal(0, 0.05, s.positions.shape), s.cell, s.pbc)
        for s in structures[:29]
    ]
    return [frame(s, float(rng.normal()), rng.normal(size=(len(s), 3))) for s in structures]


def test_features_of_fixed_descriptors(frames: list[Frame]) -> None:
    model = make_model(ELEMENTS, symmetry_functions(n_radial=3, n_angular=0), widths=(4,))
    assert len(frames) > 64
    e0 = np.array([-1.0, -2.0])
    got = statistics_of(model, frames, 1, e0)
    features = np.concatenate([radial_features(f.structure, model) for f in frames])
    numbers = np.concatenate([f.structure.numbers for f in frames])
    for t, z in enumerate(ELEMENTS):
        x = features[numbers == z]
        np.testing.assert_allclose(got.feature_mean[t], x.mean(axis=0), rtol=2e-5)
        np.testing.assert_allclose(got.feature_std[t], np.maximum(x.std(axis=0), 1e-3 * x.std(axis=0).max()), rtol=2e-4)
    np.testing.assert_array_equal(got.e0, e0)
    forces = np.concatenate([np.asarray(f.labels.forces).ravel() for f in frames])
    np.testing.assert_allclose(got.scale, 0.5 * np.sqrt((forces**2).mean()))
    rest = [
        (f.labels.energy - e0[[ELEMENTS.index(z) for z in f.structure.numbers]].sum()) / len(f.structure)  # type: ignore[operator]
        for f in frames
    ]
    np.testing.assert_allclose(got.shift, np.mean(rest))


def test_buckets_make_no_difference(frames: list[Frame]) -> None:
    model = make_model(ELEMENTS, symmetry_functions(n_radial=3, n_angular=0), widths=(4,))
    one, three = (statistics_of(model, frames[:20], n, np.zeros(2)) for n in (1, 3))
    np.testing.assert_allclose(one.feature_mean, three.feature_mean, rtol=1e-5)
    np.testing.assert_allclose(one.feature_std, three.feature_std, rtol=1e-4)


def test_features_that_move_in_training_share_a_scale(frames: list[Frame]) -> None:
    model = make_model(ELEMENTS, deep_potential(), widths=(4,))
    got = statistics_of(model, frames[:12], 1, np.zeros(2))
    assert (got.feature_std > 0).all()
    assert (np.ptp(got.feature_std, axis=1) == 0).all()


def test_a_feature_that_never_varies_is_not_blown_up() -> None:
    s = Structure(np.array([13]), np.zeros((1, 3)), 2.5 * np.eye(3), np.ones(3, dtype=bool))
    model = make_model((13,), symmetry_functions(n_radial=3, n_angular=0), widths=(4,))
    got = statistics_of(model, [frame(s)] * 3, 1, np.zeros(1))
    assert (np.asarray(got.feature_std) > 0).all()
    assert np.isfinite(got.feature_std).all()
    np.testing.assert_allclose(got.scale, 0.5)  # no forces: 1 eV/Å is assumed


def test_shortest_distances(frames: list[Frame]) -> None:
    items = neighbourhoods(frames, ELEMENTS, 4.0)
    got = shortest_distances(items, ELEMENTS)
    for (t, a), (u, b) in itertools.product(enumerate(ELEMENTS), repeat=2):
        every = [
            r
            for f in frames[:12]
            for i, j, r in pairs(f.structure, 4.0)
            if (f.structure.numbers[i], f.structure.numbers[j]) == (a, b)
        ]
        few = shortest_distances(items[:12], ELEMENTS)
        np.testing.assert_allclose(few[t, u], min(every), rtol=1e-12)
        assert got[t, u] <= few[t, u]
    np.testing.assert_array_equal(got, got.T)


def test_pairs_that_never_meet() -> None:
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    aluminium = Structure(np.array([13, 13]), np.array([[0.0, 0, 0], [2.5, 0, 0]]), cell, pbc)
    copper = Structure(np.array([29]), np.zeros((1, 3)), cell, pbc)
    far = Structure(np.array([29, 29]), np.array([[0.0, 0, 0], [5.9, 0, 0]]), cell, pbc)  # says nothing of contact
    got = shortest_distances(neighbourhoods([frame(s) for s in (aluminium, copper, far)], ELEMENTS, 6.0), ELEMENTS)
    np.testing.assert_allclose(got, [[2.5, np.inf], [np.inf, 5.9]])
    al, cu = covalent_radii[[13, 29]]
    np.testing.assert_allclose(
        repulsion_radius(got, ELEMENTS), [[2.5, UNSEEN * (al + cu)], [UNSEEN * (al + cu), UNSEEN * 2 * cu]]
    )


def test_an_alloy_may_come_as_close_as_its_elements() -> None:
    """Aluminium at 2.2 Å and copper at 2.0 Å speak for Al-Cu at 2.1 Å, not for an Al-Cu that the data have at 1.7 Å."""
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)

    def pair(a: int, b: int, r: float) -> Frame:
        return frame(Structure(np.array([a, b]), np.array([[0.0, 0, 0], [r, 0, 0]]), cell, pbc))

    for seen, want in ((2.6, 2.1), (1.7, 1.7)):
        frames = [pair(13, 13, 2.2), pair(29, 29, 2.0), pair(13, 29, seen)]
        got = shortest_distances(neighbourhoods(frames, ELEMENTS, 4.0), ELEMENTS)
        np.testing.assert_allclose(got, [[2.2, want], [want, 2.0]])


def test_isolated_atoms_do_not_shift_the_mean() -> None:
    """With E0 of free atoms the shift is the cohesive energy an atom; with least squares it is zero."""
    cell, pbc = 3.0 * np.eye(3), np.ones(3, dtype=bool)
    free = Structure(np.array([13]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    pair = Structure(np.array([13, 13]), np.array([[0.0, 0, 0], [1.5, 1.5, 1.5]]), cell, pbc)
    frames = [frame(free, -0.2), frame(pair, -7.0), frame(pair, -8.0)]
    model = make_model((13,), symmetry_functions(n_radial=2, n_angular=0), widths=(4,))
    got = statistics_of(model, frames, 1, np.array([-0.2]))
    np.testing.assert_allclose(got.shift, [(-3.5 - 4.0) / 2 + 0.2])
    text = describe(got, (13,))
    assert "E0 (eV): Al -0.2000" in text
    assert "Al-Al 2.60" in text
    assert "(Å): not known" in describe(replace(got, min_distance=np.zeros((1, 1))), (13,))
