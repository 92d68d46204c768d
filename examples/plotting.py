"""Curves in the terminal, for the experiments: in colour where it has any, else plain."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from minitx.report.terminal.curve import Point, curve_lines

WIDTH = 72


def plot(
    line: Sequence[Point],
    dots: Sequence[Point],
    title: str,
    names: tuple[str, str],
    height: int = 12,
) -> None:
    """Print a line and dots over steps (or over any other number).

    Args:
        line, dots: (x, y) by rising x.
        title: what is drawn.
        names: of the line and of the dots.
        height: lines, axis and labels included.
    """
    console = Console(highlight=False)
    ascii_only = console.options.ascii_only or console.legacy_windows
    line_key, dot_key = ("...", "o") if ascii_only else ("⠤⠤", "●")
    legend = Text.assemble(
        (f"{title}   ", "dim"), (line_key, "cyan"), (f" {names[0]}  ", "dim"),
        (dot_key, "bold yellow"), (f" {names[1]}", "dim"),
    )  # fmt: skip
    # The curve's own legend speaks of losses in training.
    _, *rows = curve_lines(line, dots, WIDTH, height, ascii_only=ascii_only)
    for row in (legend, *rows):
        console.print(row, soft_wrap=True)
