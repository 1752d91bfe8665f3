"""How well a run conserves what it should: the drift by a straight line, and what is left around the line.

    E(t)/N = a + b t + residual,      drift b,      error of b = σ_OLS(b) · sqrt(2 τ)

τ ≥ ½ is the integrated autocorrelation time of the residuals in samples (window of Sokal, "Monte Carlo methods in
statistical mechanics" (1989): the first w ≥ 5 τ(w)): energies logged every few steps are anything but independent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Drift(NamedTuple):
    """slope ± error in eV/atom/ns; rms of the residuals in eV/atom; samples that were fitted."""

    slope: float
    error: float
    rms: float
    samples: int

    def __str__(self) -> str:
        return f"drift {self.slope:+.2e} ± {self.error:.1e} eV/atom/ns, rms fluctuation {self.rms:.1e} eV/atom"


def energy_drift(time_ps: np.ndarray, energy_eV: np.ndarray, n_atoms: int) -> Drift:
    """Least-squares line through a conserved energy. time_ps, energy_eV (samples,): total energies, not per atom.

    Raises ValueError for fewer than 4 samples, unequal lengths, or values that are not finite.
    """
    t, e = np.asarray(time_ps, dtype=np.float64) * 1e-3, np.asarray(energy_eV, dtype=np.float64)
    if t.shape != e.shape or t.ndim != 1 or len(t) < 4:
        raise ValueError(f"a drift needs two equally long series of at least 4 samples, got {t.shape} and {e.shape}")
    if not (np.isfinite(t).all() and np.isfinite(e).all()):
        raise ValueError(f"the energy series has {int((~np.isfinite(e)).sum())} values that are not finite")
    if n_atoms < 1 or np.ptp(t) == 0.0:
        raise ValueError(f"a drift needs atoms and times that differ; got {n_atoms} atoms over {np.ptp(t):g} ns")
    t, e = t - t.mean(), (e - e.mean()) / n_atoms
    spread = float(t @ t)
    slope = float(t @ e) / spread
    residual = e - slope * t
    squares = float(residual @ residual)
    error = np.sqrt(squares / (len(t) - 2) / spread * 2.0 * correlation_time(residual))
    return Drift(slope, float(error), float(np.sqrt(squares / len(t))), len(t))


def correlation_time(series: np.ndarray) -> float:
    """Integrated autocorrelation time ½ + Σ ρ(k) in samples, at least ½."""
    x = series - series.mean()
    n = len(x)
    power = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    covariance = np.fft.irfft(power)[:n]
    if not covariance[0] > 0.0:
        return 0.5
    tau = np.cumsum(covariance / covariance[0]) - 0.5
    enough = np.flatnonzero(np.arange(n) >= 5.0 * tau)
    return max(0.5, float(tau[enough[0] if len(enough) else -1]))
