"""Generated tokens with their probabilities: what temperature and the cuts do, made visible."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from minitx.generation import Chosen, Generation
from minitx.report.terminal.printable import visible
from minitx.report.terminal.tables import table
from minitx.report.terminal.token_labels import token_label
from minitx.tokenizer import Tokenizer
from minitx.training.observer import perplexity

# From unlikely to likely; each is legible on a dark and on a light ground.
_STYLES = ((0.01, "bold red"), (0.1, "red"), (0.5, "yellow"), (1.01, "green"))

# Of the table below: of the headings between the first and the last, and between two columns.
_HEADINGS = ("probability", "drawn\nwith", "of", "entropy,\nbits", "perplexity")
_GAP = 3
_SHORTEST_LIKELIEST = 12


def coloured_text(generation: Generation, tokenizer: Tokenizer) -> Text:
    """The prompt dimmed, then each token coloured by its probability in the model."""
    text = Text().append(visible(generation.prompt), "dim")
    for one in generation.chosen:
        text.append(visible(tokenizer.piece(one.id)), _style(math.exp(one.log_probability)))
    return text


def legend() -> Text:
    """What the colours mean."""
    text = Text("probability  ")
    names = ("below 1 %", "1 to 10 %", "10 to 50 %", "above 50 %")
    for name, (_, style) in zip(names, _STYLES, strict=True):
        text.append(f" {name} ", style)
    return text


def probability_table(generation: Generation, tokenizer: Tokenizer, width: int) -> RenderableType:
    """One row for each token: how likely it was, among what, and the perplexity so far.

    As many alternatives are shown as fit `width` columns.
    """
    labels = [token_label(tokenizer.piece(one.id)) for one in generation.chosen]
    rows = list(_numbers(generation))
    names = ["token", *_HEADINGS]
    columns = [labels, *(zip(*rows, strict=True) if rows else [()] * len(_HEADINGS))]
    used = sum(
        _GAP + max(map(cell_len, [*name.split("\n"), *column]))
        for name, column in zip(names, columns, strict=True)
    )
    left = width - used
    with_likeliest = left >= _SHORTEST_LIKELIEST
    shown = [*names, "likeliest"] if with_likeliest else names
    made = table(shown, numbers=range(1, len(names)), show_edge=False)
    for one, label, numbers in zip(generation.chosen, labels, rows, strict=True):
        token = Text(label, _style(math.exp(one.log_probability)))
        likeliest = [_likeliest(one, tokenizer, left)] if with_likeliest else []
        made.add_row(token, *numbers, *likeliest)
    return made


def _numbers(generation: Generation) -> Iterator[tuple[str, ...]]:
    # Of each token, in the order of `_HEADINGS`.
    total = 0.0
    for number, one in enumerate(generation.chosen, start=1):
        total -= one.log_probability
        yield (
            f"{math.exp(one.log_probability):.1%}",
            f"{math.exp(one.sampled_log_probability):.1%}",
            f"{one.kept:,}",
            f"{one.entropy / math.log(2):.2f}",
            f"{perplexity(total / number):.2f}",
        )


def _likeliest(one: Chosen, tokenizer: Tokenizer, width: int) -> Text:
    # As many as fit, the token itself in bold.
    text = Text()
    for token, probability in one.alternatives:
        if token >= tokenizer.vocab_size:
            continue
        between = "  " if text else ""
        words = f"{between}{token_label(tokenizer.piece(token))} {probability:.0%}"
        if text.cell_len + cell_len(words) > width:
            break
        text.append(words, "bold" if token == one.id else "")
    return text


def _style(probability: float) -> str:
    return next(style for limit, style in _STYLES if probability < limit)
