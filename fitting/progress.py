"""Progress of long work: a bar with rate and time left on a terminal, plain lines when it is not one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Report = Callable[[int, int], None]


@contextmanager
def progress(what: str, *, unit: str = "it", seconds: float = 30.0) -> Iterator[Report]:
    """Yields `report(done, total)`. Without a terminal a line is printed every `seconds`, and one at the end."""
    if sys.stderr.isatty():
        bar = tqdm(desc=what, unit=unit, dynamic_ncols=True)

        def show(done: int, total: int) -> None:
            bar.total = total
            if bar.n == 0:  # a resumed run does not begin at zero, and was not that fast
                bar.n = bar.initial = bar.last_print_n = done - 1
            bar.update(done - bar.n)

        try:
            yield show
        finally:
            bar.close()
        return
    start = last = time.monotonic()
    first: int | None = None

    def line(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None:
            first = done - 1
        if now - last < seconds and done < total:
            return
        last = now
        rate = (done - first) / max(now - start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        print(f"{what}: {done}/{total} {unit}, {rate:.3g} {unit}/s, {_clock(left)} left", file=sys.stderr, flush=True)

    yield line


def _clock(seconds: float) -> str:
    s = round(seconds)
    return f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"
