import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from minitx.report.terminal.printable import cut_label, pad_label, token_label, vertical_label


@pytest.mark.parametrize(
    ("token", "label", "ascii_label"),
    [
        (" the", "␣the", "_the"),
        ("\n", "⏎", "\\n"),
        ("\t\r", "⇥␍", "\\t\\r"),
        ("\x1b[2J", "␛[2J", "?[2J"),
        ("\u202e", "�", "?"),
        ("é", "é", "?"),
        ("", "∅", "?"),
    ],
)
def test_white_space_shows_and_control_characters_do_nothing(token, label, ascii_label):
    assert token_label(token) == label
    assert token_label(token, ascii_only=True) == ascii_label


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=12), st.integers(1, 8), st.booleans())
def test_any_token_fits_its_cell(token, width, ascii_only):
    label = token_label(token, ascii_only)
    assert label.isprintable()
    assert cell_len(cut_label(label, width, ascii_only)) <= width
    assert len(vertical_label(label, width, ascii_only)) <= width
    assert cell_len(pad_label(cut_label(label, width, ascii_only), width)) == width
    if ascii_only:
        assert cut_label(label, width, True).isascii()


def test_a_label_that_was_cut_ends_in_a_mark():
    assert cut_label("proceed", 4) == "pro…"
    assert cut_label("proceed", 4, ascii_only=True) == "pro~"
    assert cut_label("日本語", 5) == "日本…"
    assert vertical_label("abcdef", 3) == ["a", "b", "⋮"]
    assert vertical_label("e\u0301a", 3) == ["e\u0301", "a"]
