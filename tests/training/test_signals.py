import os
import signal
import threading

import pytest

from minitx.errors import InterruptedRunError
from minitx.training.signals import StopRequest, interrupted_before_steps


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM),
     (signal.SIGHUP, signal.SIGTERM)],
)  # fmt: skip
def test_first_signal_is_only_noted(number, told):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.defer()
        assert stop.signal_number is None
        assert stop.exit_signal is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
        assert stop.exit_signal == told
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_now():
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_second_termination_changes_nothing():
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_the_first_step_a_signal_stops_at_once(number):
    refused = pytest.raises(InterruptedRunError, match="before the first step")
    with refused as caught, StopRequest() as stop, interrupted_before_steps(stop, "Do it again"):
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == (130 if number == signal.SIGINT else 143)


def test_outside_the_main_thread_no_handler_is_set():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.signal_number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
