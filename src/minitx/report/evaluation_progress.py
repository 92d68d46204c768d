"""A progress bar on stderr while texts are scored; nothing where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from minitx.report.terminal import visible


class EvaluationProgress:
    """Shows tokens scored, and time left.

    Args:
        stream: usually stderr, so that results can be piped.
    """

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream)
        self._progress = Progress(
            TextColumn("scoring {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tokens"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> EvaluationProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def named(self, name: str) -> Callable[[int, int], None]:
        """A bar of its own for one text: call it with tokens scored, and tokens in all."""
        task = self._progress.add_task(visible(name), total=None)

        def update(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        return update
