"""Error bars of correlated series, equilibration, expansion and compressibility, all with planted answers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units

from adatom.md.observables import (
    average,
    blocking,
    equilibration,
    fit_expansion,
    fluctuations_of_log,
    log_averages,
    stress_averages,
    volume_fluctuations,
)


def correlated(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    """AR(1) of variance 1: τ = ½ (1 + memory)/(1 − memory), error of the mean sqrt(2 τ/n)."""
    x = rng.standard_normal(n)
    x[1:] *= np.sqrt(1.0 - memory**2)
    for k in range(1, n):
        x[k] += memory * x[k - 1]
    return x


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_error_of_a_correlated_mean(memory: float) -> None:
    rng, n = np.random.default_rng(0), 2000
    true = np.sqrt((1.0 + memory) / (1.0 - memory) / n)
    series = [5.0 + correlated(rng, n, memory) for _ in range(80)]
    found = [average(x) for x in series]
    assert 0.97 * true < np.mean([a.error for a in found]) < 1.12 * true
    assert 0.55 < np.mean([abs(a.mean - 5.0) < a.error for a in found]) < 0.8
    assert np.nanmean([blocking(x).error for x in series]) == pytest.approx(true, rel=0.12)
    blocks = blocking(series[0])
    assert blocks.block_sizes.tolist() == [2**k for k in range(10)]
    assert blocks.errors[0] == pytest.approx(series[0].std() / np.sqrt(n - 1))
    np.testing.assert_allclose(blocks.uncertainties, blocks.errors / np.sqrt(2.0 * (n // blocks.block_sizes - 1)), rtol=1e-12)


def test_an_oscillation_does_not_hide_slow_motion() -> None:
    """A fast oscillation of a larger amplitude than the slow part, which alone makes the error of the mean."""
    n, true = 4000, 0.4 * np.sqrt(1.95 / 0.05 / 4000)
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        slow, amplitude = correlated(rng, n, 0.95), correlated(rng, n, 0.97)
        found.append(average(0.4 * slow + amplitude * np.cos(0.8 * np.arange(n) + rng.uniform(0.0, 6.0))))
    assert 0.9 * true < np.mean([a.error for a in found]) < 1.2 * true
    assert 0.5 < np.mean([abs(a.mean) < a.error for a in found]) < 0.85


def test_blocking_without_a_plateau_says_so() -> None:
    assert np.isnan(blocking(np.cumsum(np.random.default_rng(1).standard_normal(64))).error)


def test_a_constant_has_no_error() -> None:
    assert average(np.full(50, 1234.5678)).error == 0.0
    assert blocking(np.full(50, 0.25)).error == 0.0


def test_equilibration_is_found() -> None:
    """A transient of 30 samples' decay on noise; nothing is thrown away without one."""
    rng = np.random.default_rng(2)
    kept = [equilibration(correlated(rng, 1000, 0.5)) for _ in range(20)]
    assert np.median(kept) < 100
    for _ in range(10):
        start = equilibration(correlated(rng, 1000, 0.5) + 40.0 * np.exp(-np.arange(1000) / 30.0))
        assert 60 <= start <= 400
    assert equilibration(np.ones(100)) == 0
    assert equilibration(np.arange(10.0)) == 0


def table(rng: np.random.Generator, n: int, **columns: np.ndarray) -> dict[str, np.ndarray]:
    log = {
        "step": np.arange(n) * 10.0, "time_ps": np.arange(n) * 0.01, "temperature_K": 300.0 + 5.0 * correlated(rng, n, 0.5),
        "potential_eV": -10.0 + correlated(rng, n, 0.5), "total_eV": -9.0 + correlated(rng, n, 0.5),
        "conserved_eV": np.full(n, np.nan), "pressure_GPa": 0.1 * correlated(rng, n, 0.5), "volume_A3": np.full(n, 100.0),
    }  # fmt: skip
    return log | columns


def test_averages_of_a_log() -> None:
    rng = np.random.default_rng(3)
    transient = 100.0 * np.exp(-np.arange(2000) / 40.0)
    log = table(rng, 2000)
    log["temperature_K"] = log["temperature_K"] + transient
    found = log_averages(log)
    assert set(found.columns) == {"temperature_K", "potential_eV", "total_eV", "pressure_GPa", "volume_A3"}
    assert found.start_ps > 0.8
    t = found.columns["temperature_K"]
    assert t.mean == pytest.approx(300.0, abs=4.0 * t.error)
    assert found.columns["volume_A3"][:2] == pytest.approx((100.0, 0.0))
    whole = log_averages(log, discard_ps=0.0)
    assert whole.columns["temperature_K"].samples == 2000
    assert whole.columns["temperature_K"].mean == pytest.approx(log["temperature_K"].mean())
    with pytest.raises(ValueError, match="0 of 2000 rows"):
        log_averages(log, discard_ps=100.0)


def test_stress() -> None:
    rng = np.random.default_rng(4)
    stress = np.array([[1.0, 0.2, 0.0], [0.2, -3.0, 0.0], [0.0, 0.0, 2.0]]) + rng.standard_normal((400, 3, 3))
    mean, error = stress_averages(stress)
    np.testing.assert_allclose(mean, stress.mean(axis=0), rtol=1e-12)
    assert error == pytest.approx(0.05, rel=0.3)
    with pytest.raises(ValueError, match=r"shape \(frames, 3, 3\)"):
        stress_averages(stress[:, 0])


def test_planted_expansion_is_found_exactly() -> None:
    t = np.array([100.0, 200.0, 300.0, 400.0, 550.0])
    volume = 1000.0 + 0.03 * (t - 300.0) + 2e-5 * (t - 300.0) ** 2
    fit = fit_expansion(t, volume, errors=np.full(5, 0.1), at_K=300.0)
    assert fit.alpha.value == pytest.approx(3e-5, rel=1e-9)
    np.testing.assert_allclose(fit(t), volume, rtol=1e-12)
    length = fit_expansion(t, np.cbrt(volume), at_K=300.0, degree=3)
    assert length.alpha.value == pytest.approx(1e-5, rel=1e-3)  # a third


@pytest.mark.parametrize("given", [True, False], ids=["errors given", "errors from scatter"])
def test_expansion_is_inside_the_error_bar(given: bool) -> None:
    rng = np.random.default_rng(5)
    t = np.linspace(100.0, 900.0, 9)
    errors = np.linspace(0.2, 0.6, 9) if given else np.full(9, 0.4)
    found = [
        fit_expansion(
            t, 1000.0 + 0.03 * (t - 300.0) + errors * rng.standard_normal(9), errors=errors if given else None, at_K=300.0
        )
        for _ in range(200)
    ]
    value = np.array([f.alpha.value for f in found])
    bar = np.array([f.alpha.error for f in found])
    assert value.mean() == pytest.approx(3e-5, abs=4.0 * value.std() / np.sqrt(200))
    assert bar.mean() == pytest.approx(value.std(), rel=0.25)
    assert 0.58 < (np.abs(value - 3e-5) < bar).mean() < 0.88


def test_volume_fluctuations() -> None:
    """Gaussian volumes with planted κ_T and enthalpies with planted α: both inside their error bars, and those are right."""
    kt, t, v0, kappa, alpha, p = units.kB * 400.0, 400.0, 1600.0, 0.05, 6e-5, 2.0
    var_v = kappa / units.GPa * kt * v0
    cov = alpha * kt * t * v0
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        dv = np.sqrt(var_v) * correlated(rng, 1500, 0.8)
        dh = cov / var_v * dv + 0.3 * correlated(rng, 1500, 0.8)
        found.append(volume_fluctuations(v0 + dv, -50.0 + dh - p * units.GPa * dv, temperature_K=t, pressure_GPa=p))
    for name, true in (("compressibility", kappa), ("expansion", alpha)):
        value, error = np.array([getattr(f, name) for f in found]).T
        assert value.mean() == pytest.approx(true, abs=4.0 * value.std() / np.sqrt(60))
        assert error.mean() == pytest.approx(value.std(), rel=0.3)
        assert (np.abs(value - true) < 2.0 * error).mean() > 0.85
    assert found[0].bulk_modulus_GPa.value == pytest.approx(1.0 / found[0].compressibility.value)
    assert found[0].linear_expansion.value == pytest.approx(found[0].expansion.value / 3.0)


def test_fluctuations_of_a_log() -> None:
    rng = np.random.default_rng(6)
    volume = 1600.0 + 10.0 * correlated(rng, 500, 0.5)
    log = table(rng, 500, volume_A3=volume)
    by_hand = volume_fluctuations(volume[100:], log["total_eV"][100:], temperature_K=300.0, pressure_GPa=0.0)
    assert fluctuations_of_log(log, temperature_K=300.0, pressure_GPa=0.0, discard_ps=1.0) == by_hand


def test_bad_input() -> None:
    for compute in (average, blocking):
        with pytest.raises(ValueError, match="at least 4 samples"):
            compute(np.arange(3.0))
        with pytest.raises(ValueError, match="1 values that are not finite"):
            compute(np.array([1.0, 2.0, np.nan, 4.0]))
    with pytest.raises(ValueError, match="fluctuations need an npt run"):
        volume_fluctuations(np.full(50, 10.0), np.arange(50.0), temperature_K=300.0, pressure_GPa=0.0)
    with pytest.raises(ValueError, match="temperature_K must be positive"):
        volume_fluctuations(np.arange(50.0), np.arange(50.0), temperature_K=0.0, pressure_GPa=0.0)
    t, v = np.array([1.0, 2.0, 3.0]), np.array([10.0, 11.0, 12.0])
    with pytest.raises(ValueError, match="too few for degree 2"):
        fit_expansion(t, v, at_K=2.0)
    with pytest.raises(ValueError, match="outside the runs, 1 to 3 K"):
        fit_expansion(t, v, errors=np.ones(3), at_K=4.0)
    with pytest.raises(ValueError, match="must be positive and finite"):
        fit_expansion(t, v, errors=np.zeros(3), at_K=2.0)
    with pytest.raises(ValueError, match="equally long"):
        fit_expansion(t, v[:2], at_K=2.0)
