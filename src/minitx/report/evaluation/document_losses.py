"""The documents of a text that a model finds easiest and hardest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from minitx.evaluation.by_document import FEWEST_TOKENS, DocumentLosses
from minitx.report.terminal.printable import cut_label, printed_name
from minitx.report.terminal.tables import table
from minitx.report.terminal.units import fixed

_LONGEST_NAME = 30


def document_lines(
    losses: DocumentLosses, bar: Callable[[float], Text]
) -> Iterator[RenderableType]:
    """A table from the lowest loss to the highest, and how losses are spread; `bar` draws one."""
    made = table(["", "loss", "bits per byte", "tokens", "document", ""], numbers=range(1, 4))
    rows = [*losses.best, *reversed(losses.worst)]
    for i, row in enumerate(rows):
        label = "best" if i == 0 else "worst" if i == len(rows) - 1 else ""
        made.add_row(
            label, fixed(row.loss, 3), fixed(row.bits_per_byte, 3), f"{row.tokens:,}",
            Text(cut_label(printed_name(Path(row.name).name), _LONGEST_NAME)), bar(row.loss),
        )  # fmt: skip
    yield made
    tenth, half, most = (fixed(loss, 3) for loss in losses.quantiles)
    note = f"Of {losses.documents:,} documents, a tenth have a loss below {tenth}, half below "
    note += f"{half}, nine tenths below {most}."
    if losses.ranked < losses.documents:
        note += f" Compared: the {losses.ranked:,} of at least {FEWEST_TOKENS} tokens."
    yield Text(note, style="dim")
