"""The report of a campaign: tables and plots of every iteration, in one HTML file that needs nothing else."""

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
    """Of the iterations that are finished, in order; in the end that of the last fit, to all labels."""
    paths = sorted(directory.glob("iteration-*/report.json"))
    final = directory / f"iteration-{len(paths):03d}" / "final.json"
    return [json.loads(p.read_text()) for p in (*paths, *([final] if final.exists() else []))]


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
    "hours": lambda r: f"{r['hours']:.2f}" if "hours" in r else "–",
    "accurate %": _explored("accurate"),
    "candidate %": _explored("candidate"),
    "beyond %": _explored("failed"),
    "E new": _error("new_labels", "energy"),
    "F new": _error("new_labels", "forces"),
    "F<σ90 %": _covered,
    "E test": _error("test", "energy"),
    "F test": _error("test", "forces"),
    "F valid.": _error("validation", "forces"),
    "F train": _error("train", "forces"),
}
STYLE = (
    "<style>body{font:15px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}img{max-width:100%}</style>"
)
UNITS = (
    "E: RMSE, meV/atom; F: RMSE of components, meV/Å; new: labels of the iteration, before training on them; F<σ90: force errors "
    "of new labels below the bound promised for 90 %"
)


def coverage_table(found: list[Report]) -> list[list[str]]:
    """Parts of errors below their bounds, and error over σ: on the frames it was calibrated on, and on new labels."""
    lines: list[list[str]] = []
    for r in found:
        known, judged = r.get("calibration"), (r.get("new_labels") or {}).get("coverage") or {}
        if not known:
            continue
        if not lines:
            nominal = [f"{100 * p:g} %" for p in known["energy"]["nominal"]]
            lines.append(["iteration", "of", "on", *nominal, "error/σ", "rank correlation"])
        for name in ("energy", "forces"):
            for on, x in ((known["data"], known[name]), ("new labels", judged.get(name))):
                if x:
                    ratio = f"{x['ratio']:.2f}" if "ratio" in x else "1"
                    parts = [f"{100 * p:.0f}" for p in x["found"]]
                    lines.append([str(r["iteration"]), name, on, *parts, ratio, f"{x['rank']:.2f}"])
    return lines


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
    columns = [list(COLUMNS), *(list(x.values()) for x in rows(found))]
    pictures = [directory / f"iteration-{r['iteration']:03d}" / "fit" / "calibration.png" for r in found]
    pictures = [p for p in pictures if p.exists()]
    parts = [
        f"<h1>Active learning: {html.escape(directory.resolve().name)}</h1>", _table(columns), f"<p>{html.escape(UNITS)}</p>",
        _picture(buffer.getvalue(), "plots"),
    ]  # fmt: skip
    if coverage := coverage_table(found):
        parts += ["<h2>Calibration</h2><p>Errors below the bounds promised for these parts, %.</p>", _table(coverage)]
    if pictures:
        parts += [f"<p>{pictures[-1].parts[-3]}:</p>", _picture(pictures[-1].read_bytes(), "calibration")]
    ended = found[-1].get("explored", {}).get("ended_early")
    if ended:
        words = ", ".join(f"{html.escape(name)} {n}" for name, n in ended.items())
        parts.append(f"<p>Runs of the last iteration that ended early: {words}.</p>")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>adatom learn</title>{STYLE}{"".join(parts)}</html>'
    write_atomically(directory / "report.html", page.encode())


def _table(lines: list[list[str]]) -> str:
    """The first line is the head."""
    tags = ["th", *["td"] * (len(lines) - 1)]
    cells = ["".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in line) for line, tag in zip(lines, tags, strict=True)]
    return "<table>" + "".join(f"<tr>{x}</tr>" for x in cells) + "</table>"


def _picture(png: bytes, name: str) -> str:
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


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
