import html.parser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import Color, ColorSystem
from rich.console import Console

from minitx.report.notebook import map_grid
from minitx.report.terminal.heatmap import Heatmap, Scale, shading_for, small_map


def causal(seq, seed=0):
    weights = np.tril(np.random.default_rng(seed).random((seq, seq)) ** 4 + 1e-6)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def plain(lines):
    return [line.plain for line in lines]


def test_a_small_map_is_drawn_exactly():
    weights = np.array([[1, 0, 0], [0.65, 0.35, 0], [0.01, 0.19, 0.8]], np.float32)
    lines = plain(Heatmap(weights, ["a", " ", "\n"]).lines("blocks", 10))
    assert lines[:4] == [
        "    a ␣ ⏎",
        "0 a ██",
        "1 ␣ ██▓▓",
        "2 ⏎ · ▒▒██",
    ]


def test_ascii_is_pure():
    lines = plain(Heatmap(causal(30), list("naïve\n\tテス☃") * 3).lines("ascii", 80))
    assert "".join(lines).isascii()


def test_wide_cells_hold_percentages():
    weights = np.array([[1, 0], [0.25, 0.75]], np.float32)
    lines = plain(Heatmap(weights, ["To", " be"]).lines("blocks", 80))
    assert lines[2].split()[-2:] == ["25", "███"] or "25" in lines[2]
    assert "75" in lines[2]
    assert "100" in lines[1]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(max_size=9), min_size=1, max_size=70),
    st.integers(30, 200),
    st.sampled_from(["color", "blocks", "ascii"]),
    st.sampled_from(["weight", "norm"]),
)
def test_no_line_is_wider_than_the_terminal(tokens, width, shading, quantity):
    lines = Heatmap(causal(len(tokens)), tokens, quantity).lines(shading, width)
    for line in lines[:-3]:
        assert line.cell_len <= width


def test_a_long_text_shows_its_last_tokens_and_says_so():
    weights = causal(100)
    heatmap = Heatmap(weights, [chr(97 + i % 26) for i in range(100)])
    lines = plain(heatmap.lines("blocks", 80))
    shown = [line for line in lines if line[:2].strip().isdigit()]
    assert shown[-1].startswith("99 ")
    first = int(shown[0].split()[0])
    assert f"the last {100 - first} of 100 tokens" in lines[-1]
    assert f"the first {first}" in lines[-1]
    # The column of earlier tokens holds what the row gives to all of them.
    scale = Scale(1.0)
    for line in shown:
        at = int(line.split()[0])
        expected = scale.character(float(weights[at, :first].sum()), "blocks")
        assert expected in line[5:7]


def test_norms_do_not_add_up_so_earlier_tokens_are_left_out():
    lines = plain(Heatmap(causal(100), ["x"] * 100, "norm").lines("blocks", 80))
    assert "adds up" not in lines[-1]
    assert "last" in lines[-1]


def test_every_row_in_colour_has_one_coloured_cell_a_token_seen():
    tokens = list("colour me")
    heatmap = Heatmap(causal(9), tokens)
    lines = heatmap.lines("color", 40)
    for position, line in enumerate(lines[1:10]):
        cells = [span for span in line.spans if " on #" in str(span.style)]
        assert len(cells) == position + 1


def test_shades_rise_with_the_value_and_the_legend_tells_where():
    scale = Scale(1.0)
    shades = [scale.character(v, "blocks") for v in (0, 0.019, 0.02, 0.1, 0.3, 0.6, 1.0)]
    assert shades == list("··░▒▓██")
    legend = scale.legend("blocks").plain
    for part in ("·· under 2 ", "░░ 2 to 10 ", "▒▒ 10 to 30 ", "▓▓ 30 to 60 ", "██ over 60 %"):
        assert part in legend
    brightness = [
        sum(int(scale.color(v)[i : i + 2], 16) for i in (1, 3, 5)) for v in np.linspace(0, 1, 40)
    ]
    assert all(np.diff(brightness) > 0)
    assert "0.5" in Scale(2.0, "norm").legend("color").plain


def test_brightness_rises_along_the_palette_in_256_colours_as_in_true_colour():
    scale = Scale(1.0)
    for system in (ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT):
        shown = [Color.parse(scale.color(v)).downgrade(system) for v in np.linspace(0, 1, 200) ** 2]
        red, green, blue = np.array([color.get_truecolor() for color in shown]).T
        brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert all(np.diff(brightness) >= 0)
        assert len(set(brightness)) >= 12
        assert brightness[-1] > brightness[0] + 200


@pytest.mark.parametrize(
    ("options", "shading"),
    [
        ({"color_system": "truecolor", "force_terminal": True}, "color"),
        ({"color_system": "256", "force_terminal": True}, "color"),
        ({"color_system": "standard", "force_terminal": True}, "blocks"),
        ({"color_system": "truecolor", "force_terminal": True, "no_color": True}, "blocks"),
        ({"color_system": None}, "blocks"),
    ],
)
def test_the_console_decides_how_to_draw(options, shading, tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        assert shading_for(Console(file=file, **options)) == shading
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        assert shading_for(Console(file=file, **options)) == "ascii"


def test_a_small_map_keeps_thin_stripes():
    weights = np.eye(100, dtype=np.float32)
    lines = plain(small_map(weights, 20, "blocks", Scale(1.0)))
    assert len(lines) == 10
    assert all("█" in line for line in lines)
    assert max(map(len, lines)) == 20
    color = small_map(weights, 20, "color", Scale(1.0))
    assert [line.cell_len for line in color] == list(range(2, 21, 2))


def test_a_map_of_one_token_can_be_drawn():
    for shading in ("color", "blocks", "ascii"):
        assert Heatmap(np.ones((1, 1), np.float32), ["x"]).lines(shading, 80)
        assert small_map(np.ones((1, 1), np.float32), 20, shading, Scale(1.0))


class Cells(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.titles, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag in {"div", "style", "table", "thead", "tbody", "tr", "td", "th", "p"}
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data):
        self.text += data


def test_a_notebook_shows_the_map_with_every_weight_as_a_tooltip():
    cells = Cells(map_grid(Heatmap(causal(4), ["<b>", " &", '"', "x"])))
    assert len(cells.titles) == 10
    assert "<b>" in cells.text
    assert cells.titles[0] == "0 <b> → 0 <b>: 1"
    assert "last 64 of 100" in Cells(map_grid(Heatmap(causal(100), ["x"] * 100))).text


def test_rich_prints_a_heatmap(tmp_path):
    with (tmp_path / "out").open("w+", encoding="utf-8") as file:
        Console(file=file, width=60).print(Heatmap(causal(5), list("abcde")))
        file.seek(0)
        assert "4 e" in file.read()
