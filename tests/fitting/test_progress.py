"""Progress: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import re
import time

import pytest

from adatom.fitting.progress import _clock, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every 30 s and one at the end, with rate and time left, on stderr."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("training", unit="steps") as report:
        for done in range(1, 101):
            now[0] += 1.0
            report(done, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training: 30/100 steps, 1 steps/s, 1:10 left",
        "training: 60/100 steps, 1 steps/s, 0:40 left",
        "training: 90/100 steps, 1 steps/s, 0:10 left",
        "training: 100/100 steps, 1 steps/s, 0:00 left",
    ]


def test_the_rate_of_a_resumed_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps done before are not counted."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("training") as report:
        for done in range(9_001, 9_041):
            now[0] += 1.0
            report(done, 10_000)
    assert capsys.readouterr().err == "training: 9030/10000 it, 1 it/s, 16:10 left\n"


@pytest.mark.parametrize("first", [1, 9_001])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with progress("training", unit="steps") as report:
        for done in range(first, first + 5):
            time.sleep(0.12)
            report(done, 10_000)
    text = screen.getvalue()
    assert "training" in text
    rates = [float(x) for x in re.findall(r"([\d.]+)steps/s", text)]
    assert rates
    assert max(rates) < 10.0  # 0.12 s a step, whatever was done before


def test_a_bar_is_closed_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)

    def interrupted() -> None:
        with progress("md") as report:
            report(1, 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.getvalue().endswith("\n")


def test_clock() -> None:
    assert [_clock(s) for s in (0.4, 59.6, 61, 3599, 3661, 90000)] == [
        "0:00",
        "1:00",
        "1:01",
        "59:59",
        "1:01:01",
        "25:00:00",
    ]
