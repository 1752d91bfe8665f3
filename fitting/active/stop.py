"""When a campaign ends: asked to, converged, or a budget used up. Looked at after each iteration."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from adatom.fitting.active.config import LearnConfig
from adatom.fitting.active.explore import duration_ps
from adatom.potential.model_file import write_atomically

STOP_FILE = "stop"
ASKED = "asked to stop"


def finished(config: LearnConfig, directory: Path, n: int, done: dict[str, Any]) -> str:
    """Why it ends after iteration n, of which `done` is the report; "" where it goes on. Takes STOP_FILE away."""
    stop = config.stop
    if (directory / STOP_FILE).exists():
        (directory / STOP_FILE).unlink()
        return ASKED
    if n and duration_ps(config.explore, n) >= config.explore.max_duration_ps:
        explored = done["explored"]
        if not explored["ended_early"] and explored["accurate"] >= stop.accurate:
            return f"converged: {100 * explored['accurate']:.2f} % of the explored frames are accurate"
        if not explored["selected"]:
            return "nothing was selected any more"
    if n >= stop.iterations:
        return f"{n} iterations done"
    for used, budget, words in (
        (done["labels_total"], stop.labels, "labels"),
        (done["core_hours"], stop.core_hours, "core hours"),
        (done.get("hours", 0.0), stop.hours, "hours"),
    ):
        if budget and used >= budget:
            return f"the budget of {budget:g} {words} is used up"
    return ""


class Stopwatch:
    """How long a campaign has run, all its processes together: a kill takes away the time since the last mark."""

    def __init__(self, path: Path) -> None:
        self._path, self._since = path, time.monotonic()
        self._seconds: float = json.loads(path.read_text())["seconds"] if path.exists() else 0.0

    def mark(self) -> float:
        """Write down and return the seconds so far."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now
        write_atomically(self._path, json.dumps({"seconds": round(self._seconds, 1)}).encode())
        return self._seconds
