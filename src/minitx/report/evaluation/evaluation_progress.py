"""What a command that measures is doing, on stderr; nothing where stderr is no terminal."""

from __future__ import annotations

import contextlib
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from minitx.report.terminal.printable import visible
from minitx.report.terminal.units import count, duration


class EvaluationProgress:
    """A bar for what is counted in some unit, with rate and time left, and a name for all else."""

    def __init__(self, stream: TextIO, unit: str = "tokens") -> None:
        self._unit = unit
        console = Console(file=stream)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> EvaluationProgress:
        try:
            self._progress.start()
        except BaseException:
            # A Ctrl-C just then; rich may have hidden the cursor and not be ready to stop.
            with contextlib.suppress(Exception):
                self._progress.stop()
            self._progress.console.show_cursor()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show what is being done; a total of 0 is not known."""
        if [task.description for task in self._progress.tasks] != [visible(name)]:
            for task in self._progress.tasks:
                self._progress.remove_task(task.id)
            self._progress.add_task(visible(name), total=total or None, amount="")
        task = self._progress.tasks[0]
        amount = f"{count(done)} of {count(total)} {self._unit}" if total else ""
        if total and done and task.elapsed:
            rate = done / task.elapsed
            amount += f", {count(rate)}/s, {duration((total - done) / rate)} left"
        self._progress.update(task.id, completed=done, amount=amount)
