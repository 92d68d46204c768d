"""What rich prints, as HTML elements: a table stays a table, so that a screen reader can walk it.

Rich's own export is one preformatted block of characters. Here texts become paragraphs with their
colours as classes or styles, tables become tables, and bars made of block characters are hidden
from screen readers, which have the number beside them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MARK = "│"
_BAR = frozenset(_EIGHTHS + _MARK)
# A colour's name is a meaning here, which the page gives a shade for light and for dark.
_INKS = frozenset({"green", "yellow", "red", "cyan"})
_CONSOLE = Console(width=10_000, no_color=True)


def elements(renderables: Iterable[RenderableType]) -> str:
    """The renderables, one HTML element after the other.

    Texts, tables, paddings and groups are known; a heading is a text that is bold throughout.

    Raises:
        TypeError: for any other renderable.
    """
    return "\n".join(filter(None, map(_element, renderables)))


def inline(text: Text) -> str:
    """A text as spans; everything in it is escaped."""
    return "".join(
        _span(text.plain[start:end], style) for start, end, style in _runs(text) if start < end
    )


def _element(renderable: RenderableType) -> str:
    if isinstance(renderable, str):
        renderable = Text(renderable)
    if isinstance(renderable, Text):
        if not renderable.plain.strip():
            return ""
        if _is_heading(renderable):
            return f"<h3>{html.escape(renderable.plain)}</h3>"
        return f"<p>{inline(renderable)}</p>"
    if isinstance(renderable, Table):
        return _table(renderable)
    if isinstance(renderable, Padding):
        return _element(renderable.renderable)
    if isinstance(renderable, Group):
        return elements(renderable.renderables)
    raise TypeError(f"no HTML for a {type(renderable).__name__}")


def _is_heading(text: Text) -> bool:
    return str(text.style) == "bold" and not text.spans


def _table(table: Table) -> str:
    columns = table.columns
    head = ""
    if table.show_header and any(str(column.header) for column in columns):
        cells = [_cell("th", column.header, column, ' scope="col"') for column in columns]
        head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    rows = []
    by_row = zip(*(list(column.cells) for column in columns), strict=True)
    for row, cells_of_row in zip(table.rows, by_row, strict=True):
        bold = ' class="strong"' if "bold" in str(row.style or "") else ""
        first, *rest = zip(cells_of_row, columns, strict=True)
        cells = [_cell("th", *first, ' scope="row"'), *(_cell("td", *one) for one in rest)]
        rows.append(f"<tr{bold}>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _cell(tag: str, content: RenderableType, column: Column, attributes: str = "") -> str:
    text = content if isinstance(content, Text) else Text.from_markup(str(content))
    if text.plain.strip() and set(text.plain) <= _BAR:
        return f'<{tag}{attributes} class="bars" aria-hidden="true">{_bar(text)}</{tag}>'
    kinds = ["number"] if column.justify == "right" else []
    if text.plain.startswith("  "):
        kinds.append("inner")
    if kinds:
        attributes += f' class="{" ".join(kinds)}"'
    return f"<{tag}{attributes}>{inline(text)}</{tag}>"


def _bar(text: Text) -> str:
    """A bar of block characters as one box, and the mark across it as another."""
    cells = text.plain.rstrip()
    mark = cells.find(_MARK)
    # The mark stands on the bar where the bar goes on after it.
    filled = cells.replace(_MARK, _EIGHTHS[8] if cells[mark + 1 :].strip() else " ")
    length = sum(_EIGHTHS.index(cell) for cell in filled) / 8
    ink = next((one for one in _INKS if one in f"{text.style} {text.spans}"), "cyan")
    bar = f'<span class="bar ink-{ink}" style="width:{length:g}ch"></span>'
    if mark >= 0:
        bar += f'<span class="mark" style="left:{mark + 0.5:g}ch"></span>'
    return bar


def _runs(text: Text) -> list[tuple[int, int, Style]]:
    """Stretches of one style, in order."""
    bounds = sorted({0, len(text.plain), *(at for s in text.spans for at in (s.start, s.end))})
    return [
        (start, end, text.get_style_at_offset(_CONSOLE, start))
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]


def _span(words: str, style: Style) -> str:
    escaped = html.escape(words)
    if not words.strip() and style.bgcolor is None:
        return escaped
    kinds = []
    if style.dim:
        kinds.append("muted")
    if style.bold:
        kinds.append("strong")
    if style.color is not None and style.bgcolor is None and style.color.name in _INKS:
        kinds.append(f"ink-{style.color.name}")
    colours = ""
    if style.bgcolor is not None and style.bgcolor.triplet is not None:
        ink = style.color.triplet.hex if style.color and style.color.triplet else "inherit"
        colours = f' style="background:{style.bgcolor.triplet.hex};color:{ink}"'
    if not kinds and not colours:
        return escaped
    marked = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<span{marked}{colours}>{escaped}</span>"
