"""Mean square displacements and diffusion coefficients of motions whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adatom.md.observables import (
    Frames,
    diffusion_coefficients,
    looks_wrapped,
    mean_square_displacement,
    unwrap,
    without_breathing,
)

CELL = np.array([[8.0, 0.0, 0.0], [3.5, 7.0, 0.0], [-3.0, 3.0, 9.0]])
DT = 0.1


def frames_of_paths(positions: np.ndarray, numbers: list[int], cells: np.ndarray = CELL) -> Frames:
    f, n = positions.shape[:2]
    cells = np.broadcast_to(cells, (f, 3, 3)).copy()
    return Frames(np.arange(f) * DT, np.array(numbers), np.linspace(1.0, 30.0, n), positions, cells, np.ones(3, dtype=bool))


def brownian(rng: np.random.Generator, n_frames: int, d: np.ndarray) -> np.ndarray:
    """Paths (frames, atoms, 3) of independent atoms with coefficients d (atoms,) Å²/ps."""
    steps = rng.standard_normal((n_frames, len(d), 3)) * np.sqrt(2.0 * d * DT)[:, None]
    return np.cumsum(steps, axis=0)


def test_msd_is_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    paths = brownian(rng, 30, np.full(4, 0.3)) + 1000.0  # far from the origin: no digits may be lost
    frames = frames_of_paths(paths, [1, 8, 1, 8])
    msd = mean_square_displacement(frames)
    share = frames.masses / frames.masses.sum()
    x = paths - np.einsum("a,tac->tc", share, paths)[:, None]
    for name, atoms in (("H", [0, 2]), ("O", [1, 3])):
        direct = [((x[lag:, atoms] - x[: 30 - lag, atoms]) ** 2).sum(axis=2).mean() for lag in range(30)]
        np.testing.assert_allclose(msd.values[name], direct, rtol=1e-9, atol=1e-12)
        assert msd.atoms[name] == 2
    np.testing.assert_allclose(msd.time_ps, DT * np.arange(30))


def test_free_flight_and_common_drift() -> None:
    """Constant velocities: MSD = v² t², exponent 2; a velocity common to all changes nothing unless asked for."""
    t = np.arange(50) * DT
    v = np.array([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0]])
    paths = t[:, None, None] * v
    frames = replace(frames_of_paths(paths, [6, 6]), masses=np.ones(2))
    relative = v - v.mean(axis=0)
    expected = (relative**2).sum(axis=1).mean() * t**2
    np.testing.assert_allclose(mean_square_displacement(frames).values["C"], expected, rtol=1e-9, atol=1e-10)
    drifting = replace(frames, positions=paths + 7.0 * t[:, None, None])
    np.testing.assert_allclose(mean_square_displacement(drifting).values["C"], expected, rtol=1e-9, atol=1e-8)
    whole = mean_square_displacement(drifting, remove_drift=False).values["C"]
    np.testing.assert_allclose(whole, ((v + 7.0) ** 2).sum(axis=1).mean() * t**2, rtol=1e-9, atol=1e-8)
    assert diffusion_coefficients(frames, window_ps=(0.5, 2.0))["C"].exponent == pytest.approx(2.0)


def test_brownian_motion_is_inside_the_error_bar() -> None:
    """Over many runs: no bias, error bars as wide as the scatter, D inside them as often as in a normal distribution."""
    d = np.where(np.arange(24) < 12, 0.3, 0.05)
    numbers = [3] * 12 + [17] * 12
    runs = [
        diffusion_coefficients(
            frames_of_paths(brownian(np.random.default_rng(seed), 400, d), numbers), window_ps=(0.5, 2.0), remove_drift=False
        )
        for seed in range(60)
    ]
    for name, true in (("Li", 0.3), ("Cl", 0.05)):
        value, error = (np.array([getattr(r[name], x) for r in runs]) for x in ("value", "error"))
        assert value.mean() == pytest.approx(true, abs=4.0 * value.std() / np.sqrt(60))
        assert error.mean() == pytest.approx(value.std(), rel=0.3)
        assert 0.55 < (np.abs(value - true) < error).mean() < 0.87
        assert (np.abs(value - true) < 2.0 * error).mean() > 0.88
        assert runs[0][name].exponent == pytest.approx(1.0, abs=0.1)
        assert runs[0][name].segments == 4
        assert runs[0][name].value_cm2_s == pytest.approx(1e-4 * runs[0][name].value)


def test_atoms_that_move_together_do_not_count_as_many() -> None:
    """One Brownian path shared by all atoms: the error bar is that of one."""
    paths = [np.repeat(brownian(np.random.default_rng(s), 600, np.array([0.3])), 10, axis=1) for s in range(50)]
    runs = [diffusion_coefficients(frames_of_paths(p, [3] * 10), window_ps=(0.3, 1.0), remove_drift=False)["Li"] for p in paths]
    value, error = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert error.mean() == pytest.approx(value.std(), rel=0.35)
    assert (np.abs(value - 0.3) < error).mean() > 0.5


def test_few_atoms_and_a_short_run_have_no_error_bar() -> None:
    d = diffusion_coefficients(
        frames_of_paths(brownian(np.random.default_rng(0), 40, np.full(3, 0.3)), [3] * 3), window_ps=(0.5, 1.9)
    )
    assert np.isfinite(d["Li"].value)
    assert np.isnan(d["Li"].error)


@pytest.mark.parametrize("breathing", [0.0, 0.03])
def test_wrapped_positions_are_unwrapped(breathing: float) -> None:
    """Put into the cell of each frame and taken out again: the same path, up to where the first frame was wrapped."""
    rng = np.random.default_rng(3)
    cells = CELL * (1.0 + breathing * rng.standard_normal((200, 1, 1)))
    fractions = brownian(rng, 200, np.full(6, 0.4)) @ np.linalg.inv(CELL)
    fractions += 0.12 * np.arange(200)[:, None, None] * np.array([1.0, 0.5, -0.2])  # so far that 3 % of it is half a cell
    paths = np.einsum("tac,tcd->tad", fractions, cells)
    wrapped = np.einsum("tac,tcd->tad", fractions % 1.0, cells)
    frames = frames_of_paths(wrapped, [11] * 6, cells)
    assert looks_wrapped(frames)
    assert not looks_wrapped(frames_of_paths(paths, [11] * 6, cells))
    moved = np.einsum("tac,tcd->tad", fractions - np.floor(fractions[0]), cells)
    np.testing.assert_allclose(unwrap(frames).positions, moved, atol=1e-9)
    truth = mean_square_displacement(frames_of_paths(paths, [11] * 6, cells))
    np.testing.assert_allclose(
        mean_square_displacement(frames, wrapped=True).values["Na"], truth.values["Na"], rtol=1e-7, atol=1e-7
    )
    with pytest.raises(ValueError, match="give wrapped=True"):
        mean_square_displacement(frames)


def test_unwrapping_in_the_periodic_directions_only() -> None:
    t = np.arange(100.0)
    path = np.stack([0.5 * t, 0.1 * t, -0.6 * t], axis=1)[:, None]
    frames = replace(frames_of_paths(path.copy(), [1], np.diag([5.0, 0.0, 4.0])), pbc=np.array([True, False, True]))
    wrapped = replace(frames, positions=np.stack([path[..., 0] % 5.0, path[..., 1], path[..., 2] % 4.0], axis=-1))
    np.testing.assert_allclose(unwrap(wrapped).positions, path, atol=1e-9)


def test_steps_of_half_a_cell_cannot_be_unwrapped() -> None:
    path = np.array([[[0.0, 0.0, 0.0]], [[2.4, 0.0, 0.0]]])
    with pytest.raises(ValueError, match=r"atom 0 moves 2.40 Å between frames 0 and 1, the cell is only 5.00 Å high"):
        unwrap(frames_of_paths(path, [1], np.diag([5.0, 6.0, 7.0])))


def test_a_breathing_crystal_does_not_diffuse() -> None:
    """Atoms at fixed fractions of a cell that changes size and shape."""
    rng = np.random.default_rng(4)
    cells = CELL + 0.1 * rng.standard_normal((50, 3, 3))
    fractions = rng.uniform(0.0, 5.0, (7, 3))
    frames = frames_of_paths(np.einsum("ac,tcd->tad", fractions, cells), [14] * 7, cells)
    assert np.ptp(frames.positions, axis=0).max() > 0.5
    np.testing.assert_allclose(without_breathing(frames), np.broadcast_to(fractions @ cells.mean(axis=0), (50, 7, 3)), atol=1e-10)
    assert mean_square_displacement(frames).values["Si"].max() < 1e-9


def test_bad_input() -> None:
    frames = frames_of_paths(brownian(np.random.default_rng(0), 100, np.full(2, 0.1)), [1, 1])
    for window in ((2.0, 1.0), (-1.0, 2.0), (1.0, 6.0)):
        with pytest.raises(ValueError, match="at most half the run of 9.9 ps"):
            diffusion_coefficients(frames, window_ps=window)
    with pytest.raises(ValueError, match="holds 2 lags of 0.1 ps, 3 are needed"):
        diffusion_coefficients(frames, window_ps=(1.0, 1.15))
    with pytest.raises(ValueError, match="remove_drift=False"):
        mean_square_displacement(frames_of_paths(frames.positions[:, :1], [1]))
    uneven = replace(frames, time_ps=np.append(frames.time_ps[:-1], 20.0))
    with pytest.raises(ValueError, match="not evenly spaced"):
        mean_square_displacement(uneven)
    with pytest.raises(ValueError, match="positions has shape"):
        replace(frames, positions=frames.positions[:-1])
    with pytest.raises(ValueError, match="not finite"):
        replace(frames, positions=frames.positions * np.nan)
