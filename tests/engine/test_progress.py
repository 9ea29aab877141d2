"""Progress: lines in a log, a bar on a terminal, silence on request."""

from __future__ import annotations

import io

import pytest

from cellkit.engine import Progress
from cellkit.engine.progress import duration


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left():
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, clock=clock) as progress:
        for done in (1, 2, 100, 101):
            clock.now = 0.5 * done
            progress.update(done, {"loss": 0.123456, "f1": 0.5})
    assert stream.getvalue().splitlines() == [
        "1/1000 steps, loss 0.1235 f1 0.5, 2 steps/s, 8 min left",
        "100/1000 steps, loss 0.1235 f1 0.5, 2 steps/s, 8 min left",
        "101/1000 steps, loss 0.1235 f1 0.5, 2 steps/s, 7 min left",
    ]


def test_the_rate_is_of_this_run_alone():
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, done=900, stream=stream, clock=clock) as progress:
        clock.now = 10.0
        progress.update(910)
    assert stream.getvalue() == "910/1000 steps, 1 steps/s, 2 min left\n"


def test_an_unknown_total_has_no_time_left():
    stream, clock = io.StringIO(), Clock()
    with Progress(None, "images", stream=stream, clock=clock) as progress:
        clock.now = 2.0
        progress.update(1)
    assert stream.getvalue() == "1 images, 0.5 images/s\n"


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress(2, stream=stream) as progress:
        progress.update(2, {"loss": 1.0})
    assert "2/2" in stream.getvalue()
    assert "\r" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_silent(stream):
    with Progress(2, quiet=True, stream=stream) as progress:
        progress.update(1)
        progress.update(2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (600, "10 min"), (11100, "3 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
