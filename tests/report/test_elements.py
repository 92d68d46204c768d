"""What rich prints, as HTML elements."""

import re

import pytest
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from minitx.report.pages.elements import elements
from minitx.report.terminal.tables import bar


def test_a_table_stays_a_table():
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("kind")
    table.add_column("loss", justify="right")
    table.add_row("space", "0.5")
    table.add_row("  in-word", Text("1.2", "green"), style="bold")
    found = elements([table])
    assert '<th scope="col">kind</th><th scope="col" class="number">loss</th>' in found
    assert '<tr><th scope="row">space</th><td class="number">0.5</td></tr>' in found
    assert '<tr class="strong"><th scope="row" class="inner">  in-word</th>' in found
    assert '<span class="ink-green">1.2</span>' in found


def test_a_table_without_a_header_has_none():
    grid = Table.grid()
    grid.add_column()
    grid.add_column()
    grid.add_row("a", "b")
    assert elements([Padding(grid, 1)]) == (
        '<div class="wide"><table><tbody><tr><th scope="row">a</th><td>b</td></tr></tbody></table>'
        "</div>"
    )


def test_texts_are_paragraphs_and_bold_ones_headings():
    found = elements([Text(), "plain", Group(Text("A heading", "bold"), Text("more", "dim"))])
    assert found == ('<p>plain</p>\n<h3>A heading</h3>\n<p><span class="muted">more</span></p>')


def test_everything_is_escaped():
    hostile = "</table><script>alert('x')</script>&\"<img src=x onerror=y>"
    table = Table()
    table.add_column(Text(hostile))
    table.add_row(Text(hostile, "green"))
    found = elements([table, Text(hostile), Text(hostile, "bold"), Text(hostile, "red")])
    assert "<script" not in found
    assert "<img" not in found
    assert found.count("&lt;script&gt;") == 5


def test_colours_on_a_ground_are_kept():
    text = Text.assemble(("hot", "#101218 on #fff6be"), " and ", ("cold", "on #181b2b"))
    assert elements([text]) == (
        '<p><span style="background:#fff6be;color:#101218">hot</span> and '
        '<span style="background:#181b2b;color:inherit">cold</span></p>'
    )


@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 1.0])
def test_a_bar_is_a_box_as_long_that_is_not_read_aloud(part):
    table = Table.grid()
    table.add_column()
    table.add_column()
    table.add_row("x", Text(bar(part, 20), "green"))
    found = elements([table])
    assert 'class="bars" aria-hidden="true"' in found
    assert "█" not in found
    length = float(re.search(r"ink-green\" style=\"width:([\d.]+)ch", found)[1])
    assert length == pytest.approx(part * 20, abs=1 / 16 + 1e-9)


def test_the_mark_across_a_bar_is_a_box_of_its_own():
    for drawn, length, mark in (("███│█", 5, 3.5), ("██ │", 2, 3.5), ("██│", 2, 2.5)):
        table = Table.grid()
        table.add_column()
        table.add_row(Text(drawn))
        found = elements([table])
        assert f"width:{length}ch" in found
        assert f"left:{mark}ch" in found


def test_what_has_no_html_is_refused():
    with pytest.raises(TypeError, match="Panel"):
        elements([Panel("x")])
