"""Pictures of observables, one function each. Written with matplotlib's file backend, never to a screen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from adatom.md.observables.averages import Blocking, LogAverages
from adatom.md.observables.diffusion import MSD, Diffusion
from adatom.md.observables.expansion import ExpansionFit
from adatom.md.observables.frames import Array
from adatom.md.observables.rdf import RDF
from adatom.md.observables.vibrations import CM_PER_THZ, VACF, DensityOfStates, running_integral
from adatom.potential.model_file import write_atomically


def plot_rdf(rdf: RDF, path: Path) -> None:
    """g_ab(r) of each pair of elements, and the coordination numbers n_ab(r)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (a, b) in enumerate(rdf.g):
        if a <= b:
            left.plot(rdf.r, rdf.g[a, b], lw=1.0, color=f"C{k}", label=f"{a}–{b}")
        right.plot(rdf.edges[1:], rdf.coordination[a, b], lw=1.0, color=f"C{k}", label=f"{b} around {a}")
    left.axhline(1.0, color="0.7", lw=0.7, zorder=0)
    left.set(xlabel="r (Å)", ylabel="g(r)", xlim=(0.0, rdf.edges[-1]), ylim=(0.0, None))
    right.set(xlabel="r (Å)", ylabel="coordination number", xlim=(0.0, rdf.edges[-1]), ylim=(0.0, 20.0))
    _legend(left, right)
    _save(figure, path)


def plot_msd(msd: MSD, path: Path, *, diffusion: Mapping[str, Diffusion] | None = None) -> None:
    """MSD against time, linear and doubly logarithmic, with the fitted lines over their windows."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    half = len(msd.time_ps) // 2 + 1  # longer lags are averages of too few pairs
    time = msd.time_ps[1:half]
    for k, (name, values) in enumerate(msd.values.items()):
        left.plot(time, values[1:half], color=f"C{k}", lw=1.0, label=name)
        if (values[1:half] > 0.0).any():
            right.loglog(time, values[1:half], color=f"C{k}", lw=1.0, label=name)
        if diffusion is not None and name in diffusion:
            d = diffusion[name]
            t = np.linspace(*d.window_ps, 50)
            inside = (msd.time_ps >= d.window_ps[0] * (1 - 1e-6)) & (msd.time_ps <= d.window_ps[1] * (1 + 1e-6))
            line = 6.0 * d.value * (t - msd.time_ps[inside].mean()) + values[inside].mean()
            left.plot(t, line, "k--", lw=1.2)
    for axis in (left, right):
        axis.set(xlabel="lag time (ps)", ylabel="mean square displacement (Å²)")
    _legend(left, right)
    _save(figure, path)


def plot_vacf(vacf: VACF, path: Path, *, max_ps: float | None = None) -> None:
    """C(t)/C(0) and the running Green–Kubo integral of each element, up to `max_ps` (a quarter of the run)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = vacf.time_ps <= (0.25 * vacf.time_ps[-1] if max_ps is None else max_ps)
    for name, values in vacf.values.items():
        if values[0] > 0.0:
            left.plot(vacf.time_ps[shown], vacf.normalised(name)[shown], lw=1.0, label=name)
            right.plot(vacf.time_ps[shown], running_integral(vacf, name)[shown], lw=1.0, label=name)
    left.set(xlabel="lag time (ps)", ylabel="⟨v(0)·v(t)⟩ / ⟨v²⟩")
    right.set(xlabel="lag time (ps)", ylabel="⅓ ∫⟨v·v⟩ dt (Å²/ps)")
    for axis in (left, right):
        axis.axhline(0.0, color="0.7", lw=0.7, zorder=0)
    _legend(left, right)
    _save(figure, path)


def plot_density_of_states(dos: DensityOfStates, path: Path) -> None:
    """States per THz of each element and in all, up to the frequency below which 99.9 % of them lie."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in dos.values.items():
        axis.plot(dos.frequency_THz, values, lw=1.0, label=name)
    if len(dos.values) > 1:
        axis.plot(dos.frequency_THz, dos.total, "k-", lw=1.0, label="total")
    below = np.cumsum(dos.total) / dos.total.sum()
    top = float(dos.frequency_THz[min(int(np.searchsorted(below, 0.999)), len(below) - 1)])
    axis.set(xlabel="frequency (THz)", ylabel="states per THz", xlim=(0.0, 1.1 * top or None), ylim=(0.0, None))
    axis.secondary_xaxis("top", functions=(_to_wavenumber, _to_frequency)).set_xlabel("wavenumber (cm⁻¹)")
    _legend(axis)
    _save(figure, path)


def plot_log(log: Mapping[str, Array], averages: LogAverages, path: Path) -> None:
    """Every column of the thermodynamic table against time, its mean ± error, and what was discarded in grey."""
    names = list(averages.columns)
    figure = Figure(figsize=(9, 1.9 * ((len(names) + 1) // 2) + 0.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots((len(names) + 1) // 2, 2)).ravel()
    for axis, name in zip(panels, names, strict=False):
        mean, error = averages.columns[name][:2]
        axis.plot(log["time_ps"], log[name], lw=0.6)
        axis.axhline(mean, color="k", lw=0.9)
        axis.axhspan(mean - error, mean + error, color="k", alpha=0.2, lw=0.0)
        axis.axvspan(float(log["time_ps"][0]), averages.start_ps, color="0.85", zorder=0)
        axis.set(xlabel="time (ps)", ylabel=name)
    for axis in panels[len(names) :]:
        axis.set_axis_off()
    _save(figure, path)


def plot_blocking(blocks: Blocking, path: Path) -> None:
    """Standard error of the mean against block size: believe the plateau."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(blocks.block_sizes, blocks.errors, yerr=blocks.uncertainties, fmt="o-", ms=3, lw=0.8)
    if np.isfinite(blocks.error):
        axis.axhline(blocks.error, color="k", lw=0.8, ls="--")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="block size (samples)", ylabel="error of the mean", ylim=(0.0, None))
    _save(figure, path)


def plot_expansion(
    temperature_K: Array, values: Array, fit: ExpansionFit, path: Path, *, errors: Array | None = None, label: str = "volume (Å³)"
) -> None:
    """Volumes (or lengths) of the runs and the fitted polynomial, with α where it was taken."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(temperature_K, values, yerr=errors, fmt="o", ms=4, lw=1.0)
    t = np.linspace(np.min(temperature_K), np.max(temperature_K), 200)
    axis.plot(t, fit(t), "k-", lw=0.8)
    axis.axvline(fit.at_K, color="0.7", lw=0.7, zorder=0)
    axis.set(xlabel="temperature (K)", ylabel=label, title=f"α({fit.at_K:g} K) = {fit.alpha} 1/K")
    _save(figure, path)


def _to_wavenumber(frequency: ArrayLike) -> ArrayLike:
    return np.asarray(frequency) * CM_PER_THZ


def _to_frequency(wavenumber: ArrayLike) -> ArrayLike:
    return np.asarray(wavenumber) / CM_PER_THZ


def _legend(*axes: Axes) -> None:
    for axis in axes:
        if 0 < len(axis.get_legend_handles_labels()[1]) <= 16:
            axis.legend(frameon=False, fontsize=8)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png", dpi=130)
    write_atomically(path, buffer.getvalue())
