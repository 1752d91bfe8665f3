"""Pictures: learning curve, parity, molecular dynamics. Written with matplotlib's file backend, never to a screen."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adatom.fitting.metrics import Comparison
from adatom.md.thermo import Thermo
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
