"""Pictures: learning curve, parity, calibration, dynamics. Written with matplotlib's file backend, never to a screen."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adatom.fitting.calibration import Errors, floored, rank
from adatom.fitting.metrics import Comparison
from adatom.md.thermo import Thermo
from adatom.potential.committee import Calibration
from adatom.potential.model_file import write_atomically


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png", dpi=130)
    write_atomically(path, buffer.getvalue())


def learning_curve(log: Path, path: Path) -> None:
    """RMSE of training and validation against epochs, from log.jsonl."""
    lines = [json.loads(x) for x in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = (
        ("energy_rmse", "energy RMSE (meV/atom)"),
        ("forces_rmse", "force RMSE (meV/Å)"),
        ("stress_rmse", "stress RMSE (GPa)"),
    )
    for axis, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for part, style in (("train", "C0-"), ("validation", "C1-")):
            points = [(x["epoch"], x[part][key]) for x in lines if x.get(part) and x[part][key]]
            if points:
                axis.loglog(*zip(*points, strict=True), style, label=part)
        axis.set(xlabel="epoch", ylabel=label)
        if axis.lines:
            axis.legend(frameon=False)
    _save(figure, path)


def parity(comparison: Comparison, path: Path) -> None:
    """Predicted against labelled energies per atom, force components and stress components, coloured by config_type."""
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    panels = (
        ("energy", "energy (eV/atom)"),
        ("forces", "force component (eV/Å)"),
        ("stress", "stress component (GPa)"),
    )
    for axis, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        x, y, frame = getattr(comparison, key)
        for name in comparison.config_types:
            pick = comparison.of_type(name)[frame]
            axis.plot(x[pick], y[pick], ".", ms=3, alpha=0.6, label=name[:24], rasterized=True)
        if len(x):
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axis.plot(ends, ends, "k-", lw=0.7)
        else:
            axis.text(0.5, 0.5, "no labels", ha="center", transform=axis.transAxes)
        axis.set(xlabel=f"DFT {label}", ylabel=f"potential {label}")
        if key == "energy" and 1 < len(comparison.config_types) <= 14:
            axis.legend(frameon=False, fontsize=6, markerscale=2)
    _save(figure, path)


def calibration(
    known: Calibration, pairs: dict[str, Errors], found: dict[str, list[float]], path: Path, *, on: str
) -> None:  # fmt: skip
    """Parts of errors below their bound against the parts promised; errors against σ, dots and their root mean squares."""
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].plot([0, 1], [0, 1], "k-", lw=0.7)
    for name, parts in found.items():
        axes[0].plot(getattr(known, name).nominal, parts, "o-", label=name)
    axes[0].set(xlabel="part promised", ylabel=f"part found on {on}", xlim=(0.4, 1), ylim=(0, 1.02), title="errors below bound")
    axes[0].legend(frameon=False)
    units = {"energy": "eV a frame", "forces": "eV/Å an atom"}
    for axis, (name, x) in zip(axes[1:], pairs.items(), strict=False):
        sigma, error = getattr(known, name).scale * floored(x.spread), np.maximum(x.error, 1e-12)
        axis.loglog(sigma, error, ".", ms=2, alpha=0.4, rasterized=True)
        groups = np.array_split(np.argsort(sigma), max(1, min(10, len(sigma) // 8)))
        points = [(np.sqrt((sigma[k] ** 2).mean()), np.sqrt((error[k] ** 2).mean())) for k in groups]
        axis.loglog(*zip(*points, strict=True), "C3o-", label="root mean squares")
        ends = [min(p[0] for p in points), max(p[0] for p in points)]
        axis.loglog(ends, ends, "k-", lw=0.7, label="error = σ")
        axis.set(xlabel=f"σ ({units[name]})", ylabel="error", title=f"{name}: rank correlation {rank(x):.2f}")
        axis.set_ylim(bottom=1e-3 * max(p[1] for p in points))
        axis.legend(frameon=False)
    _save(figure, path)


def dynamics(rows: Sequence[Thermo], path: Path, *, title: str, n_atoms: int) -> None:
    """Temperature, and the change of the conserved energy (the total energy where nothing is) per atom, against time."""
    table = {name: np.array(column) for name, column in zip(Thermo._fields, zip(*rows, strict=True), strict=True)}
    conserved = np.isfinite(table["conserved_eV"]).all()
    energy = table["conserved_eV" if conserved else "total_eV"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(table["time_ps"], table["temperature_K"], "C3-", lw=0.8)
    left.set(xlabel="time (ps)", ylabel="temperature (K)")
    right.plot(table["time_ps"], 1e3 * (energy - energy[0]) / n_atoms, "C0-", lw=0.8)
    right.set(xlabel="time (ps)", ylabel=f"Δ {'conserved' if conserved else 'total'} energy (meV/atom)")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)
