"""Tables for a terminal, and the bars of characters that stand in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

_EIGHTHS = " ▏▎▍▌▋▊▉"


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[RenderableType]] = (),
    numbers: Collection[int] = (),
    **look: Any,
) -> Table:
    """A table with a line below its header; cells are cut where they do not fit.

    The columns in `numbers` are set flush right; `look` is passed on to `rich.table.Table`.
    Names and cells that are plain strings stand as they are: a token is no markup of rich.
    """
    made = Table(**{"box": box.SIMPLE_HEAD, "pad_edge": False, **look})
    for i, name in enumerate(names):
        made.add_column(Text(name), justify="right" if i in numbers else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def labelled(rows: Iterable[tuple[str, str]]) -> Table:
    """Dim labels of one width, each with a text that is wrapped beside it."""
    made = Table.grid(padding=(0, 2))
    made.add_column(width=12, style="dim")
    made.add_column(overflow="fold")  # A text without spaces would be cut.
    for label, text in rows:
        made.add_row(label, Text(text))
    return made


def bar(part: float, width: int, ascii_only: bool = False) -> str:
    """A bar that fills a part (0 to 1) of `width` columns; at least a sliver if above 0.

    It is exact to an eighth of a column where the terminal has block characters.
    """
    part = min(1.0, max(0.0, part))
    if ascii_only:
        return "=" * max(round(part * width), 1 if part > 0 else 0)
    eighths = max(round(part * width * 8), 1 if part > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
