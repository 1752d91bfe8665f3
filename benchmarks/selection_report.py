"""What `selection_replay.py` shows of its curves: the labels that each rule of selection needs."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCES = {"a_%": 0.2, "C_%": 10.0, "vacancy_eV": 0.2, "melt": 0.05}
"""Errors of properties: lattice constant, elastic constants, vacancy formation energy, g(r) of the melt."""


def needed(curve: list[tuple[int, float]], target: float) -> float | None:
    """Labels at which the error first falls to the target, linear in between; None where it does not."""
    for (n0, e0), (n1, e1) in zip(curve, curve[1:], strict=False):
        if e1 <= target:
            return float(n0 + (n1 - n0) * min(1.0, max(0.0, (e0 - target) / max(e0 - e1, 1e-12))))
    return None


def worst(row: dict[str, Any]) -> float | None:
    """The largest property error in units of what is tolerated; None where none was computed."""
    return max(row["properties"][k] / x for k, x in TOLERANCES.items()) if "properties" in row else None


def row_text(rows: list[dict[str, Any]]) -> str:
    """Labels, force RMSE, the worst property where it is known, of every round."""
    cells = [(r["labels"], r["forces"]["all"], worst(r)) for r in rows]
    return ", ".join(f"{n}: {f:.0f}" + ("" if w is None else f" ({w:.2f})") for n, f, w in cells)


def report(content: dict[str, Any], rules: list[str], seeds: list[int]) -> None:
    """Curves, and the labels that each rule needs for what random-all and random end with, and for properties."""
    curves = content["curves"]
    print("\n{date}; device: {device}; commit {commit}; {cpu_minutes:.0f} CPU minutes\n".format(**content))
    print("| seed | rule | labels: force RMSE, meV/Å (worst property) |\n|---|---|---|")
    for name, rows in curves.items():
        print(f"| {name.replace(' ', ' | ')} | {row_text(rows)} |")

    def curve(rule: str, seed: int) -> list[tuple[int, float]]:
        return [(r["labels"], r["forces"]["all"]) for r in curves[f"{seed} {rule}"]]

    def cells(found: list[float | None], rule: str) -> str:
        last = [curve(rule, s)[-1][0] for s in seeds]
        return ", ".join(f"> {n}" if x is None else f"{x:.0f}" for x, n in zip(found, last, strict=True))

    for reference in ("random-all", "random"):
        if reference not in rules:
            continue
        targets = [curve(reference, s)[-1][1] for s in seeds]
        found = {r: [needed(curve(r, s), t) for s, t in zip(seeds, targets, strict=True)] for r in rules}
        print(f"\n| rule | labels for the force error {reference} ends with, by seed | ratio to {reference} |\n|---|---|---|")
        for rule in rules:
            last = [curve(rule, s)[-1][0] for s in seeds]
            ratio = [(x or n) / y for x, n, y in zip(found[rule], last, found[reference], strict=True) if y]
            mean = ("> " if None in found[rule] else "") + f"{np.mean(ratio):.2f}"
            print(f"| {rule} | {cells(found[rule], rule)} | {mean} ({min(ratio):.2f} to {max(ratio):.2f}) |")
    if all(worst(r) is None for rows in curves.values() for r in rows):
        return
    print("\n| rule | labels at which every property is first tolerable, by seed | within half of it |\n|---|---|---|")
    for rule in rules:
        each = [[(r["labels"], w) for r in curves[f"{s} {rule}"] if (w := worst(r)) is not None] for s in seeds]
        both = [[next((float(n) for n, w in rows if w <= limit), None) for rows in each] for limit in (1.0, 0.5)]
        print(f"| {rule} | {cells(both[0], rule)} | {cells(both[1], rule)} |")
