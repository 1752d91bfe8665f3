"""How long a campaign has run, all its processes together: what a kill takes away is the time since the last mark."""

from __future__ import annotations

import json
import time
from pathlib import Path

from adatom.potential.model_file import write_atomically


class Stopwatch:
    """Goes on from what the file says; runs from now on."""

    def __init__(self, path: Path) -> None:
        self._path, self._since = path, time.monotonic()
        self._seconds: float = json.loads(path.read_text())["seconds"] if path.exists() else 0.0

    def mark(self) -> float:
        """Write down and return the seconds so far."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now
        write_atomically(self._path, json.dumps({"seconds": round(self._seconds, 1)}).encode())
        return self._seconds
