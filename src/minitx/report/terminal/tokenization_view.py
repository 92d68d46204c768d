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
            console.print(TokenPieces(tokenized.tokenizer, first, show, with_colour))
        console.print(figures_table(tokenized.tokenizer, tokenized.parts))


class TokenPieces:
    """Each token as a piece of text with its id below it; those beyond `limit` are counted.

    Colours tell the pieces apart; without them, bars do.
    """

    def __init__(
        self, tokenizer: Tokenizer, shown: Tokenization, limit: int, with_colour: bool
    ) -> None:
        self._pieces = [(tokenizer.piece(token), token) for token in shown.ids[:limit].tolist()]
        self._hidden = max(0, shown.n_tokens - limit)
        self._with_colour = with_colour

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        upper, lower = Text(no_wrap=True), Text(no_wrap=True)
        bar, gap = ("", "") if self._with_colour else ("|", " ")
        for number, (piece, token) in enumerate(self._pieces):
            label = cut_label(token_label(piece), 24)
            width = max(cell_len(label), len(str(token)))
            if upper and upper.cell_len + len(bar) + width > options.max_width:
                yield from (upper, lower)
                upper, lower = Text(no_wrap=True), Text(no_wrap=True)
            style = _STYLES[number % len(_STYLES)] if self._with_colour else ""
            upper.append(bar + pad_label(label, width), style).append(" ")
            lower.append(f"{gap}{token:<{width}} ", "dim")
        yield from (upper, lower)
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
