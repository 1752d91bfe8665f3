"""Committees: members trained together are those trained alone; the last layer's posterior is the closed form."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ase.build import bulk
from helpers import evaluate_all, make_potential, symmetry_functions

from adatom.fitting import members as fitting_members
from adatom.fitting.batches import make_buckets, neighbourhoods
from adatom.fitting.calibration import LEAST, Errors, calibrated, coverage, errors_and_spreads, judged, quantile
from adatom.fitting.config import LossConfig, TrainingConfig, UncertaintyConfig
from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.members import laplace, make_committee
from adatom.fitting.problem import Problem
from adatom.fitting.statistics import make_statistics
from adatom.fitting.train import Interrupted, train
from adatom.potential.potential import Potential, flatten
from adatom.potential.structure import from_atoms

TINY = symmetry_functions(cutoff=3.6, n_radial=3, n_angular=1, zetas=(1.0,))


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def silent(*_: Any) -> None:
    pass


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    truth = make_potential((29,), TINY, seed=4, min_distance=1.5)
    rng = np.random.default_rng(0)
    structures = []
    for k in range(24):
        atoms = bulk("Cu", cubic=True, a=3.7 * (1 + 0.04 * rng.normal()))
        atoms.positions += rng.normal(0, 0.05 + 0.01 * k, (4, 3))
        structures.append(from_atoms(atoms))
    labels = evaluate_all(truth.model, truth.params, structures)
    return [Frame(s, Labels(x.energy, x.forces, x.stress)) for s, x in zip(structures, labels, strict=True)]


@pytest.fixture(scope="module")
def problem(frames: list[Frame]) -> Problem:
    truth = make_potential((29,), TINY, seed=4, min_distance=1.5)
    items = neighbourhoods(frames, truth.model.elements, truth.model.cutoff)
    (bucket,) = make_buckets(frames, items, 1)
    network = truth.model.init(jax.random.key(1))
    statistics = make_statistics(truth.model, network, frames, items, [bucket], np.asarray(truth.statistics.e0))
    training = TrainingConfig(epochs=6, batch_atoms=32, evaluate_every=2, warmup_steps=5, learning_rate=1e-2, precision="float64")
    rows = np.arange(len(frames))
    return Problem(truth.model, statistics, [bucket], [rows[:20]], [rows[20:]], LossConfig(), training)


def start(problem: Problem) -> Any:
    return problem.model.init(jax.random.key(1))


def test_members_together_are_members_alone(problem: Problem, tmp_path: Path) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(2, 24))
    several = dataclasses.replace(problem, resampling=[weights])
    together, _ = train(several, jax.vmap(problem.model.init)(keys), tmp_path, resume=False, report=silent, say=silent)
    for m in range(2):
        alone = dataclasses.replace(problem, resampling=[weights[m : m + 1]])
        (out := tmp_path / str(m)).mkdir()
        first = jax.tree.map(lambda x: np.asarray(x)[None], problem.model.init(keys[m]))
        best, _ = train(alone, first, out, resume=False, report=silent, say=silent)
        for name, value in flatten(best).items():
            np.testing.assert_allclose(flatten(together)[name][m], value[0], rtol=2e-4, atol=2e-5, err_msg=name)


def test_members_stopped_and_resumed(problem: Problem, tmp_path: Path) -> None:
    config = UncertaintyConfig(kind="shallow", members=2, effort=1.0)
    network = start(problem)
    whole = make_committee(config, problem, network, tmp_path / "whole", resume=False, report=silent, say=silent)
    assert set(whole.members) == {"fitting"}

    def press(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        make_committee(config, problem, network, tmp_path / "parts", resume=False, report=press, say=silent)
    parts = make_committee(config, problem, network, tmp_path / "parts", resume=True, report=silent, say=silent)
    jax.tree.map(np.testing.assert_array_equal, parts.members, whole.members)
    trained = flatten(whole.members)
    assert all(np.abs(x[0] - x[1]).max() > 1e-3 for x in trained.values())


def test_the_posterior_of_the_last_layer(problem: Problem) -> None:
    """Members lie in pairs about the network; energies, linear in the layer, spread as gᵀ Σ g says they should."""
    network = start(problem)
    members = laplace(problem, network, jax.random.key(0), 64)
    own = jax.tree.map(lambda x: np.asarray(x).mean(axis=0), members)
    for name, value in flatten(own).items():
        size = np.abs(np.asarray(flatten(members)[name])).max()
        np.testing.assert_allclose(value, flatten(network)[name], rtol=0, atol=1e-4 * size)
    layer = members["fitting"]["species_0"]["energy"]["kernel"]
    again = laplace(problem, network, jax.random.key(0), 64)["fitting"]["species_0"]["energy"]["kernel"]
    np.testing.assert_array_equal(layer, again)
    fewer = dataclasses.replace(problem, train=[problem.train[0][:4]])
    wide = laplace(fewer, network, jax.random.key(0), 64)["fitting"]["species_0"]["energy"]["kernel"]
    assert np.std(wide, axis=0).mean() > 1.5 * np.std(layer, axis=0).mean()  # fewer data, less certain


def test_the_posterior_from_some_of_the_frames(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count for those left out: of one frame many times any part says the same."""
    same = dataclasses.replace(problem, train=[np.full(24, 5)])
    whole = laplace(same, start(problem), jax.random.key(0), 4)
    monkeypatch.setattr(fitting_members, "FRAMES", 7)
    some = laplace(same, start(problem), jax.random.key(0), 4)
    for name, value in flatten(some).items():
        np.testing.assert_allclose(value, flatten(whole)[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_calibration(problem: Problem, frames: list[Frame]) -> None:
    network = start(problem)
    committee = make_committee(UncertaintyConfig(), problem, network, Path(), resume=False, report=silent, say=silent)
    potential = Potential(problem.model, {"network": network, "statistics": problem.statistics}, committee=committee)
    unlabelled = [dataclasses.replace(x, labels=Labels(x.labels.energy, None, None)) for x in frames]
    for few in ([], frames[: LEAST - 1], unlabelled):
        kept = calibrated(potential, few, data="validation").committee
        assert kept is not None
        assert kept.calibration is None
    done = calibrated(potential, frames, data="validation").committee
    assert done is not None
    assert done.calibration is not None
    assert done.calibration.data == "validation, 24 frames"
    energy, forces = errors_and_spreads(potential, frames)
    assert (len(energy.error), len(forces.error)) == (24, 96)
    assert done.calibration.forces.scale == pytest.approx(np.sqrt((forces.error**2).sum() / (forces.spread**2).sum()))
    assert judged(done.calibration.forces, forces)["ratio"] == pytest.approx(1.0)
    half = errors_and_spreads(potential, frames[:12])
    for few, about in ((frames[12:16], "validation, 4 frames, and labels of earlier"), ([], "labels of earlier iterations")):
        again = calibrated(potential, few, data="validation", earlier=half).committee
        assert again is not None
        assert again.calibration is not None
        assert again.calibration.data.startswith(about)
        assert again.calibration.energy.samples == 12 + len(few)
    alone = calibrated(potential, frames, data="validation", earlier=half).committee
    assert alone == done, "enough of its own"


def test_coverage_of_known_errors() -> None:
    """Errors drawn with σ = 2 s: the scale is found, bounds hold on the other half as promised, ranks agree."""
    rng = np.random.default_rng(1)
    s = rng.uniform(0.1, 1.0, 6000)
    x = Errors(np.abs(rng.normal(0.0, 2.0 * s)), s, np.arange(6000) // 3)
    c = coverage(x)
    assert c.scale == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(c.found, c.nominal, atol=0.02)
    np.testing.assert_allclose(c.factors[c.nominal.index(0.68)], 2.0, rtol=0.05)
    assert 0.3 < c.rank < 0.7
    assert coverage(x._replace(spread=np.ones(6000))).rank == 0.0


def test_quantile_counts_the_next_one() -> None:
    assert [quantile(np.arange(1.0, 10.0), p) for p in (0.5, 0.9, 0.95)] == [5.0, 9.0, 9.0]
