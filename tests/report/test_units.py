import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.report.terminal.units import bytes_, count, duration, fixed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.04, "0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (3725, "1h02m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (2 * 86400 + 3 * 3600 + 59 * 60, "2d03h"),
        (-1, "?"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@settings(deadline=None, max_examples=300)
@given(st.floats(0, 1e8))
def test_duration_reads_back_within_its_last_unit(seconds):
    text = duration(seconds)
    total, number, last = 0.0, "", 1
    for character in text:
        if character in UNIT_SECONDS:
            last = UNIT_SECONDS[character]
            total += float(number) * last
            number = ""
        else:
            number += character
    assert number == ""
    assert abs(total - seconds) <= last


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (9994, "9.99 k"),
        (9996, "10.0 k"),
        (99_960, "100 k"),
        (999_400, "999 k"),
        (999_600, "1.00 M"),
        (10_700_000, "10.7 M"),
        (1_240_000_000, "1.24 B"),
        (5e15, "5,000 T"),
        (-1234, "-1.23 k"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_count(n, text):
    assert count(n) == text


def test_bytes():
    assert bytes_(512) == "512 B"
    assert bytes_(465_000) == "465 kB"
    assert bytes_(1_115_394) == "1.12 MB"


@settings(deadline=None, max_examples=300)
@given(st.floats(1, 9.99e14))
def test_count_reads_back_to_three_digits(n):
    number, _, unit = count(n).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    tolerance = 0.5 if n < 1000 else 0.0051 * n
    assert abs(float(number) * factor - n) <= tolerance
    assert len(number.replace(".", "")) <= 3


def test_fixed():
    assert fixed(1.23456, 4) == "1.2346"
    assert fixed(99_999.5, 2) == "99999.50"
    assert fixed(123_456.0, 2) == "1.23e+05"
    assert fixed(math.nan, 2) == "nan"
    assert fixed(math.inf, 2) == "inf"
