"""Rows of the table: a mean with its error beside the value expected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One line of the table. sigmas: (measured − expected)/error; None where there are too few samples to judge by."""

    check: str
    what: str
    measured: float | None
    expected: float
    error: float
    sigmas: float | None
    unit: str = ""


class Series(NamedTuple):
    """Of one structure, equilibration left out: eV, Å³, GPa (samples,)."""

    kinetic: np.ndarray
    potential: np.ndarray
    volume: np.ndarray
    pressure: np.ndarray
    conserved: np.ndarray


def report(rows: list[Row], row: Row) -> None:
    rows.append(row)
    measured = "–" if row.measured is None else f"{row.measured:.6g}"
    sigmas = "too few samples" if row.sigmas is None else f"{row.sigmas:+.1f}"
    print(f"| {row.check} | {row.what} | {measured} | {row.expected:.6g} | {row.error:.2g} | {row.unit} | {sigmas} |", flush=True)


def verdict(name: str, rows: list[Row]) -> str:
    """In words: how many rows, and how many of those that could be judged are far off."""
    judged = [row.sigmas for row in rows if row.sigmas is not None]
    beyond, missing = sum(abs(x) > 2.0 for x in judged), len(rows) - len(judged)
    left = f", {missing} NOT JUDGED" if missing else ""
    return f"{name}: {len(rows)} rows{left}, {beyond} beyond 2 σ, the worst {max(judged, key=abs):+.1f} σ"


def of_mean(check: str, what: str, mean: float, error: float, expected: float, expected_error: float, unit: str) -> Row:
    total = float(np.hypot(error, expected_error))
    return Row(check, what, float(mean), float(expected), total, float((mean - expected) / total), unit)


def compared(check: str, what: str, x: np.ndarray, expected: float | np.ndarray, unit: str) -> Row:
    """The mean of a series beside a number, or beside the mean of another series."""
    from adatom.md.observables import average

    a = average(x)
    if isinstance(expected, np.ndarray):
        b = average(expected)
        return of_mean(check, what, a.mean, a.error, b.mean, b.error, unit)
    return of_mean(check, what, a.mean, a.error, expected, 0.0, unit)


def both(rows: list[Row], check: str, name: str, a: Series, b: Series, *, cell: bool) -> None:
    """Means, and mean squares of fluctuations, of K, U (and V) of a against those of b."""
    for label in ("kinetic", "potential", *(("volume",) if cell else ("pressure",))):
        x, y = getattr(a, label), getattr(b, label)
        unit = {"volume": "Å³", "pressure": "GPa"}.get(label, "eV")
        report(rows, compared(check, f"{name}: {label}", x, y, unit))
        report(rows, compared(check, f"{name}: {label}, variance", (x - x.mean()) ** 2, (y - y.mean()) ** 2, f"{unit}²"))
