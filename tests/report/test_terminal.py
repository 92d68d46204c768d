from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.report.terminal.printable import visible

# From the tables of Unicode itself, not from the module's own list.
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = {"\u061c", "\u200e", "\u200f"}
EVERY = [chr(code) for code in range(sys.maxunicode + 1)]


def commands(character: str) -> bool:
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character not in "\n\t"
    return character in MARKS or unicodedata.bidirectional(character) in TURNING


def test_every_character_of_unicode_comes_out_harmless() -> None:
    shown = visible("".join(EVERY))
    assert len(shown) == len(EVERY)
    assert not [c for c in shown if commands(c)]


def test_whatever_commands_nothing_is_left_as_it_is() -> None:
    harmless = "".join(c for c in EVERY if not commands(c))
    assert visible(harmless) == harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x9b2J", "�2J"),
        ("over\rwritten", "over␍written"),
        ("a\n\tb", "a\n\tb"),
        ("rm \u202etxt.exe", "rm �txt.exe"),
        ("\x7f\x00", "␡␀"),
        ("👩\u200d💻 é ß 中", "👩\u200d💻 é ß 中"),
        ("\ud800", "�"),
        ("", ""),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
@settings(deadline=None)
def test_can_be_printed_and_once_is_enough(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown
