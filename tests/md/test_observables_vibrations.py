"""Spectra and correlations of oscillators and of noise whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest

from adatom.md.observables import Frames, density_of_states, green_kubo, running_integral, velocity_autocorrelation

DT = 0.005


def frames_of_velocities(velocities: np.ndarray, numbers: list[int], masses: np.ndarray, dt: float = DT) -> Frames:
    f, n = velocities.shape[:2]
    cells = np.broadcast_to(np.eye(3) * 10.0, (f, 3, 3)).copy()
    return Frames(
        np.arange(f) * dt,
        np.array(numbers),
        masses,
        np.cumsum(velocities, axis=0) * dt,
        cells,
        np.ones(3, dtype=bool),
        velocities,
    )


def oscillators(rng: np.random.Generator, n_frames: int, frequency: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Velocities (frames, atoms, 3) of independent oscillators with the same energy each. frequency (atoms,) THz."""
    t = np.arange(n_frames)[:, None, None] * DT
    phase = rng.uniform(0.0, 2.0 * np.pi, (1, len(masses), 3))
    return np.cos(2.0 * np.pi * frequency[:, None] * t + phase) / np.sqrt(masses)[:, None]


def noise(rng: np.random.Generator, n_frames: int, atoms: int, friction: float, dt: float) -> np.ndarray:
    """Ornstein–Uhlenbeck velocities, <v²> = 3: <v(0)·v(t)> = 3 exp(−friction t), D = 1/friction."""
    memory = np.exp(-friction * dt)
    v = rng.standard_normal((n_frames, atoms, 3))
    v[1:] *= np.sqrt(1.0 - memory**2)
    for k in range(1, n_frames):
        v[k] += memory * v[k - 1]
    return v


def test_oscillators_have_their_lines() -> None:
    """H at 30 THz, Si at 8 THz: the lines are there, as wide as asked, and each atom has 3 degrees of freedom in its own."""
    masses, numbers = np.array([1.0] * 4 + [28.0] * 6), [1] * 4 + [14] * 6
    frequency = np.where(masses < 2.0, 30.0, 8.0)
    velocities = oscillators(np.random.default_rng(0), 6000, frequency, masses)
    dos = density_of_states(frames_of_velocities(velocities, numbers, masses), broadening_THz=0.5, remove_drift=False)
    nu = dos.frequency_THz
    assert nu[-1] == pytest.approx(0.5 / DT)
    for name, line, states in (("H", 30.0, 12.0), ("Si", 8.0, 18.0)):
        g = dos.values[name]
        assert nu[np.argmax(g)] == pytest.approx(line, abs=0.03)
        assert np.trapezoid(g, nu) == pytest.approx(states, rel=1e-3)
        near = np.abs(nu - line) < 1.0
        assert np.trapezoid(g[near], nu[near]) == pytest.approx(states, rel=0.01)
        fine = np.linspace(line - 1.0, line + 1.0, 2001)
        above = fine[np.interp(fine, nu, g) > 0.5 * g.max()]
        assert np.ptp(above) == pytest.approx(0.5, abs=0.03)
        assert g.min() > -1e-6 * g.max()
    assert dos.degrees_of_freedom == 30.0
    assert np.trapezoid(dos.total, nu) == pytest.approx(30.0, rel=1e-12)
    assert np.trapezoid(dos.total_per_cm, dos.wavenumber_cm) == pytest.approx(30.0, rel=1e-12)
    assert dos.wavenumber_cm[np.argmax(dos.values["H"])] == pytest.approx(30.0 * 33.35641, abs=1.0)


def test_white_noise_is_flat_and_never_negative() -> None:
    velocities = np.random.default_rng(1).standard_normal((4000, 20, 3))
    dos = density_of_states(frames_of_velocities(velocities, [18] * 20, np.full(20, 40.0)), broadening_THz=2.0)
    assert dos.degrees_of_freedom == 57.0
    assert np.trapezoid(dos.total, dos.frequency_THz) == pytest.approx(57.0, rel=1e-12)
    assert dos.total == pytest.approx(57.0 / 100.0, rel=0.25)
    assert dos.total.min() >= 0.0
    fixed = density_of_states(frames_of_velocities(velocities, [18] * 20, np.full(20, 40.0)), degrees_of_freedom=30.0)
    assert np.trapezoid(fixed.total, fixed.frequency_THz) == pytest.approx(30.0, rel=1e-12)


def test_vacf_is_the_double_sum() -> None:
    rng = np.random.default_rng(2)
    masses = np.array([1.0, 16.0, 1.0])
    v = rng.standard_normal((40, 3, 3)) + 2.0
    vacf = velocity_autocorrelation(frames_of_velocities(v, [1, 8, 1], masses))
    u = v - np.einsum("a,tac->tc", masses / 18.0, v)[:, None]
    direct = [(u[lag:, [0, 2]] * u[: 40 - lag, [0, 2]]).sum(axis=2).mean() for lag in range(40)]
    np.testing.assert_allclose(vacf.values["H"], direct, rtol=1e-9, atol=1e-12)
    assert vacf.normalised("H")[0] == 1.0
    assert running_integral(vacf, "H")[2] == pytest.approx(DT * (0.5 * direct[0] + direct[1] + 0.5 * direct[2]) / 3.0)


def test_green_kubo_is_inside_the_error_bar() -> None:
    """Ornstein–Uhlenbeck: D = 1/friction within 0.1 % of the rest of the integral and of the trapezoid rule."""
    runs = [
        green_kubo(
            frames_of_velocities(noise(np.random.default_rng(seed), 1000, 16, 4.0, 0.02), [3] * 16, np.ones(16), dt=0.02),
            window_ps=(1.6, 2.4), remove_drift=False,
        )["Li"]
        for seed in range(40)
    ]  # fmt: skip
    value, error = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert value.mean() == pytest.approx(0.25, abs=4.0 * value.std() / np.sqrt(40))
    assert error.mean() == pytest.approx(value.std(), rel=0.35)
    assert (np.abs(value - 0.25) < error).mean() > 0.5
    assert (np.abs(value - 0.25) < 2.0 * error).mean() > 0.85


def test_bad_input() -> None:
    v = np.zeros((20, 2, 3))
    frames = frames_of_velocities(v, [1, 1], np.ones(2))
    with pytest.raises(ValueError, match="do not move"):
        density_of_states(frames)
    with pytest.raises(ValueError, match="broadening_THz must be positive"):
        density_of_states(frames, broadening_THz=0.0)
    still = Frames(frames.time_ps, frames.numbers, frames.masses, frames.positions, frames.cells, frames.pbc)
    for compute in (density_of_states, velocity_autocorrelation):
        with pytest.raises(ValueError, match="no velocities"):
            compute(still)
    with pytest.raises(ValueError, match="remove_drift=False"):
        velocity_autocorrelation(frames_of_velocities(v[:, :1], [1], np.ones(1)))
