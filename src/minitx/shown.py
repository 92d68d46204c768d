"""Results that show themselves: through rich in a terminal, as HTML in a notebook.

What they look like is decided in `report/`, which nothing below it imports: the package's own
`__init__.py`, which every import of minitx runs first, says here where the views come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


class Views(Protocol):
    """What can draw every result: `minitx.report.notebook` is one."""

    def view(self, shown: Shown, console: Console, width: int) -> Iterable[RenderableType]:
        """What rich prints."""

    def as_html(self, shown: Shown) -> str:
        """What a notebook shows."""


class Shown:
    """A result that shows itself; `views` is called for what draws it."""

    views: ClassVar[Callable[[], Views]]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield from Shown.views().view(self, console, options.max_width)

    def _repr_html_(self) -> str:
        return Shown.views().as_html(self)
