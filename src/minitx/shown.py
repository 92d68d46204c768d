"""Results that show themselves: through rich in a terminal, as HTML in a notebook.

What they look like is decided in `report/`, which nothing below it imports: the package's own
`__init__.py`, which every import of minitx runs first, says here where the views come from.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


class Shown:
    """A result that shows itself.

    `views` names the module that draws it: its `view` gives what rich prints, its `as_html` what a
    notebook shows.
    """

    views: ClassVar[str]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        views = importlib.import_module(Shown.views)
        yield from views.view(self, console, options.max_width)

    def _repr_html_(self) -> str:
        html: str = importlib.import_module(Shown.views).as_html(self)
        return html
