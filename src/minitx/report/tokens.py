"""Generated tokens with their probabilities: what temperature and the cuts do, made visible."""

from __future__ import annotations

import math

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from minitx.generation import Chosen, Generation
from minitx.report.terminal import visible
from minitx.report.token_labels import token_label
from minitx.tokenizer import Tokenizer
from minitx.training.perplexity import perplexity

# From unlikely to likely; each is legible on a dark and on a light ground.
_STYLES = ((0.01, "bold red"), (0.1, "red"), (0.5, "yellow"), (1.01, "green"))

# Of the table below, with the space between them, but for the first and the last.
_COLUMNS_BETWEEN = 56


def coloured_text(generation: Generation, tokenizer: Tokenizer) -> Text:
    """The prompt dimmed, then each token coloured by its probability in the model."""
    text = Text(visible(generation.prompt), style="dim")
    text = Text().append_text(text)
    for one in generation.chosen:
        piece = tokenizer.piece(one.id)
        text.append(visible(piece), _style(math.exp(one.log_probability)))
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

    Args:
        generation: with its tokens recorded.
        tokenizer: of the model.
        width: columns; as many alternatives are shown as fit.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("token", no_wrap=True)
    for heading in ("probability", "drawn with", "of", "entropy, bits", "perplexity"):
        # A heading of two words takes two lines; none is cut.
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    labels = [token_label(tokenizer.piece(one.id)) for one in generation.chosen]
    longest = max(map(cell_len, ["token", *labels]))
    likeliest = max(12, width - _COLUMNS_BETWEEN - longest)
    table.add_column("likeliest", no_wrap=True, overflow="ellipsis", max_width=likeliest)
    total = 0.0
    for number, (one, label) in enumerate(zip(generation.chosen, labels, strict=True), start=1):
        total -= one.log_probability
        probability = math.exp(one.log_probability)
        table.add_row(
            Text(label, _style(probability)),
            f"{probability:.1%}",
            f"{math.exp(one.sampled_log_probability):.1%}",
            f"{one.kept:,}",
            f"{one.entropy / math.log(2):.2f}",
            f"{perplexity(total / number):.2f}",
            _alternatives(one, tokenizer),
        )
    return table


def _alternatives(one: Chosen, tokenizer: Tokenizer) -> Text:
    text = Text()
    for token, probability in one.alternatives:
        if token < tokenizer.vocab_size:
            style = "bold" if token == one.id else ""
            text.append(f"{token_label(tokenizer.piece(token))} {probability:.0%}  ", style)
    return text


def _style(probability: float) -> str:
    return next(style for limit, style in _STYLES if probability < limit)
