"""The drift and its error bar against series whose drift and correlation are known."""

from __future__ import annotations

import numpy as np
import pytest

from adatom.md import energy_drift
from adatom.md.conservation import correlation_time


def correlated(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    """x(k+1) = memory · x(k) + noise, variance 1; τ = ½ (1 + memory)/(1 − memory)."""
    noise = rng.standard_normal(n) * np.sqrt(1.0 - memory**2)
    x = np.empty(n)
    x[0] = rng.standard_normal()
    for k in range(1, n):
        x[k] = memory * x[k - 1] + noise[k]
    return x


def test_planted_drift_is_found_exactly() -> None:
    t = np.linspace(0.0, 10.0, 101)
    drift = energy_drift(t, 64 * (-3.0 + 2.5e-4 * t), 64)
    assert drift.slope == pytest.approx(0.25, rel=1e-9)  # 2.5e-4 eV/atom/ps
    assert drift.error < 1e-6
    assert drift.rms < 1e-9
    assert drift.samples == 101


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_error_bar_covers(memory: float) -> None:
    """The scatter of the slope over many series is what its error bar says, also for correlated samples."""
    rng = np.random.default_rng(0)
    t = np.arange(400.0)
    drifts = [energy_drift(t, correlated(rng, 400, memory), 1) for _ in range(150)]
    scatter = np.std([d.slope for d in drifts])
    assert np.mean([d.error for d in drifts]) == pytest.approx(scatter, rel=0.25)
    assert np.mean([d.rms for d in drifts]) == pytest.approx(1.0, rel=0.1)


def test_correlation_time() -> None:
    rng = np.random.default_rng(1)
    assert correlation_time(correlated(rng, 20000, 0.8)) == pytest.approx(4.5, rel=0.15)
    assert correlation_time(correlated(rng, 20000, 0.0)) == pytest.approx(0.5, abs=0.1)
    assert correlation_time(np.zeros(10)) == 0.5


@pytest.mark.parametrize(
    ("t", "e", "n", "message"),
    [
        (np.arange(3.0), np.arange(3.0), 1, "at least 4 samples"),
        (np.arange(5.0), np.arange(6.0), 1, "two equally long series"),
        (np.arange(5.0), np.array([1.0, 2.0, np.nan, 4.0, 5.0]), 1, "1 values that are not finite"),
        (np.ones(5), np.arange(5.0), 1, "times that differ"),
        (np.arange(5.0), np.arange(5.0), 0, "needs atoms"),
    ],
)
def test_bad_series(t: np.ndarray, e: np.ndarray, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        energy_drift(t, e, n)
