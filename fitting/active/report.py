"""The report of a campaign: every iteration in one table and four plots, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adatom.potential.model_file import write_atomically

Report = dict[str, Any]


def reports(directory: Path) -> list[Report]:
    """Of the iterations that are finished, in order."""
    return [json.loads(p.read_text()) for p in sorted(directory.glob("iteration-*/report.json"))]


def rows(found: list[Report]) -> list[dict[str, str]]:
    """One an iteration, in words and numbers."""
    return [{name: cell(r) for name, cell in COLUMNS.items()} for r in found]


def table(found: list[Report]) -> str:
    """For a terminal."""
    lines = rows(found)
    widths = {name: max([len(name), *(len(x[name]) for x in lines)]) for name in COLUMNS}
    text = ["  ".join(f"{name:>{w}}" for name, w in widths.items())]
    return "\n".join(text + ["  ".join(f"{x[name]:>{w}}" for name, w in widths.items()) for x in lines])


def _explored(key: str) -> Callable[[Report], str]:
    return lambda r: f"{100 * r['explored'][key]:.1f}" if "explored" in r else "–"


def _error(part: str, name: str, digits: int = 1) -> Callable[[Report], str]:
    def cell(r: Report) -> str:
        value = (r.get(part) or {}).get(name)
        return "–" if value is None else f"{value:.{digits}f}"

    return cell


def _covered(r: Report) -> str:
    coverage = (r.get("new_labels") or {}).get("coverage")
    if not coverage:
        return "–"
    forces = coverage["forces"]
    return f"{100 * forces['found'][forces['nominal'].index(0.9)]:.0f}"


COLUMNS: dict[str, Callable[[Report], str]] = {
    "iteration": lambda r: str(r["iteration"]),
    "labels": lambda r: str(r["labels_total"]),
    "new": lambda r: str(r["labels"]["done"]),
    "failed": lambda r: str(r["labels"]["failed"] + r["labels"]["rejected"]),
    "core h": lambda r: f"{r['core_hours']:.2f}",
    "accurate %": _explored("accurate"),
    "candidate %": _explored("candidate"),
    "beyond %": _explored("failed"),
    "E new": _error("new_labels", "energy"),
    "F new": _error("new_labels", "forces"),
    "F<σ90 %": _covered,
    "E test": _error("test", "energy"),
    "F test": _error("test", "forces"),
    "F valid.": _error("validation", "forces"),
}
UNITS = (
    "E: RMSE, meV/atom; F: RMSE of components, meV/Å; new: labels of the iteration, before training on them; F<σ90: force errors "
    "of new labels below the bound promised for 90 %"
)


def write_report(directory: Path) -> None:
    """report.html of what is finished; nothing where nothing is."""
    found = reports(directory)
    if not found:
        return
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _errors(axes[0][0], found)
    _fractions(axes[0][1], found)
    _calibration(axes[1][0], found)
    _deviations(axes[1][1], found)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    picture = base64.b64encode(buffer.getvalue()).decode()
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in x.values()) + "</tr>" for x in rows(found))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>adatom learn</title>'
        "<style>body{font:15px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
        "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}img{max-width:100%}</style>"
        f"<h1>Active learning: {html.escape(directory.resolve().name)}</h1><table><tr>{head}</tr>{body}</table>"
        f'<p>{html.escape(UNITS)}</p><img alt="plots" src="data:image/png;base64,{picture}"></html>'
    )
    write_atomically(directory / "report.html", page.encode())


def _errors(axis: Axes, found: list[Report]) -> None:
    for part, label in (("test", "test"), ("validation", "validation"), ("new_labels", "new labels, before training")):
        points = [(_before(found, r), r[part]["forces"]) for r in found if r.get(part) and r[part].get("forces")]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", label=label)
    axis.set(xlabel="labels trained on", ylabel="force RMSE (meV/Å)", yscale="log", title="learning curve")
    if axis.lines:
        axis.legend(frameon=False)


def _before(found: list[Report], r: Report) -> int:
    """Labels there were when the iteration's potential was trained."""
    return r["labels_total"] - r["labels"]["done"]


def _fractions(axis: Axes, found: list[Report]) -> None:
    explored = [r for r in found if "explored" in r]
    x = [r["iteration"] for r in explored]
    for name, colour in (("accurate", "C2"), ("candidate", "C1"), ("failed", "C3")):
        axis.plot(x, [100 * r["explored"][name] for r in explored], "o-", color=colour, label=name)
    axis.set(xlabel="iteration", ylabel="explored frames (%)", title="what the committee says", ylim=(-2, 102))
    axis.legend(frameon=False)


def _calibration(axis: Axes, found: list[Report]) -> None:
    axis.plot([0, 1], [0, 1], "k-", lw=0.7)
    for r in found[-4:]:
        coverage = (r.get("new_labels") or {}).get("coverage")
        if coverage:
            axis.plot(coverage["forces"]["nominal"], coverage["forces"]["found"], "o-", label=f"iteration {r['iteration']}")
    axis.set(xlabel="promised part", ylabel="found on new labels", xlim=(0.4, 1), ylim=(0, 1))
    axis.set_title("force errors below their bound")
    if len(axis.lines) > 1:
        axis.legend(frameon=False)


def _deviations(axis: Axes, found: list[Report]) -> None:
    for r in found[-4:]:
        explored = r.get("explored")
        if explored and explored["frames"]:
            low, high = explored["deviation_range"]
            n = len(explored["deviation"])
            edges = [low + (high - low) * k / n for k in range(n + 1)]
            axis.stairs(explored["deviation"], edges, label=f"iteration {r['iteration']}")
    axis.set(xlabel="largest σ of a force (eV/Å)", ylabel="frames", title="explored frames")
    if axis.patches:
        axis.legend(frameon=False)
