"""Text cut into its tokens: coloured pieces, their ids, and what the cut is worth."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from minitx.report.terminal.printable import cut_label, json_line, pad_label, token_label, visible
from minitx.report.terminal.tables import table
from minitx.report.terminal.units import bytes_, count
from minitx.tokenizer import Tokenizer
from minitx.workflows.tokenize import Tokenization, Tokenized

# Neighbours differ in two ways, so that they can be told apart without colour as well.
_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green",
           "black on bright_magenta")  # fmt: skip
_FIGURES = ("tokens", "bytes", "bytes per token", "tokens per word", "unknown tokens",
            "round trip")  # fmt: skip


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
            width = console.width
            for line in token_pieces(tokenized.tokenizer, first, show, with_colour, width):
                console.print(line)
        console.print(figures_table(tokenized.tokenizer, tokenized.parts))


def token_pieces(
    tokenizer: Tokenizer, shown: Tokenization, limit: int, with_colour: bool, width: int
) -> Iterator[Text]:
    """Each token as a piece of text with its id below it; those beyond `limit` are counted.

    Colours tell the pieces apart; without them, bars do.
    """
    upper, lower = Text(no_wrap=True), Text(no_wrap=True)
    bar, gap = ("", "") if with_colour else ("|", " ")
    for number, token in enumerate(shown.ids[:limit].tolist()):
        label = cut_label(token_label(tokenizer.piece(token)), 24)
        label_width = max(cell_len(label), len(str(token)))
        if upper and upper.cell_len + len(bar) + label_width > width:
            yield from (upper, lower)
            upper, lower = Text(no_wrap=True), Text(no_wrap=True)
        style = _STYLES[number % len(_STYLES)] if with_colour else ""
        upper.append(bar + pad_label(label, label_width), style).append(" ")
        lower.append(f"{gap}{token:<{label_width}} ", "dim")
    yield from (upper, lower)
    if shown.n_tokens > limit:
        yield Text(f"and {shown.n_tokens - limit:,} more tokens", style="dim")


def figures_table(tokenizer: Tokenizer, parts: dict[str, Tokenization]) -> RenderableType:
    """What the cut is worth, a column for each text."""
    columns = [
        (
            count(part.n_tokens),
            bytes_(part.n_bytes),
            f"{part.bytes_per_token:.3f}",
            f"{part.fertility:.3f}",
            f"{part.n_unknown:,} ({part.unknown_rate:.3%})" if part.n_unknown else "0",
            _trip(part),
        )
        for part in parts.values()
    ]
    return table(
        [f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids", *parts],
        zip(_FIGURES, *columns, strict=True),
        numbers=range(1, len(parts) + 1),
    )


def _trip(part: Tokenization) -> str:
    if part.round_trip:
        return "exact"
    return "exact, unknown tokens apart" if part.n_unknown else "NOT EXACT"
