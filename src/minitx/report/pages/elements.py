"""Tables and texts as HTML elements, from data or from what rich would print.

Rich's own export is one preformatted block of characters. Here texts become paragraphs with their
colours as classes or styles, tables stay tables that a screen reader can walk, and bars made of
block characters become boxes, which it passes over: it has the number beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from minitx.report.pages.templates import render

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MARK = "│"
_BAR = frozenset(_EIGHTHS + _MARK)
# A colour's name is a meaning here, which the page gives a shade for light and for dark.
_INKS = frozenset({"green", "yellow", "red", "cyan"})
_CONSOLE = Console(width=10_000, no_color=True)


@dataclass(frozen=True)
class Run:
    """A stretch of text of one look; attributes that are None are left out."""

    words: str
    classes: str | None = None
    style: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a table; that of a bar is a picture of the number beside it."""

    runs: Sequence[Run]
    classes: str | None = None
    style: str | None = None
    title: str | None = None
    is_bar: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: rows whose first cells name them, a header or none, and which rows stand out."""

    rows: Sequence[Sequence[Cell]]
    head: Sequence[Cell] = ()
    strong: frozenset[int] = frozenset()


Element = tuple[Literal["h3", "p"], Sequence[Run]] | tuple[Literal["table"], Grid]


def text_grid(
    names: Sequence[str | Cell], rows: Iterable[Sequence[str | Cell]], numbers: Iterable[int] = ()
) -> Grid:
    """A table of plain texts; the columns in `numbers` are set flush right."""
    right = set(numbers)

    def cells(row: Sequence[str | Cell]) -> list[Cell]:
        return [
            cell if isinstance(cell, Cell) else text_cell(cell, "number" if i in right else None)
            for i, cell in enumerate(row)
        ]

    return Grid([cells(row) for row in rows], cells(names))


def text_cell(words: str, classes: str | None = None) -> Cell:
    """A cell of plain text."""
    return Cell([Run(words)], classes)


def elements(renderables: Iterable[RenderableType]) -> Markup:
    """The renderables, one HTML element after the other.

    Texts, tables, paddings and groups are known; a heading is a text that is bold throughout.

    Raises:
        TypeError: for any other renderable.
    """
    parts = [element for renderable in renderables for element in _elements(renderable)]
    return Markup(render("elements.html", elements=parts))


def _elements(renderable: RenderableType) -> Iterator[Element]:
    if isinstance(renderable, str):
        renderable = Text(renderable)
    if isinstance(renderable, Text):
        if not renderable.plain.strip():
            return
        if str(renderable.style) == "bold" and not renderable.spans:
            yield "h3", [Run(renderable.plain)]
        else:
            yield "p", text_runs(renderable)
    elif isinstance(renderable, Table):
        yield "table", _grid(renderable)
    elif isinstance(renderable, Padding):
        yield from _elements(renderable.renderable)
    elif isinstance(renderable, Group):
        for part in renderable.renderables:
            yield from _elements(part)
    else:
        raise TypeError(f"no HTML for a {type(renderable).__name__}")


def text_runs(text: Text) -> list[Run]:
    """The stretches of a text that have one style, in order."""
    ends = (place for span in text.spans for place in (span.start, span.end))
    bounds = sorted({0, len(text.plain), *ends})
    return [
        _run(text.plain[start:end], text.get_style_at_offset(_CONSOLE, start))
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]


def _run(words: str, style: Style) -> Run:
    if not words.strip() and style.bgcolor is None:
        return Run(words)
    classes = [name for name, on in (("muted", style.dim), ("strong", style.bold)) if on]
    if style.color is not None and style.bgcolor is None and style.color.name in _INKS:
        classes.append(f"ink-{style.color.name}")
    colours = None
    if style.bgcolor is not None and style.bgcolor.triplet is not None:
        ink = style.color.triplet.hex if style.color and style.color.triplet else "inherit"
        colours = f"background:{style.bgcolor.triplet.hex};color:{ink}"
    return Run(words, " ".join(classes) or None, colours)


def _grid(table: Table) -> Grid:
    columns = table.columns
    head = []
    if table.show_header and any(str(column.header) for column in columns):
        head = [_cell(column.header, column) for column in columns]
    by_column = ([_cell(content, column) for content in column.cells] for column in columns)
    rows = list(zip(*by_column, strict=True))
    strong = (i for i, row in enumerate(table.rows) if "bold" in str(row.style or ""))
    return Grid(rows, head, frozenset(strong))


def _cell(content: RenderableType, column: Column) -> Cell:
    text = content if isinstance(content, Text) else Text.from_markup(str(content))
    if text.plain.strip() and set(text.plain) <= _BAR:
        return Cell(_bar(text), "bars", is_bar=True)
    classes = ["number"] if column.justify == "right" else []
    if text.plain.startswith("  "):
        classes.append("inner")
    return Cell(text_runs(text), " ".join(classes) or None)


def _bar(text: Text) -> list[Run]:
    """A bar of block characters as one box, and the mark across it as another."""
    drawn = text.plain.rstrip()
    mark = drawn.find(_MARK)
    # The mark stands on the bar where the bar goes on after it.
    filled = drawn.replace(_MARK, _EIGHTHS[8] if drawn[mark + 1 :].strip() else " ")
    length = sum(map(_EIGHTHS.index, filled)) / 8
    ink = next((ink for ink in _INKS if ink in f"{text.style} {text.spans}"), "cyan")
    boxes = [Run("", f"bar ink-{ink}", f"width:{length:g}ch")]
    if mark >= 0:
        boxes.append(Run("", "mark", f"left:{mark + 0.5:g}ch"))
    return boxes
