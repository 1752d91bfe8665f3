"""The loss against closed forms, its masks and weights, and the prefactors at both ends of a run."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adatom.fitting.batches import Targets
from adatom.fitting.config import LossConfig, TrainingConfig
from adatom.fitting.loss import Prefactors, loss
from adatom.fitting.step import decay, make_optimiser, prefactors
from adatom.fitting.training_errors import Sums, error_sums, rmse, score
from adatom.potential.graph import Graph
from adatom.potential.predict import Prediction
from adatom.potential.units import GPA

P = Prefactors(jnp.float64(3.0), jnp.float64(5.0), jnp.float64(7.0))
SIZES = (2, 3, 1)
ROWS = np.array([0, 0, 1, 1, 1, 2, 2])  # the last row is padding


def graph() -> Graph:
    n = len(ROWS)
    return Graph(
        np.zeros((n, 3)), np.tile(np.eye(3), (3, 1, 1)), ROWS, np.arange(n) < n - 1, np.zeros((n, 1), dtype=np.int32),
        np.zeros((3, n, 1), dtype=np.int32), np.zeros((n, 1), dtype=bool), np.arange(n), (n,), (1,),
    )  # fmt: skip


def case(seed: int = 0, **changes: Any) -> tuple[Prediction, Targets]:
    rng = np.random.default_rng(seed)
    n = len(ROWS)
    prediction = Prediction(
        jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=n)), jnp.asarray(rng.normal(size=(n, 3))),
        jnp.asarray(rng.normal(size=(3, 3, 3))), jnp.ones((n, 1)),
    )  # fmt: skip
    targets = Targets(
        rng.normal(size=3), rng.normal(size=(n, 3)), rng.normal(size=(3, 3, 3)), np.array(SIZES, dtype=np.int32),
        np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.3, 2.0]), np.array([2.0, 1.0, 1.0]),
    )  # fmt: skip
    return prediction, dataclasses.replace(targets, **changes)


def by_hand(prediction: Prediction, targets: Targets, delta: float | None = None) -> float:
    """The docstring's formula, frame by frame."""

    def rho(x: np.ndarray) -> np.ndarray:
        if delta is None:
            return x**2
        return np.where(abs(x) <= delta, x**2, 2 * delta * abs(x) - delta**2)

    terms: dict[str, list[float]] = {"energy": [], "forces": [], "stress": []}
    for s, n in enumerate(SIZES):
        mine = (s == ROWS) & (np.arange(len(ROWS)) < len(ROWS) - 1)
        e = rho(np.array((float(prediction.energy[s]) - targets.energy[s]) / n))
        f = rho(np.asarray(prediction.forces)[mine] - targets.forces[mine]).mean()
        w = rho(np.asarray(prediction.stress[s]) - targets.stress[s]).mean()
        for name, value in (("energy", e), ("forces", f), ("stress", w)):
            weight = getattr(targets, f"{name}_weight")[s]
            if weight > 0:
                terms[name].append(weight * float(value))
    return float(sum(float(p) * np.mean(terms[name]) for name, p in P._asdict().items() if terms[name]))


@pytest.mark.parametrize("huber", [None, 0.7])
def test_closed_form(huber: float | None) -> None:
    prediction, targets = case()
    assert float(loss(prediction, graph(), targets, P, huber)) == pytest.approx(by_hand(prediction, targets, huber))


def test_terms_are_averaged_over_the_frames_that_have_them() -> None:
    prediction, targets = case(
        energy_weight=np.array([1.0, 0.0, 0.0]), forces_weight=np.zeros(3), stress_weight=np.array([0.0, 0.0, 4.0])
    )
    value = float(loss(prediction, graph(), targets, P))
    assert value == pytest.approx(by_hand(prediction, targets))
    nothing = dataclasses.replace(targets, energy_weight=np.zeros(3), stress_weight=np.zeros(3))
    assert float(loss(prediction, graph(), nothing, P)) == 0.0


def test_a_weight_scales_its_frame() -> None:
    prediction, targets = case(forces_weight=np.zeros(3), stress_weight=np.zeros(3), energy_weight=np.ones(3))
    one = float(loss(prediction, graph(), targets, P))
    more = float(loss(prediction, graph(), dataclasses.replace(targets, energy_weight=np.array([1.0, 1.0, 4.0])), P))
    last = 3.0 * float((prediction.energy[2] - targets.energy[2]) ** 2) / 3
    assert more - one == pytest.approx(3.0 * last)


def test_missing_labels_have_no_gradient() -> None:
    prediction, targets = case(
        energy=np.zeros(3), stress=np.zeros((3, 3, 3)),
        energy_weight=np.array([0.0, 1.0, 1.0]), forces_weight=np.array([1.0, 0.0, 1.0]),
        stress_weight=np.array([0.0, 0.0, 1.0]),
    )  # fmt: skip

    def of(p: Prediction) -> jax.Array:
        return loss(p, graph(), targets, P)

    g = jax.grad(of)(prediction)
    np.testing.assert_array_equal(np.flatnonzero(g.energy), [1, 2])
    np.testing.assert_array_equal(np.flatnonzero(np.abs(g.forces).sum(axis=1)), [0, 1, 5])
    np.testing.assert_array_equal(np.flatnonzero(np.abs(g.stress).sum(axis=(1, 2))), [2])


def test_what_the_model_says_of_a_missing_stress_does_not_matter() -> None:
    """A molecule has no stress: a NaN there must not reach the gradient."""
    prediction, targets = case(stress_weight=np.array([1.0, 0.0, 1.0]))
    odd = dataclasses.replace(prediction, stress=prediction.stress.at[1].set(jnp.nan))

    def of(p: Prediction) -> jax.Array:
        return loss(p, graph(), targets, P)

    assert float(of(odd)) == float(of(prediction))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(jax.grad(of)(odd)))


def test_rows_of_padding_do_not_count() -> None:
    prediction, targets = case()
    odd = dataclasses.replace(prediction, forces=prediction.forces.at[-1].set(1e6))
    assert float(loss(odd, graph(), targets, P)) == float(loss(prediction, graph(), targets, P))


def test_huber_limits() -> None:
    prediction, targets = case()
    square = float(loss(prediction, graph(), targets, P))
    assert float(loss(prediction, graph(), targets, P, 1e3)) == pytest.approx(square)
    small = 1e-4
    tiny = loss(prediction, graph(), targets, P, small)  # ρ -> 2δ|x|

    def absolute(x: jax.Array) -> np.ndarray:
        return 2 * small * np.abs(np.asarray(x))

    n = np.array(SIZES)
    e = (absolute(prediction.energy - targets.energy) / n * targets.energy_weight).mean()
    f = absolute(prediction.forces - targets.forces)
    f = np.array([f[:2].mean(), f[2:5].mean(), f[5:6].mean()]) @ targets.forces_weight / 3
    s = (absolute(prediction.stress - targets.stress).mean(axis=(1, 2)) * targets.stress_weight).mean()
    assert float(tiny) == pytest.approx(3 * e + 5 * f + 7 * s, rel=1e-3)


def test_prefactors_move_with_the_learning_rate() -> None:
    config = LossConfig(energy_start=1.0, energy_end=100.0, forces_start=50.0, forces_end=2.0)
    start, middle, end = (prefactors(config, jnp.float64(x)) for x in (1.0, 0.25, 0.0))
    assert [float(x) for x in start] == [1.0, 50.0, 100.0]
    assert [float(x) for x in middle] == pytest.approx([75.25, 14.0, 100.0])
    assert [float(x) for x in end] == [100.0, 2.0, 100.0]


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_schedule_ends(schedule: str) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=1e-2, final_learning_rate=1e-5, warmup_steps=10)  # type: ignore[arg-type]
    fraction = [float(decay(jnp.int32(k), 1000, config)) for k in (0, 500, 1000, 5000)]
    end = 1.0 if schedule == "constant" else 1e-3
    middle = {"cosine": 0.5005, "exponential": 1e-3**0.5, "constant": 1.0}[schedule]
    assert fraction == pytest.approx([1.0, middle, end, end])


@pytest.mark.parametrize("optimiser", ["soap", "adam"])
def test_the_first_steps_are_warm_up(optimiser: Literal["soap", "adam"]) -> None:
    config = TrainingConfig(optimiser=optimiser, learning_rate=1e-2, warmup_steps=10, ema_decay=0.0, gradient_clip=1e9)
    found = make_optimiser(config, 100_000)
    w = {"w": jnp.zeros(2, dtype=jnp.float32)}
    state, moved = found.init(w), []
    with jax.numpy_dtype_promotion("standard"):
        for step in range(20):
            updates, state = found.update({"w": jnp.ones(2, dtype=jnp.float32)}, state, w, step=jnp.int32(step))
            moved.append(float(updates["w"][0]))
    np.testing.assert_allclose(moved[:10], -1e-3 * np.arange(1, 11), rtol=1e-3)  # a step is the rate
    np.testing.assert_allclose(moved[10:], -1e-2, rtol=1e-3)


def test_error_sums_and_rmse() -> None:
    prediction, targets = case(
        energy_weight=np.array([1.0, 0.0, 5.0]), forces_weight=np.array([1.0, 1.0, 0.0]),
        stress_weight=np.array([0.0, 2.0, 0.0]),
    )  # fmt: skip
    sums = error_sums(prediction, graph(), targets)
    errors = rmse(sums)
    e = ((np.asarray(prediction.energy) - targets.energy) / np.array(SIZES))[[0, 2]]
    f = (np.asarray(prediction.forces) - targets.forces)[:5]
    s = (np.asarray(prediction.stress) - targets.stress)[1]
    assert errors["energy_rmse"] == pytest.approx(1e3 * np.sqrt((e**2).mean()))
    assert errors["forces_rmse"] == pytest.approx(1e3 * np.sqrt((f**2).mean()))
    assert errors["stress_rmse"] == pytest.approx(np.sqrt((s**2).mean()) / GPA)
    final = LossConfig(energy_end=2.0, forces_end=3.0, stress_end=4.0)
    assert score(sums, final) == pytest.approx(2 * (e**2).mean() + 3 * (f**2).mean() + 4 * (s**2).mean())


def test_no_frames_no_errors() -> None:
    nothing = Sums(*np.zeros(6))
    errors = rmse(nothing)
    assert errors == {"energy_rmse": None, "forces_rmse": None, "stress_rmse": None}
    assert score(nothing, LossConfig()) == 0.0
