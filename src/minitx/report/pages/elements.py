"""Tables and texts as HTML elements, from data or from what rich would print.

Rich's own export is one preformatted block of characters. Here texts become paragraphs with their
colours as classes or styles, tables stay tables that a screen reader can walk, and bars made of
block characters become boxes, which it passes over: it has the number beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from minitx.report.pages.templates import render

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MARK = "│"
_BAR = frozenset(_EIGHTHS + _MARK)
# A colour's name is a meaning here, which the page gives a shade for light and for dark.
_INKS = frozenset({"green", "yellow", "red", "cyan"})
_CONSOLE = Console(width=10_000, no_color=True)


Attributes = dict[str, str | None]
"""Of an HTML element; those that are None are left out."""

Run = tuple[str, Attributes]
"""A stretch of text of one look."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; that of a bar is a picture of the number beside it."""

    runs: Sequence[Run]
    classes: str | None = None
    is_bar: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: rows whose first cells name them, and a header or none.

    A plain text may stand for a cell. The rows in `strong` stand out, the columns in `numbers`
    are set flush right.
    """

    rows: Sequence[Sequence[Cell | str]]
    head: Sequence[Cell | str] = ()
    strong: Collection[int] = ()
    numbers: Collection[int] = ()


Element = tuple[Literal["h3", "p"], Sequence[Run]] | tuple[Literal["table"], Grid]


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
            yield "h3", [(renderable.plain, {})]
        else:
            yield "p", _text_runs(renderable)
    elif isinstance(renderable, Table):
        yield "table", _grid(renderable)
    elif isinstance(renderable, Padding):
        yield from _elements(renderable.renderable)
    elif isinstance(renderable, Group):
        for part in renderable.renderables:
            yield from _elements(part)
    else:
        raise TypeError(f"no HTML for a {type(renderable).__name__}")


def _text_runs(text: Text) -> list[Run]:
    """The stretches of a text that have one style, in order."""
    text = text.copy()
    # Rendering alone leaves the style of the whole text to the console.
    text.stylize_before(text.style)
    return [_run(words, style or Style()) for words, style, _ in text.render(_CONSOLE)]


def _run(words: str, style: Style) -> Run:
    if not words.strip() and style.bgcolor is None:
        return words, {}
    classes = [name for name, on in (("muted", style.dim), ("strong", style.bold)) if on]
    if style.color is not None and style.bgcolor is None and style.color.name in _INKS:
        classes.append(f"ink-{style.color.name}")
    colours = None
    if style.bgcolor is not None and style.bgcolor.triplet is not None:
        ink = style.color.triplet.hex if style.color and style.color.triplet else "inherit"
        colours = f"background:{style.bgcolor.triplet.hex};color:{ink}"
    return words, {"class": " ".join(classes) or None, "style": colours}


def _grid(table: Table) -> Grid:
    columns = table.columns
    has_head = table.show_header and any(str(column.header) for column in columns)
    return Grid(
        rows=list(zip(*(map(_cell, column.cells) for column in columns), strict=True)),
        head=[_cell(column.header) for column in columns] if has_head else (),
        strong=[i for i, row in enumerate(table.rows) if "bold" in str(row.style or "")],
        numbers=[i for i, column in enumerate(columns) if column.justify == "right"],
    )


def _cell(content: RenderableType) -> Cell:
    text = content if isinstance(content, Text) else Text.from_markup(str(content))
    if text.plain.strip() and set(text.plain) <= _BAR:
        return Cell(_bar(text), "bars", is_bar=True)
    return Cell(_text_runs(text), "inner" if text.plain.startswith("  ") else None)


def _bar(text: Text) -> list[Run]:
    """A bar of block characters as one box, and the mark across it as another."""
    drawn = text.plain.rstrip()
    mark = drawn.find(_MARK)
    # The mark stands on the bar where the bar goes on after it.
    filled = drawn.replace(_MARK, _EIGHTHS[8] if drawn[mark + 1 :].strip() else " ")
    length = sum(map(_EIGHTHS.index, filled)) / 8
    ink = next((ink for ink in _INKS if ink in f"{text.style} {text.spans}"), "cyan")
    boxes: list[Run] = [("", {"class": f"bar ink-{ink}", "style": f"width:{length:g}ch"})]
    if mark >= 0:
        boxes.append(("", {"class": "mark", "style": f"left:{mark + 0.5:g}ch"}))
    return boxes
