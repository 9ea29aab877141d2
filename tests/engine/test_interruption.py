"""Signals: noted once, then as always."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cellkit.engine.interruption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_handlers_return(number):
    former = signal.getsignal(number)
    with StopRequest() as stop:
        assert signal.getsignal(number) is not former
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
        assert signal.getsignal(number) is former


def test_the_second_interrupt_is_immediate():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_without_a_signal_the_handlers_return_at_the_end():
    former = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        pass
    assert signal.getsignal(signal.SIGTERM) is former
    assert stop.signal_number == 0


def test_other_threads_leave_signals_alone():
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append(stop.signal_number)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [0]
