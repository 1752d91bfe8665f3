"""Ctrl-C that waits: what must not be left half done, nor swallow it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """SIGINT during the block raises KeyboardInterrupt after it. Python ignores one that is raised in a `__del__`, as those of
    zip files have. Without effect outside of the main thread, which is the only one to see it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
