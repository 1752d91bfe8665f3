"""Means of correlated series with an honest error bar, and what they are for a run: the thermodynamic table and the stress.

    mean = (1/n) Σ x,        error² = (2 τ / n) σ²,        σ² = Σ (x − mean)² / (n − 2 τ)

τ ≥ ½ is the integrated autocorrelation time in samples (`conservation.correlation_time`). An oscillation (a volume under a
barostat, say) hides slower motion from it, up to 4 times too small an error; averages of neighbours do not have the oscillation.
So the error is the largest of those of the series and of its block averages (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461
(1989)) as long as 64 blocks are left, which makes it 3 to 8 % too large where there is no oscillation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adatom.md.conservation import correlation_time
from adatom.md.observables.frames import Array

MIN_SAMPLES, MIN_BLOCKS = 4, 64
NOT_AVERAGED = ("step", "time_ps", "rebuilds")


class Average(NamedTuple):
    """mean ± error (one standard error); correlation_samples τ, for which error² = 2 τ σ²/n; samples that were averaged."""

    mean: float
    error: float
    correlation_samples: float
    samples: int

    def __str__(self) -> str:
        return f"{self.mean:.6g} ± {self.error:.2g}"


class Blocking(NamedTuple):
    """Standard error against block size, all (levels,): a plateau is the error of the mean.

    block_sizes in samples; errors; uncertainties of the errors. `error` is that of the smallest block size B with
    B³ > 2 n (error_B / error_1)⁴ (Lee et al., Phys. Rev. E 83, 066706 (2011)), nan where the series is too short to
    reach its plateau.
    """

    block_sizes: Array
    errors: Array
    uncertainties: Array
    error: float


class LogAverages(NamedTuple):
    """Of each column that has values in the rows from `start_ps` on."""

    start_ps: float
    columns: dict[str, Average]


def average(series: Array) -> Average:
    """Mean and standard error of a stationary, correlated series (n,).

    Raises ValueError for fewer than 4 samples, another shape, or values that are not finite.
    """
    x = _checked(series)
    n, mean, variance = len(x), float(x.mean()), float(x.var(ddof=1))
    if variance <= (1e-14 * mean) ** 2:  # constant to rounding
        return Average(mean, 0.0, 0.5, n)
    error = _error(x)
    while len(x) >= 2 * MIN_BLOCKS:
        x = _halved(x)
        error = max(error, _error(x))
    return Average(mean, error, 0.5 * n * error**2 / variance, n)


def blocking(series: Array) -> Blocking:
    """Flyvbjerg–Petersen: halve the series by averaging neighbours until 2 blocks are left. Errors as `average`."""
    x = _checked(series)
    n = len(x)
    sizes: list[int] = []
    errors: list[float] = []
    doubts: list[float] = []
    while len(x) >= 2:
        error = float(np.sqrt(x.var() / (len(x) - 1)))
        sizes.append(2 ** len(sizes))
        errors.append(error)
        doubts.append(error / np.sqrt(2.0 * (len(x) - 1)))
        x = _halved(x)
    b, e = np.array(sizes), np.array(errors)
    long_enough = np.flatnonzero(b.astype(float) ** 3 * e[0] ** 4 >= 2.0 * n * e**4 * (e[0] > 0.0))
    return Blocking(b, e, np.array(doubts), float(e[long_enough[0]]) if len(long_enough) else np.nan)


def equilibration(series: Array, *, trials: int = 40) -> int:
    """How many samples to throw away, at most half: the earliest start that leaves 0.8 of the most independent samples.

    Independent samples are (n − start)/(2τ); Chodera, J. Chem. Theory Comput. 12, 1799 (2016), takes the most itself, which
    throws away much of a run that needs none, as τ is uncertain. 0 for fewer than 20 samples: too few to tell.
    """
    x = _checked(series)
    if len(x) < 20 or np.ptp(x) <= 1e-14 * np.abs(x).max():
        return 0
    starts = np.unique(np.linspace(0, len(x) // 2, trials).astype(int))
    independent = np.array([(len(x) - s) / (2.0 * correlation_time(x[s:])) for s in starts])
    return int(starts[np.flatnonzero(independent >= 0.8 * independent.max())[0]])


def equilibration_ps(log: Mapping[str, Array]) -> float:
    """Time from which potential energy, temperature, pressure and volume of a thermodynamic table are all stationary."""
    watched = [log[c] for c in ("potential_eV", "temperature_K", "pressure_GPa", "volume_A3") if np.isfinite(log[c]).all()]
    start = max((equilibration(x) for x in watched if len(x) >= MIN_SAMPLES), default=0)
    return float(log["time_ps"][start])


def log_averages(log: Mapping[str, Array], *, discard_ps: float | None = None) -> LogAverages:
    """Mean ± error of each column of a thermodynamic table (`read_log`) that is defined in all rows.

    The first `discard_ps` are left out; None finds the equilibration itself (`equilibration_ps`). Raises ValueError
    where fewer than 4 rows are left.
    """
    start = equilibration_ps(log) if discard_ps is None else float(discard_ps)
    keep = log["time_ps"] >= start - 1e-9
    if keep.sum() < MIN_SAMPLES:
        raise ValueError(
            f"{int(keep.sum())} of {len(keep)} rows of the table are left after {start:g} ps, {MIN_SAMPLES} are needed"
        )
    columns = {name: column[keep] for name, column in log.items() if name not in NOT_AVERAGED}
    return LogAverages(start, {name: average(x) for name, x in columns.items() if np.isfinite(x).all()})


def stress_averages(stress: Array) -> tuple[Array, Array]:
    """Mean and standard error of the stress tensor, (3, 3) each, from (frames, 3, 3), in its unit."""
    if stress.ndim != 3 or stress.shape[1:] != (3, 3):
        raise ValueError(f"stress must have shape (frames, 3, 3), not {stress.shape}")
    entries = [[average(stress[:, c, d]) for d in range(3)] for c in range(3)]
    return np.array([[a.mean for a in row] for row in entries]), np.array([[a.error for a in row] for row in entries])


def _error(x: Array) -> float:
    tau = correlation_time(x)
    return float(np.sqrt(2.0 * tau / len(x) * ((x - x.mean()) ** 2).sum() / max(len(x) - 2.0 * tau, 1.0)))


def _halved(x: Array) -> Array:
    """Means of two neighbours each; an odd last one is left out."""
    return 0.5 * (x[0 : len(x) // 2 * 2 : 2] + x[1::2])


def _checked(series: Array) -> Array:
    x = np.asarray(series, dtype=np.float64)
    if x.ndim != 1 or len(x) < MIN_SAMPLES:
        raise ValueError(f"an average with an error bar needs a series of at least {MIN_SAMPLES} samples, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"the series has {int((~np.isfinite(x)).sum())} values that are not finite")
    return x
