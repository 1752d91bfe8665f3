"""Velocity autocorrelation, vibrational density of states, and diffusion from velocities.

    C_a(t) = <v(t₀) · v(t₀ + t)>                                    over atoms of a and all t₀
    g(ν) = Z⁻¹ Σ_j m_j ∫ c_j(t) w(t) cos 2πνt dt,                   ∫ g dν = degrees of freedom
    D_a = ⅓ ∫₀ᵗ C_a dt′, t → ∞                                      Green–Kubo

Classical particles have k_B T/2 in each degree of freedom, so the mass-weighted spectrum counts vibrations: Dickey and Paskin,
Phys. Rev. 188, 1407 (1969). The zero-frequency value is the diffusion: Lin, Blanco, Goddard, J. Chem. Phys. 119, 11792
(2003). w is a Gaussian, which broadens lines by a Gaussian; correlations are divided by the number of frames, not of
pairs, so that g is never negative. Velocities are relative to that of the centre of mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tidynamics

from adatom.md.observables.diffusion import Diffusion, error_of_parts, lags_in, segments
from adatom.md.observables.frames import Array, Frames

CM_PER_THZ = 1e12 / 2.99792458e10
"""1 THz as a wavenumber, 33.3564 cm⁻¹."""


@dataclass(frozen=True)
class VACF:
    """time_ps (lags,); values of each element (lags,) Å²/ps²."""

    time_ps: Array
    values: dict[str, Array]

    def normalised(self, element: str) -> Array:
        """C(t)/C(0)."""
        return self.values[element] / self.values[element][0]


@dataclass(frozen=True)
class DensityOfStates:
    """frequency_THz (points,) from 0 to what the frame interval can show; states per THz of each element and in all (points,).

    The trapezoid rule over all points gives `degrees_of_freedom` exactly. broadening_THz: full width at half maximum of
    the Gaussian that a sharp line becomes.
    """

    frequency_THz: Array
    values: dict[str, Array]
    total: Array
    degrees_of_freedom: float
    broadening_THz: float

    @property
    def wavenumber_cm(self) -> Array:
        """The same frequencies in cm⁻¹."""
        return self.frequency_THz * CM_PER_THZ

    @property
    def total_per_cm(self) -> Array:
        """States per cm⁻¹."""
        return self.total / CM_PER_THZ


def velocity_autocorrelation(frames: Frames, *, remove_drift: bool = True) -> VACF:
    """All lags from 0 to the whole run.

    Raises ValueError where the frames have no velocities, and for a single atom with `remove_drift`.
    """
    interval, velocities = frames.interval_ps, _velocities(frames, remove_drift)
    values = {name: np.mean([tidynamics.acf(velocities[:, k]) for k in atoms], axis=0) for name, atoms in frames.elements.items()}
    return VACF(np.arange(len(frames)) * interval, values)


def density_of_states(
    frames: Frames, *, broadening_THz: float = 0.2, degrees_of_freedom: float | None = None, remove_drift: bool = True
) -> DensityOfStates:
    """Vibrational density of states; frequencies up to 1/(2 · interval), faster ones are folded back to lower ones.

    degrees_of_freedom: what g integrates to, 3N − 3 (3N without `remove_drift`) unless given: fewer where atoms are fixed.
    Lines are also at least as broad as 0.9/(length of the run). Raises ValueError as `velocity_autocorrelation`, for
    atoms that do not move, and for a broadening that is not positive.
    """
    if not 0.0 < broadening_THz < np.inf:
        raise ValueError(f"broadening_THz must be positive, not {broadening_THz}")
    interval, velocities, n = frames.interval_ps, _velocities(frames, remove_drift), len(frames)
    freedoms = float(degrees_of_freedom or 3 * len(frames.numbers) - 3 * remove_drift)
    sigma_t = np.sqrt(2.0 * np.log(2.0)) / (np.pi * broadening_THz)  # ps; of the Gaussian in time
    lags = min(n, int(np.ceil(8.0 * sigma_t / interval)) + 1)
    time = np.arange(lags) * interval
    damping = (1.0 - np.arange(lags) / n) * np.exp(-0.5 * (time / sigma_t) ** 2)
    weighted = {
        name: damping * np.sum([frames.masses[k] * tidynamics.acf(velocities[:, k])[:lags] for k in atoms], axis=0)
        for name, atoms in frames.elements.items()
    }
    kinetic = sum(float(c[0]) for c in weighted.values())
    if not kinetic > 0.0:
        raise ValueError("the atoms do not move relative to each other: there is no density of states")
    spectra = {  # even continuation 0 … L … 1, whose transform is real
        name: 2.0 * interval * freedoms / kinetic * np.fft.rfft(np.concatenate([c, [0.0], c[:0:-1]])).real
        for name, c in weighted.items()
    }
    return DensityOfStates(
        np.arange(lags + 1) / (2.0 * lags * interval), spectra, np.sum(list(spectra.values()), axis=0), freedoms, broadening_THz
    )


def running_integral(vacf: VACF, element: str) -> Array:
    """⅓ ∫₀ᵗ C dt′ by the trapezoid rule, (lags,) Å²/ps: D where it has become flat."""
    return _integrate(vacf.values[element], float(vacf.time_ps[1]))


def green_kubo(frames: Frames, *, window_ps: tuple[float, float], remove_drift: bool = True) -> dict[str, Diffusion]:
    """D of each element: mean of the running integral over the lag times in `window_ps`, where it should be flat.

    The frames have to be so near in time that the correlation is smooth: a tenth of the shortest period. Error bar:
    `error_of_parts`. Raises ValueError as `velocity_autocorrelation` and `diffusion_coefficients`.
    """
    lags, velocities, interval = lags_in(frames, window_ps), _velocities(frames, remove_drift), frames.interval_ps
    last = int(lags[-1])

    def plateau(part: Array) -> float:
        return float(_integrate(tidynamics.acf(part)[: last + 1], interval)[lags].mean())

    result = {}
    for name, atoms in frames.elements.items():
        of_atoms = np.array([plateau(velocities[:, k]) for k in atoms])
        parts = [np.mean([plateau(velocities[part, k]) for k in atoms]) for part in segments(len(frames), last)]
        window = (float(lags[0] * interval), float(last * interval))
        error = error_of_parts(of_atoms, np.array(parts))
        result[name] = Diffusion(float(of_atoms.mean()), error, window, np.nan, len(atoms), len(parts))
    return result


def _integrate(correlation: Array, interval: float) -> Array:
    steps = 0.5 * interval * (correlation[1:] + correlation[:-1])
    return np.concatenate([[0.0], np.cumsum(steps)]) / 3.0


def _velocities(frames: Frames, remove_drift: bool) -> Array:
    if frames.velocities is None:
        raise ValueError("the trajectory has no velocities: write them (momenta) with the frames")
    if not remove_drift:
        return frames.velocities
    if len(frames.numbers) == 1:
        raise ValueError("a single atom does not move relative to its centre of mass: give remove_drift=False")
    share = frames.masses / frames.masses.sum()
    return frames.velocities - np.einsum("a,tac->tc", share, frames.velocities)[:, None]
