"""Mean square displacement and the diffusion coefficient of each element.

    MSD_a(t) = <|r(t₀ + t) − r(t₀)|²>  over atoms of a and all t₀,        MSD_a(t) → 6 D_a t + constant

Einstein, Ann. Phys. 322, 549 (1905). Averages over all t₀ by FFT: Calandrini et al., Collection SFN 12, 201 (2011), in
`tidynamics` (de Buyl, J. Open Source Softw. 3, 877 (2018)). The motion of the centre of mass is taken out, as is the
breathing of a fluctuating cell. In periodic cells D is too small by k_B T ξ/(6π η L), ξ = 2.837297 for a cube: Yeh and
Hummer, J. Phys. Chem. B 108, 15873 (2004); this is not corrected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tidynamics

from adatom.md.observables.frames import Array, Frames
from adatom.md.observables.unwrapping import looks_wrapped, unwrap, without_breathing

TO_CM2_PER_S = 1e-4
"""1 Å²/ps in cm²/s."""
MAX_SEGMENTS, MIN_SEGMENTS, MIN_ATOMS = 20, 4, 8
SEGMENT = 4
"""A time segment is at least so many times as long as the longest lag that is used."""


@dataclass(frozen=True)
class MSD:
    """time_ps (lags,); values of each element (lags,) Å²; atoms of each element."""

    time_ps: Array
    values: dict[str, Array]
    atoms: dict[str, int]


@dataclass(frozen=True)
class Diffusion:
    """D of one element in Å²/ps with one standard error (nan: too few atoms and too short a run for one).

    window_ps: the lag times that were used. exponent: d ln MSD/d ln t there (1 where it is diffusion, 0 where atoms stay
    at their sites, 2 for free flight), nan from velocities. atoms and time segments: what the error was estimated from.
    """

    value: float
    error: float
    window_ps: tuple[float, float]
    exponent: float
    atoms: int
    segments: int

    @property
    def value_cm2_s(self) -> float:
        """D in cm²/s."""
        return self.value * TO_CM2_PER_S

    @property
    def error_cm2_s(self) -> float:
        """Standard error in cm²/s."""
        return self.error * TO_CM2_PER_S

    def __str__(self) -> str:
        if np.isnan(self.error):
            why = f"no error bar: {self.atoms} atoms, {self.segments} time segments"
            return f"{self.value_cm2_s:.1e} cm²/s = {self.value:.2g} Å²/ps, {why}"
        return f"({self.value_cm2_s:.3e} ± {self.error_cm2_s:.1e}) cm²/s = {self.value:.4g} ± {self.error:.2g} Å²/ps"


def mean_square_displacement(frames: Frames, *, remove_drift: bool = True, wrapped: bool = False) -> MSD:
    """All lags from 0 to the whole run; the last are averages over few t₀.

    remove_drift: displacements are relative to the centre of mass of all atoms. wrapped: the positions were put back into
    the cell by another program and are unwrapped first. Raises ValueError for wrapped positions that were not announced,
    for a single atom with `remove_drift`, and as `Frames.interval_ps`.
    """
    interval = frames.interval_ps
    paths = _paths(frames, remove_drift=remove_drift, wrapped=wrapped)
    values = {name: np.mean([_msd(paths[:, k]) for k in atoms], axis=0) for name, atoms in frames.elements.items()}
    return MSD(np.arange(len(frames)) * interval, values, {name: len(atoms) for name, atoms in frames.elements.items()})


def diffusion_coefficients(
    frames: Frames, *, window_ps: tuple[float, float], remove_drift: bool = True, wrapped: bool = False
) -> dict[str, Diffusion]:
    """D of each element: the slope of its MSD over the lag times in `window_ps`, by least squares, divided by 6.

    The window has to begin where the MSD has become a straight line; the error bar does not know whether it has (look at
    `exponent` and the picture). The error is `error_of_parts`. remove_drift, wrapped, errors: `mean_square_displacement`;
    and ValueError for a window that has fewer than 3 lags or reaches beyond half the run.
    """
    lags = lags_in(frames, window_ps)
    paths = _paths(frames, remove_drift=remove_drift, wrapped=wrapped)
    t = lags * frames.interval_ps
    weights = (t - t.mean()) / ((t - t.mean()) ** 2).sum() / 6.0  # slope/6 = weights · MSD(t)
    result = {}
    for name, atoms in frames.elements.items():
        of_atoms = np.array([_msd(paths[:, k])[lags] for k in atoms])
        slopes = of_atoms @ weights
        parts = np.array(
            [[_msd(paths[part, k])[lags] @ weights for k in atoms] for part in segments(len(frames), int(lags[-1]))]
        ).reshape(-1, len(atoms))
        msd = of_atoms.mean(axis=0)
        exponent = float(np.polyfit(np.log(t), np.log(msd), 1)[0]) if (msd > 0.0).all() else np.nan
        error = error_of_parts(slopes, parts.mean(axis=1))
        result[name] = Diffusion(float(slopes.mean()), error, (float(t[0]), float(t[-1])), exponent, len(atoms), len(parts))
    return result


def error_of_parts(of_atoms: Array, of_segments: Array) -> float:
    """Standard error of a mean over atoms and time, the larger of two estimates; nan where neither can be made.

    From the scatter of the atoms (atoms,), each averaged over the whole run: right where atoms move independently,
    needs no independent times, used from 8 atoms on. From the scatter of the time segments (segments,), each averaged
    over the atoms: right where they move together too, used from 4 segments on.
    """
    estimates = [
        float(x.std(ddof=1) / np.sqrt(len(x)))
        for x, least in ((of_atoms, MIN_ATOMS), (of_segments, MIN_SEGMENTS))
        if len(x) >= least
    ]
    return max(estimates, default=np.nan)


def segments(n_frames: int, longest_lag: int) -> list[slice]:
    """Equal parts of the run, not overlapping, at least 4 times as long as the longest lag; at most 20."""
    count = min(MAX_SEGMENTS, n_frames // (SEGMENT * longest_lag + 1))
    length = n_frames // max(count, 1)
    return [slice(k * length, (k + 1) * length) for k in range(count)]


def lags_in(frames: Frames, window_ps: tuple[float, float]) -> Array:
    """Indices of the lags in a window, at least 3. Raises ValueError for any other window."""
    start, stop = window_ps
    interval = frames.interval_ps
    span = interval * (len(frames) - 1)
    if not 0.0 <= start < stop <= 0.5 * span * (1.0 + 1e-9):
        raise ValueError(
            f"window_ps must be two increasing lag times of at most half the run of {span:g} ps, not ({start:g}, {stop:g})"
        )
    first = max(1, int(np.ceil(start / interval - 1e-6)))
    last = int(np.floor(stop / interval + 1e-6))
    if last - first < 2:
        raise ValueError(
            f"window_ps ({start:g}, {stop:g}) holds {max(0, last - first + 1)} lags of {interval:g} ps, 3 are needed"
        )
    return np.arange(first, last + 1)


def _paths(frames: Frames, *, remove_drift: bool, wrapped: bool) -> Array:
    if remove_drift and len(frames.numbers) == 1:
        raise ValueError("a single atom does not move relative to its centre of mass: give remove_drift=False")
    if wrapped:
        frames = unwrap(frames)
    elif looks_wrapped(frames):
        raise ValueError("atoms jump from one side of the cell to the other: the positions are wrapped, give wrapped=True")
    paths = without_breathing(frames)
    if remove_drift:
        share = frames.masses / frames.masses.sum()
        paths = paths - np.einsum("a,tac->tc", share, paths)[:, None]
    return paths


def _msd(path: Array) -> Array:
    """(frames,) of one atom's path (frames, 3), centred: sums of squares must not lose its digits."""
    return np.maximum(tidynamics.msd(path - path.mean(axis=0)), 0.0)
