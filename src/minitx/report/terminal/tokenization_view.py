"""Text cut into its tokens: coloured pieces, their ids, and what the cut is worth."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from minitx.report.terminal.printable import json_line, visible
from minitx.report.terminal.tables import table
from minitx.report.terminal.token_labels import cut_label, pad_label, token_label
from minitx.report.terminal.units import bytes_, count
from minitx.tokenizer import Tokenizer
from minitx.workflows.tokenize import Tokenization, Tokenized

# Neighbours differ in two ways, so that they can be told apart without colour as well.
_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green",
           "black on bright_magenta")  # fmt: skip


def print_tokenized(tokenized: Tokenized, show: int, as_json: bool) -> None:
    """Print what `minitx tokenize` found, with the first tokens of the first text."""
    console = Console(highlight=False)
    if as_json:
        print(json_line(tokenized.to_json()))
    elif tokenized.decoded is not None:
        print(visible(tokenized.decoded[1]))
    else:
        first = next(iter(tokenized.parts.values()))
        with_colour = console.is_terminal and not console.no_color
        if show:
            console.print(pieces_text(tokenized.tokenizer, first, show, with_colour))
        console.print(figures_table(tokenized.tokenizer, tokenized.parts))


def pieces_text(
    tokenizer: Tokenizer, shown: Tokenization, limit: int, with_colour: bool
) -> RenderableType:
    """Each token as a piece of text with its id below it; those beyond `limit` are counted.

    Colours tell the pieces apart; without them, bars do.
    """
    cells: list[tuple[Text, Text]] = []
    for number, token in enumerate(shown.ids[:limit].tolist()):
        label = cut_label(token_label(tokenizer.piece(token)), 24)
        width = max(cell_len(label), len(str(token)))
        style, bar, gap = (
            (_STYLES[number % len(_STYLES)], "", "") if with_colour else ("", "|", " ")
        )
        piece = Text(bar + pad_label(label, width), style)
        cells.append((piece, Text(f"{gap}{token:<{width}}", "dim")))
    return _Flow(cells, max(0, shown.n_tokens - limit))


class _Flow:
    """Cells of two lines, side by side, wrapped to the width of the terminal."""

    def __init__(self, cells: list[tuple[Text, Text]], hidden: int) -> None:
        self._cells, self._hidden = cells, hidden

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        upper, lower = Text(no_wrap=True), Text(no_wrap=True)
        for above, below in self._cells:
            if upper.cell_len and upper.cell_len + above.cell_len > width:
                yield upper
                yield lower
                upper, lower = Text(no_wrap=True), Text(no_wrap=True)
            upper.append_text(above)
            lower.append_text(below)
            pad = upper.cell_len - lower.cell_len
            lower.append(" " * max(0, pad) + " ")
            upper.append(" " * (lower.cell_len - upper.cell_len))
        yield upper
        yield lower
        if self._hidden:
            yield Text(f"and {self._hidden:,} more tokens", style="dim")


def figures_table(tokenizer: Tokenizer, parts: dict[str, Tokenization]) -> RenderableType:
    """What the cut is worth, a column for each text."""
    rows: list[tuple[str, list[str]]] = [
        ("tokens", [count(one.n_tokens) for one in parts.values()]),
        ("bytes", [bytes_(one.n_bytes) for one in parts.values()]),
        ("bytes per token", [f"{one.bytes_per_token:.3f}" for one in parts.values()]),
        ("tokens per word", [f"{one.fertility:.3f}" for one in parts.values()]),
        ("unknown tokens", [_unknown(one) for one in parts.values()]),
        ("round trip", [_trip(one) for one in parts.values()]),
    ]
    return table(
        [f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids", *parts],
        [(name, *values) for name, values in rows],
        numbers=range(1, len(parts) + 1),
    )


def _unknown(one: Tokenization) -> str:
    return f"{one.n_unknown:,} ({one.unknown_rate:.3%})" if one.n_unknown else "0"


def _trip(one: Tokenization) -> str:
    if one.round_trip:
        return "exact"
    return "exact, unknown tokens apart" if one.n_unknown else "NOT EXACT"
