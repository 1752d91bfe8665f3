"""Ctrl-C during what must be finished."""

import os
import signal
import threading
import time

import pytest

from adatom.fitting.interrupts import undisturbed


def interrupt():
    """Another thread may get it from the system, and this one a moment later."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)


@pytest.fixture(autouse=True)
def _heard():
    """Programs that a shell starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_comes_after_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():  # noqa: PT012
        interrupt()
        done.append("all of it")
    assert done == ["all of it"]
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_quiet_and_in_other_threads():
    seen = []

    def work():
        with undisturbed():
            seen.append(threading.current_thread() is threading.main_thread())

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert seen == [True, False]
