"""Padded, stacked frames: what a batch says is what each frame says alone, and there are few shapes to compile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAST, awkward_structures, evaluate_all, make_model, make_params, symmetry_functions

from adatom.fitting.batches import Bucket, Targets, _cuts, assemble, make_buckets, neighbourhoods
from adatom.fitting.config import LossConfig, TrainingConfig
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.problem import Problem
from adatom.fitting.sizes import eighths, few
from adatom.fitting.statistics import make_statistics
from adatom.fitting.step import TrainState, _step, make_optimiser, make_step
from adatom.fitting.training_errors import _evaluate, evaluate
from adatom.potential.graph import Graph
from adatom.potential.model import Model
from adatom.potential.predict import Prediction, predict
from adatom.potential.structure import Structure

ELEMENTS = (13, 29)
DESCRIPTOR = symmetry_functions(n_radial=3, n_angular=1, zetas=(1.0,))


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def labelled(seed: int = 0) -> list[Frame]:
    """Every kind of cell, one to five atoms, one or two elements, some labels missing, weights of all sizes."""
    rng = np.random.default_rng(seed)
    structures = list(awkward_structures(ELEMENTS, seed).values())
    structures.append(Structure(np.array([13]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool)))
    frames = []
    for k, s in enumerate(structures):
        forces, stress = rng.normal(size=(len(s), 3)), rng.normal(size=(3, 3))
        labels = Labels(
            energy=None if k == 2 else float(rng.normal()),
            forces=None if k == 3 else forces,
            stress=stress + stress.T if s.pbc.all() and k != 1 else None,
        )
        weights = rng.uniform(0.5, 2.0, 4)
        frames.append(Frame(s, labels, "default", *weights.tolist(), group="", source=f"frame {k}"))
    return frames


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model(ELEMENTS, DESCRIPTOR, widths=(4,))


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return labelled()


@pytest.fixture(scope="module")
def buckets(model: Model, frames: list[Frame]) -> list[Bucket]:
    return make_buckets(frames, neighbourhoods(frames, ELEMENTS, model.cutoff), 2)


@partial(jax.jit, static_argnames="model", compiler_options=FAST)
def forward(model: Model, params: Any, bucket: Bucket, index: Any, present: Any) -> tuple[Graph, Targets, Prediction]:
    graph, targets = assemble(bucket, index, present)
    out = predict(model, params, graph, e0=params["statistics"].e0, dtype=jnp.dtype("float64"))
    return graph, targets, out


together = jax.jit(assemble)


def rows(graph: Graph, q: int, structure: Structure) -> np.ndarray:
    """Where the atoms of the q-th frame of a batch stand, in the structure's own order."""
    here = np.flatnonzero((np.asarray(graph.structure) == q) & np.asarray(graph.atom_mask))
    place = np.empty(len(here), dtype=int)
    place[np.argsort(structure.numbers, kind="stable")] = here
    return place


def test_a_batch_says_what_each_frame_says_alone(model: Model, frames: list[Frame], buckets: list[Bucket]) -> None:
    params = make_params(model)
    expected = evaluate_all(model, params, [f.structure for f in frames])
    seen = []
    for bucket in buckets:
        assert len(bucket) > 1
        index = np.resize(np.random.default_rng(3).permutation(len(bucket)), 5).astype(np.int32)  # some come twice
        graph, targets, out = forward(model, params, jax.device_put(bucket), index, np.ones(5, dtype=bool))
        for q, at in enumerate(index):
            number = int(bucket.frame[at])
            frame, alone, here = frames[number], expected[number], rows(graph, q, frames[number].structure)
            seen.append(number)
            np.testing.assert_allclose(out.energy[q], alone.energy, rtol=1e-12)
            np.testing.assert_allclose(np.asarray(out.forces)[here], alone.forces, atol=1e-10)
            np.testing.assert_allclose(np.asarray(out.atomic_energies)[here], alone.energies, rtol=1e-12)
            if frame.structure.pbc.all():
                np.testing.assert_allclose(out.stress[q], alone.stress, atol=1e-10)
            assert int(targets.n_atoms[q]) == len(frame.structure)
    assert set(seen) == set(range(len(frames)))


def test_labels_stand_beside_their_atoms_and_missing_ones_have_no_weight(
    model: Model, frames: list[Frame], buckets: list[Bucket]
) -> None:
    for bucket in buckets:
        index = np.ascontiguousarray(np.arange(len(bucket), dtype=np.int32)[::-1])
        graph, t = together(bucket, index, np.ones(len(index), dtype=bool))
        for q, at in enumerate(index):
            f = frames[int(bucket.frame[at])]
            for name, value, label in (
                ("energy", t.energy[q], f.labels.energy),
                ("forces", np.asarray(t.forces)[rows(graph, q, f.structure)], f.labels.forces),
                ("stress", t.stress[q], f.labels.stress),
            ):
                weight = float(getattr(t, f"{name}_weight")[q])
                np.testing.assert_array_equal(value, np.zeros_like(value) if label is None else label)
                assert weight == (0.0 if label is None else f.weight * getattr(f, f"{name}_weight"))


def test_absent_frames_have_no_weight_and_change_nothing(model: Model, buckets: list[Bucket]) -> None:
    params, bucket = make_params(model), jax.device_put(max(buckets, key=len))
    index = np.array([1, 0, 0, 0, 0], dtype=np.int32)
    present = np.array([True, True, False, False, False])
    graph, targets, out = forward(model, params, bucket, index, present)
    for weight in (targets.energy_weight, targets.forces_weight, targets.stress_weight):
        np.testing.assert_array_equal(np.asarray(weight)[2:], 0.0)
    assert float(targets.energy_weight.sum()) > 0
    _, _, other = forward(model, params, bucket, np.array([1, 0, 1, 1, 1], dtype=np.int32), present)
    np.testing.assert_array_equal(out.energy[:2], other.energy[:2])


def test_pairs_are_seen_from_both_sides(buckets: list[Bucket]) -> None:
    for bucket in buckets:
        b = len(bucket)
        graph, _ = together(bucket, np.arange(b, dtype=np.int32), np.ones(b, dtype=bool))
        reverse, mask = np.asarray(graph.reverse), np.asarray(graph.mask)
        neighbours, n, k = np.asarray(graph.neighbours), *mask.shape
        np.testing.assert_array_equal(reverse[reverse], np.arange(n * k))
        np.testing.assert_array_equal(mask.reshape(-1)[reverse], mask.reshape(-1))
        centre = np.repeat(np.arange(n), k)
        np.testing.assert_array_equal(neighbours.reshape(-1), np.where(mask.reshape(-1), centre[reverse], centre))
        shifts = np.asarray(graph.shifts).reshape(3, -1)
        np.testing.assert_array_equal(shifts[:, reverse], np.where(mask.reshape(-1), -shifts, shifts))
        owner = np.asarray(graph.structure)
        assert (owner[neighbours] == owner[:, None])[mask].all()


def test_only_isolated_atoms(model: Model) -> None:
    lonely = [f for f in labelled() if len(f.structure) == 1] * 2
    (bucket,) = make_buckets(lonely, neighbourhoods(lonely, ELEMENTS, model.cutoff), 3)
    assert sum(bucket.slot_capacity) == 0
    params = make_params(model)
    _, _, out = forward(model, params, jax.device_put(bucket), np.array([0, 1], dtype=np.int32), np.ones(2, dtype=bool))
    np.testing.assert_allclose(out.energy, float(np.asarray(params["statistics"].e0)[0]), rtol=1e-12)
    np.testing.assert_array_equal(out.forces, 0.0)


def test_an_unknown_element_names_its_frame(frames: list[Frame]) -> None:
    with pytest.raises(ValueError, match="the model knows Al; frame 0 has Cu"):
        neighbourhoods(frames, (13,), 4.0)


@pytest.mark.parametrize("max_buckets", [1, 2, 3, 16])
def test_the_plan_holds_every_frame_once(model: Model, frames: list[Frame], max_buckets: int) -> None:
    items = neighbourhoods(frames, ELEMENTS, model.cutoff)
    plan = make_buckets(frames, items, max_buckets)
    assert 1 <= len(plan) <= max_buckets
    assert sorted(np.concatenate([b.frame[: len(b)] for b in plan]).tolist()) == list(range(len(frames)))
    for b in plan:
        assert (b.frame[len(b) :] == -1).all()
        for k in b.frame[: len(b)]:
            assert (np.array(b.atom_capacity) >= items[k].atom_counts).all()
            assert (np.array(b.slot_capacity) >= items[k].slot_counts).all()
        assert b.positions.shape == (few(len(b)), sum(b.atom_capacity), 3)
        assert b.mask.shape == (few(len(b)), sum(b.atom_capacity), sum(b.slot_capacity))


def padded(cost: np.ndarray, cuts: tuple[int, ...]) -> float:
    parts = np.split(cost, cuts)
    return float(sum(len(p) * p[-1] for p in parts) * (1 + 0.02 * len(parts)))


@pytest.mark.parametrize("seed", range(12))
def test_cuts_are_the_best_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.integers(1, 30, size=rng.integers(1, 9)) ** rng.integers(1, 4)).astype(float)
    for max_buckets in (1, 2, 3, 5):
        got = tuple(_cuts(cost, max_buckets))
        assert len(got) < max_buckets
        every = itertools.chain.from_iterable(
            itertools.combinations(range(1, len(cost)), g) for g in range(min(max_buckets, len(cost)))
        )
        assert padded(cost, got) == pytest.approx(min(padded(cost, c) for c in every))


def test_cuts_of_many_sizes_are_close_to_the_best() -> None:
    cost = np.sort(np.random.default_rng(0).uniform(1.0, 100.0, 400))
    got = _cuts(cost, 2)
    assert len(got) == 1
    assert padded(cost, tuple(got)) < 1.02 * min(padded(cost, (c,)) for c in range(1, 400))
    assert _cuts(np.full(500, 7.0), 4) == []


def test_an_epoch_compiles_at_most_one_step_a_bucket() -> None:
    """Six sizes of frames, two buckets, last batches of an epoch that are not full: two compilations."""
    model = make_model((13,), DESCRIPTOR, widths=(4,))
    rng = np.random.default_rng(0)
    frames = []
    for n in (1, 2, 3, 4, 6, 8) * 3:
        grid = np.array(list(itertools.product([0.0, 2.2], repeat=3)))[:n]
        s = Structure(np.full(n, 13), grid + rng.normal(0, 0.1, (n, 3)), 4.4 * np.eye(3), np.ones(3, dtype=bool))
        frames.append(Frame(s, Labels(float(n), np.zeros((n, 3)), np.zeros((3, 3)))))
    items = neighbourhoods(frames, model.elements, model.cutoff)
    buckets = make_buckets(frames, items, 2)
    assert len(buckets) == 2
    network = model.init(jax.random.key(0))
    statistics = make_statistics(model, network, frames, items, buckets, np.zeros(1))
    every, none = [np.arange(len(b)) for b in buckets], [np.arange(0) for _ in buckets]
    problem = Problem(model, statistics, buckets, every, none, LossConfig(), TrainingConfig(batch_atoms=20, epochs=2))
    step, before = make_step(problem, 100), _step._cache_size()
    optimiser = make_optimiser(problem.training, 100).init(network)
    state = TrainState(network, network, network, optimiser, np.zeros((), dtype=np.int32))
    state = jax.device_put(state)
    for epoch in range(2):
        order = problem.batches(epoch)
        assert len(order) == problem.steps_per_epoch
        for k, index, present in order:
            state, _, value = step(state, k, index, present)
            assert np.isfinite(float(value))
    assert _step._cache_size() == before + 2
    assert int(state.step) == 2 * problem.steps_per_epoch


def test_an_epoch_visits_every_training_frame_once_in_an_order_of_its_own(model: Model, frames: list[Frame]) -> None:
    buckets = make_buckets(frames, neighbourhoods(frames, ELEMENTS, model.cutoff), 2)
    train = [np.arange(len(b))[1:] for b in buckets]
    valid = [np.arange(1) for _ in buckets]
    params = make_params(model)

    def problem(seed: int) -> Problem:
        training = TrainingConfig(batch_atoms=9, seed=seed)
        return Problem(model, params["statistics"], buckets, train, valid, LossConfig(), training)

    def visits(seed: int, epoch: int) -> list[tuple[int, int]]:
        jobs = problem(seed).batches(epoch)
        assert all(len(i) == problem(seed).frames_per_batch()[k] for k, i, _ in jobs)
        return [(k, int(x)) for k, index, present in jobs for x in index[present]]

    assert sorted(visits(1, 0)) == [(k, int(x)) for k, index in enumerate(train) for x in index]
    assert visits(1, 0) == visits(1, 0)
    assert visits(1, 0) != visits(1, 1)
    assert visits(1, 0) != visits(2, 0)


def test_few_sizes() -> None:
    """Never too small, never much too large, and few."""
    for size, sizes, slack in ((few, 45, 1.5), (eighths, 60, 1.13)):
        found = [size(n) for n in range(1, 2001)]
        assert all(n <= x for n, x in enumerate(found, 1))
        assert max(x / n for n, x in enumerate(found, 1) if n > 32) < slack
        assert len(set(found)) < sizes
        assert [size(x) for x in found] == found
    assert (few(0), eighths(0)) == (0, 0)


def test_a_little_more_data_compiles_nothing() -> None:
    """20 frames and 24, another seed, another number of steps: one compiled step, and one of evaluation."""
    model = make_model((13,), DESCRIPTOR, widths=(4,))
    rng = np.random.default_rng(0)
    frames = []
    for k in range(24):
        s = Structure(np.full(4, 13), rng.uniform(0.0, 4.4, (4, 3)), (4.4 + 0.01 * k) * np.eye(3), np.ones(3, dtype=bool))
        frames.append(Frame(s, Labels(4.0, np.zeros((4, 3)), np.zeros((3, 3)))))
    network = model.init(jax.random.key(0))
    before = _step._cache_size(), _evaluate._cache_size()
    for seed, n in enumerate((20, 24)):
        items = neighbourhoods(frames[:n], model.elements, model.cutoff)
        buckets = make_buckets(frames[:n], items, 1)
        statistics = make_statistics(model, network, frames[:n], items, buckets, np.zeros(1))
        rows = np.arange(n)
        training = TrainingConfig(batch_atoms=32, epochs=3 + seed, seed=seed)
        problem = Problem(model, statistics, buckets, [rows[4:]], [rows[:4]], LossConfig(), training)
        total = 3 * problem.steps_per_epoch
        step = make_step(problem, total)
        state = TrainState(network, network, network, make_optimiser(training, total).init(network), jnp.zeros((), jnp.int32))
        for k, index, present in problem.batches(0):
            state, _, _ = step(state, k, index, present)
        evaluate(problem, state.average, problem.valid)
    assert (_step._cache_size(), _evaluate._cache_size()) == (before[0] + 1, before[1] + 1)
