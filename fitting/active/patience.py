"""When labelling has stood still for too long: nothing ends, nothing is computed within its time limit.

A batch system may keep a job waiting for hours with good reason, and for ever where its node is drained, the job is held, or
the controller is gone. Neither can be told from the other with certainty, so it is said at once and given up after `patience`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

SOON = 60.0
"""Seconds of standing still after which it is said."""


class Alive(NamedTuple):
    """A job that has not ended: its id, and why it is not being computed at present; empty where it is."""

    id: str
    waiting: str = ""


class Patience:
    """seconds: until it is given up; limit: seconds that a job may take once it is computed (it is ended then by others)."""

    def __init__(self, seconds: float, limit: float, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._limit, self._say, self._clock = seconds, limit, say, clock
        self._moved = clock()
        self._computed: dict[str, float] = {}  # job → when it was first seen to be computed
        self._ended, self._said = -1, ""

    def lost(self, ended: int, alive: Mapping[str, Alive], trouble: str) -> str:
        """Look at what has become of it: labels that have ended so far, jobs that have not, what hinders us ("": nothing).

        Returns why it should be given up, in one line; "" while there is hope.
        """
        now = self._clock()
        self._computed = {name: self._computed.get(name, now) for name, a in alive.items() if not a.waiting}
        late = [name for name, since in self._computed.items() if now - since > self._limit]
        if ended != self._ended or (len(late) < len(self._computed) and not trouble):
            self._ended, self._moved = ended, now
            return ""
        stood = now - self._moved
        reason = trouble or next((a.waiting for a in alive.values() if a.waiting), "")
        if not reason and late:
            reason = f"job {alive[late[0]].id} goes on beyond its time limit of {self._limit / 60.0:.3g} min and does not end"
        if stood > min(SOON, 0.5 * self._seconds) and reason != self._said and reason:
            self._said = reason
            self._say(f"no label is computed: {reason} (to be given up after patience_minutes = {self._seconds / 60.0:g})")
        if stood <= self._seconds:
            return ""
        return f"no label was computed for {self._seconds / 60.0:g} min (patience_minutes): {reason or 'no reason is known'}"
