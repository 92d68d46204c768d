"""Objects that show themselves: through rich in a terminal, as HTML in a notebook.

What they look like is decided in `report/`, which nothing below it imports; it is looked up by
name when something is first shown.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


class Shown:
    """What `minitx.report.notebook` knows how to draw."""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield from _views().view(self, console, options.max_width)

    def _repr_html_(self) -> str:
        page: str = _views().as_html(self)
        return page


def _views() -> Any:
    return importlib.import_module("minitx.report.notebook")
