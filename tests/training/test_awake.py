"""A clock that stands still while the process does, pretended and in truth."""

import os
import signal
import subprocess
import sys
import time

import pytest

from minitx.training.awake import LONGEST_WAIT, PERIOD, AwakeClock

PROGRAM = """
import sys, time
from minitx.training.awake import AwakeClock
with AwakeClock() as clock:
    began, wall = clock(), time.monotonic()
    print("ready", flush=True)
    while time.monotonic() - wall < float(sys.argv[1]):
        sum(range(100_000))
    print(clock() - began, clock.slept, time.monotonic() - wall)
"""


def test_only_what_nobody_could_look_at_does_not_count():
    now = [100.0]
    clock = AwakeClock(lambda: now[0])
    first = clock()
    for step in (0.1, LONGEST_WAIT, 2.0):
        now[0] += step
        clock()
    assert clock() - first == pytest.approx(LONGEST_WAIT + 2.1)
    assert clock.slept == 0.0
    now[0] += 60.0
    assert clock() - first == pytest.approx(LONGEST_WAIT + 2.1)
    assert clock.slept == 60.0
    now[0] += 1.0
    assert clock() - first == pytest.approx(LONGEST_WAIT + 3.1)


def test_a_long_step_without_a_look_counts():
    """The thread looks meanwhile."""
    with AwakeClock() as clock:
        clock._last -= LONGEST_WAIT + 1.0  # as if it had slept
        slept = clock() and clock.slept
        assert slept > LONGEST_WAIT
        time.sleep(3 * PERIOD)
        assert clock.slept == slept
        # Looked at less than a period ago, so a wait that is longer by now is time that passed.
        assert clock._now() - clock._last < 2 * PERIOD


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
def test_a_process_that_is_stopped_does_not_age():
    pause, whole = LONGEST_WAIT + 1.0, LONGEST_WAIT + 3.0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(whole)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(pause)
    os.kill(process.pid, signal.SIGCONT)
    awake, slept, wall = map(float, process.communicate()[0].split())
    assert awake + slept == pytest.approx(wall, abs=0.1)
    assert pause - 0.1 < slept < pause + PERIOD + 1.0
