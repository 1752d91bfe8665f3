"""Thermal expansion and compressibility, from runs at several temperatures and from the fluctuations of one NPT run.

    α_V = (1/V) dV/dT,        α_L = (1/L) dL/dT = α_V/3 where the expansion is the same in all directions
    α_V = <δV δH>/(k_B T² V),        κ_T = <δV²>/(k_B T V),        H = E + P V

Allen and Tildesley, "Computer simulation of liquids", section 2.5 (2017). Fluctuations are those of classical atoms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ase import units

from adatom.md.observables.averages import Average, average, equilibration_ps
from adatom.md.observables.frames import Array


class Coefficient(NamedTuple):
    """value ± error (one standard error)."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"


@dataclass(frozen=True)
class ExpansionFit:
    """Polynomial X(T) = Σ c_k (T − at_K)^k through volumes or lengths of several runs, and α = X′/X at `at_K`, 1/K.

    covariance (degree + 1, degree + 1) of the coefficients. chi2 over degrees of freedom: about 1 where polynomial and
    errors fit the data (nan where nothing is left over); above 1 the error bars were widened by its root.
    """

    at_K: float
    coefficients: Array
    covariance: Array
    reduced_chi2: float

    @property
    def alpha(self) -> Coefficient:
        """(1/X) dX/dT at `at_K`, 1/K."""
        c0, c1 = self.coefficients[:2]
        gradient = np.zeros(len(self.coefficients))
        gradient[:2] = -c1 / c0**2, 1.0 / c0
        return Coefficient(float(c1 / c0), float(np.sqrt(gradient @ self.covariance @ gradient)))

    def __call__(self, temperature_K: Array) -> Array:
        """X at temperatures."""
        return np.polynomial.polynomial.polyval(np.asarray(temperature_K) - self.at_K, self.coefficients)


class Fluctuations(NamedTuple):
    """Of one NPT run: volumetric expansion 1/K, isothermal compressibility 1/GPa, mean volume Å³."""

    expansion: Coefficient
    compressibility: Coefficient
    volume: Average

    @property
    def linear_expansion(self) -> Coefficient:
        """α_V/3, 1/K: the same in all directions."""
        return Coefficient(self.expansion.value / 3.0, self.expansion.error / 3.0)

    @property
    def bulk_modulus_GPa(self) -> Coefficient:
        """1/κ_T."""
        k, error = self.compressibility
        return Coefficient(1.0 / k, error / k**2)


def fit_expansion(
    temperature_K: Array, values: Array, *, errors: Array | None = None, at_K: float, degree: int = 2
) -> ExpansionFit:
    """Weighted least-squares polynomial through V(T), or L(T), of independent runs, (runs,) each.

    errors: standard errors of the values; without them all weights are the same and the error bar is from the scatter
    around the curve, which needs a run more than there are coefficients. Volumes give the volumetric, lengths the linear
    coefficient. Raises ValueError for too few runs, values and errors that are not positive, and `at_K` outside the runs.
    """
    t, x = np.asarray(temperature_K, dtype=np.float64), np.asarray(values, dtype=np.float64)
    sigma = np.ones_like(x) if errors is None else np.asarray(errors, dtype=np.float64)
    if degree < 1:
        raise ValueError(f"an expansion needs a polynomial of degree 1 or more, not {degree}")
    if not t.ndim == 1 or not t.shape == x.shape == sigma.shape:
        raise ValueError(f"temperatures, values and errors must be equally long series, got {t.shape}, {x.shape}, {sigma.shape}")
    if len(np.unique(t)) <= degree or (errors is None and len(t) <= degree + 1):
        raise ValueError(f"{len(t)} runs at {len(np.unique(t))} temperatures are too few for degree {degree} with an error bar")
    if not ((x > 0.0) & np.isfinite(x)).all() or not ((sigma > 0.0) & np.isfinite(sigma)).all():
        raise ValueError("values and errors must be positive and finite")
    if not t.min() <= at_K <= t.max():
        raise ValueError(f"at_K {at_K:g} is outside the runs, {t.min():g} to {t.max():g} K: that would be extrapolation")
    scale = np.ptp(t)
    powers = ((t - at_K) / scale)[:, None] ** np.arange(degree + 1)
    inverse = np.linalg.pinv(powers / sigma[:, None])
    scaled = inverse @ (x / sigma)
    covariance = inverse @ inverse.T
    residual = (x - powers @ scaled) / sigma
    left = len(t) - degree - 1
    chi2 = float(residual @ residual) / left if left else np.nan
    widen = chi2 if errors is None else max(1.0, chi2) if left else 1.0
    unit = scale ** -np.arange(degree + 1.0)
    covariance *= widen * np.outer(unit, unit)
    return ExpansionFit(float(at_K), scaled * unit, covariance, np.nan if errors is None else chi2)


def volume_fluctuations(volume_A3: Array, energy_eV: Array, *, temperature_K: float, pressure_GPa: float) -> Fluctuations:
    """From volumes and total energies (kinetic included), (samples,) each, of one stationary NPT run.

    temperature_K, pressure_GPa: those of the thermostat and barostat. Error bars are those of the means of δV δH and δV²
    as correlated series; a run of less than some hundred correlation times of the volume gives little more than the order
    of magnitude. Raises ValueError for a volume that does not fluctuate and as `average`.
    """
    if not 0.0 < temperature_K < np.inf or not np.isfinite(pressure_GPa):
        raise ValueError(f"temperature_K must be positive and pressure_GPa a number, not {temperature_K} and {pressure_GPa}")
    v, e = np.asarray(volume_A3, dtype=np.float64), np.asarray(energy_eV, dtype=np.float64)
    if v.shape != e.shape:
        raise ValueError(f"volumes and energies must be equally long series, got {v.shape} and {e.shape}")
    mean = average(v)
    if not mean.error > 0.0:
        raise ValueError(f"the volume is always {mean.mean:g} Å³: fluctuations need an npt run")
    h = e + pressure_GPa * units.GPa * v
    dv, dh = v - v.mean(), h - h.mean()
    kt = units.kB * temperature_K
    lost = 1.0 - min(2.0 * mean.correlation_samples / len(v), 0.5)  # the mean was fitted to the same samples
    expansion = _scaled(average(dv * dh), 1.0 / (kt * temperature_K * mean.mean * lost))
    return Fluctuations(expansion, _scaled(average(dv * dv), units.GPa / (kt * mean.mean * lost)), mean)


def fluctuations_of_log(
    log: Mapping[str, Array], *, temperature_K: float, pressure_GPa: float, discard_ps: float | None = None
) -> Fluctuations:
    """`volume_fluctuations` of a thermodynamic table (`read_log`) from `discard_ps` on; None finds the equilibration."""
    start = equilibration_ps(log) if discard_ps is None else discard_ps
    keep = log["time_ps"] >= start - 1e-9
    return volume_fluctuations(
        log["volume_A3"][keep], log["total_eV"][keep], temperature_K=temperature_K, pressure_GPa=pressure_GPa
    )


def _scaled(a: Average, factor: float) -> Coefficient:
    return Coefficient(a.mean * factor, a.error * factor)
