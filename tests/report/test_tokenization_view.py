import io

import pytest
from rich.console import Console, Group

from minitx.report.terminal.tokenization_view import figures_table, token_pieces
from minitx.tokenizer import train_tokenizer
from minitx.workflows.tokenize import tokenization

TEXT = "the cat sat on the mat, naïvely 中文\n" * 20
TOKENIZER = train_tokenizer(TEXT, "bpe", 300)


def drawn(renderable, width, colours=None):
    console = Console(
        file=io.StringIO(), width=width, color_system=colours, force_terminal=bool(colours)
    )
    console.print(renderable)
    return console.file.getvalue()


def pieces(shown, limit, with_colour, width, colours=None):
    return drawn(Group(*token_pieces(TOKENIZER, shown, limit, with_colour, width)), width, colours)


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("with_colour", [False, True])
def test_every_token_stands_above_its_id_and_none_is_cut(width, with_colour):
    one = tokenization(TOKENIZER, TEXT[:200] + "\x1b[2J\r\u202e")
    lines = pieces(one, 500, with_colour, width).splitlines()
    assert max(map(len, lines)) <= width
    assert [int(i) for line in lines[1::2] for i in line.split()] == one.ids.tolist()
    assert "\x1b" not in "".join(lines)
    assert "\u202e" not in "".join(lines)
    if not with_colour:
        for above, below in zip(lines[::2], lines[1::2], strict=True):
            assert above.count("|") == len(below.split())


def test_pieces_can_be_read_back_without_colour():
    one = tokenization(TOKENIZER, "the cat\n\nsat")
    above = pieces(one, 500, False, 200).splitlines()[0]
    shown = "".join(piece.strip() for piece in above.split("|"))
    assert shown == "the␣cat⏎⏎sat"


def test_neighbours_differ_in_colour():
    one = tokenization(TOKENIZER, TEXT)
    out = pieces(one, 9, True, 80, "standard")
    shades = [part.split("m")[0] for part in out.splitlines()[0].split("\x1b[")[1:]]
    shades = [shade for shade in shades if shade != "0"]
    assert len(shades) > 5
    assert all(a != b for a, b in zip(shades[1:], shades, strict=False))


def test_what_is_left_out_is_counted():
    one = tokenization(TOKENIZER, TEXT)
    assert f"and {one.n_tokens - 4:,} more tokens" in pieces(one, 4, False, 80)
    assert "more" not in pieces(one, one.n_tokens, False, 80)


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_tells_an_inexact_round_trip_from_unknown_text(width):
    letters = train_tokenizer("abc ", "char", 0)
    parts = {
        "train part": tokenization(letters, "abc abc", "replace"),
        "holdout": tokenization(letters, "abd", "replace"),
    }
    out = drawn(figures_table(letters, parts), width)
    assert max(map(len, out.splitlines())) <= width
    rows = {line.strip().split("  ")[0]: line for line in out.splitlines() if line.strip()}
    assert "char, 6 ids" in rows
    assert "1 (33.333%)" in rows["unknown tokens"]
    assert "exact" in rows["round trip"]
    assert "exact, unknown tokens apart" in rows["round trip"]
    assert "1.000" in rows["bytes per token"]
    assert "3.500" in rows["tokens per word"]
