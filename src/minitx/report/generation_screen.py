"""What `minitx generate` prints: text as it comes, JSON lines, or tokens with probabilities."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from minitx.errors import BadInputError
from minitx.generation import Chosen, Generation
from minitx.report.terminal.printable import json_line, token_label, visible
from minitx.report.terminal.tables import table
from minitx.report.terminal.units import duration
from minitx.tokenizer import Tokenizer
from minitx.training.observer import perplexity
from minitx.workflows.chat import Chat
from minitx.workflows.generate import as_json
from minitx.workflows.interactive import Conversation, Said

_PROGRESS_SECONDS = 1.0
_CLEAR_LINE = "\r\x1b[K"

# Probabilities below each limit; every style is legible on a dark and on a light ground.
_STYLES = ((0.01, "bold red", "below 1 %"), (0.1, "red", "1 to 10 %"),
           (0.5, "yellow", "10 to 50 %"), (1.01, "green", "above 50 %"))  # fmt: skip

# Of the table below: of the headings between the first and the last, and between two columns.
_HEADINGS = ("probability", "drawn\nwith", "of", "entropy,\nbits", "perplexity")
_GAP = 3
_SHORTEST_LIKELIEST = 12


class GenerationScreen:
    """Prints generations; nothing in them reaches the terminal as a control sequence."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._console = Console(file=out, highlight=False, soft_wrap=True)

    def show(self, prompt: str, said: Said, tokenizer: Tokenizer) -> None:
        """Print what became of a prompt, or of a line of a conversation."""
        if isinstance(said, str):
            self._write(said)
        elif not isinstance(said, list):
            self._stream(prompt, said)
        else:
            for generation in said:
                if len(said) > 1:
                    self._heading(f"sample {generation.sample + 1} of {len(said)}")
                if said[0].chosen:
                    self._probabilities(generation, tokenizer)
                else:
                    self._text(generation)

    def _stream(self, prompt: str, pieces: Iterable[str]) -> None:
        before = Text().append(visible(prompt), "dim")
        for piece in pieces:
            self._console.print(before + Text(visible(piece)), end="")
            self._out.flush()
            before = Text()
        self._write("\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _probabilities(self, generation: Generation, tokenizer: Tokenizer) -> None:
        # The prompt dimmed, then each token coloured by its probability in the model.
        text = Text().append(visible(generation.prompt), "dim")
        for token in generation.chosen:
            text.append(visible(tokenizer.piece(token.id)), _style(token))
        self._console.print(text)
        self._console.print()
        if self._console.color_system is not None and not self._console.no_color:
            parts = ((f" {name} ", style) for _, style, name in _STYLES)
            self._console.print(Text.assemble("probability  ", *parts))
        self._console.print(probability_table(generation, tokenizer, self._console.width))

    def json_lines(
        self, generations: Iterable[Generation], total: int, tokenizer: Tokenizer
    ) -> None:
        """Print one JSON object a line as they come, of so many in all; progress on stderr."""
        began = told = time.monotonic()
        shows = sys.stderr.isatty() and not self._out.isatty()
        for done, generation in enumerate(generations, start=1):
            self._out.write(json_line(as_json(generation, tokenizer)) + "\n")
            now = time.monotonic()
            if shows and now - told > _PROGRESS_SECONDS:
                told = now
                left = (now - began) / done * (total - done)
                self._out.flush()
                sys.stderr.write(f"{_CLEAR_LINE}{done:,} of {total:,}, {duration(left)} left")
                sys.stderr.flush()
        self._out.flush()
        if told != began:
            sys.stderr.write(_CLEAR_LINE)

    def beams(self, generations: Iterable[Generation], as_json: bool) -> None:
        """Print the likeliest continuations of a prompt, best first."""
        for beam in generations:
            if as_json:
                values = {
                    "prompt": beam.prompt, "rank": beam.sample, "text": beam.text, "ids": beam.ids,
                }  # fmt: skip
                self._write(json_line(values) + "\n")
            else:
                self._heading(f"beam {beam.sample + 1}")
                self._text(beam)

    def _text(self, generation: Generation) -> None:
        text = Text().append(visible(generation.prompt), "dim")
        self._console.print(text.append(visible(generation.text)))

    def _heading(self, words: str) -> None:
        self._console.print(Text(f"── {words} ──", style="bold"))


def converse(conversation: Conversation | Chat, screen: GenerationScreen) -> None:
    """Answer what a person types, line by line, until that is to leave or the input ends.

    A `BadInputError` is printed, Ctrl-C stops an answer.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and editing keys)
    print(conversation.greeting, end="")
    while True:
        try:
            line = input(conversation.cue)
            said = conversation.answer(line)
            if said is None:
                return
            shown = line if conversation.repeats_prompt else ""
            screen.show(shown, said, conversation.model.tokenizer)
        except BadInputError as error:
            width = shutil.get_terminal_size().columns
            # Between words; a terminal would break lines inside them.
            print(textwrap.fill(f"error: {visible(str(error))}", width, break_on_hyphens=False))
        except KeyboardInterrupt:
            # Stops what is being written; Ctrl-D ends the conversation.
            print()
        except EOFError:
            print()
            return


# ---- tokens with their probabilities: what temperature and the cuts do, made visible -------------


def probability_table(generation: Generation, tokenizer: Tokenizer, width: int) -> RenderableType:
    """One row for each token: how likely it was, among what, and the perplexity so far.

    As many alternatives are shown as fit `width` columns.
    """
    labels = [token_label(tokenizer.piece(token.id)) for token in generation.chosen]
    rows = list(_numbers(generation))
    names = ["token", *_HEADINGS]
    columns = [labels, *([row[i] for row in rows] for i in range(len(_HEADINGS)))]
    left = width - sum(
        _GAP + max(map(cell_len, [*name.split("\n"), *column]))
        for name, column in zip(names, columns, strict=True)
    )
    with_likeliest = left >= _SHORTEST_LIKELIEST
    shown = [*names, "likeliest"] if with_likeliest else names
    made = table(shown, numbers=range(1, len(names)), show_edge=False)
    for token, label, numbers in zip(generation.chosen, labels, rows, strict=True):
        likeliest = [_likeliest(token, tokenizer, left)] if with_likeliest else []
        made.add_row(Text(label, _style(token)), *numbers, *likeliest)
    return made


def _numbers(generation: Generation) -> Iterator[tuple[str, ...]]:
    # Of each token, in the order of `_HEADINGS`.
    total = 0.0
    for n_tokens, token in enumerate(generation.chosen, start=1):
        total -= token.log_probability
        yield (
            f"{math.exp(token.log_probability):.1%}",
            f"{math.exp(token.sampled_log_probability):.1%}",
            f"{token.kept:,}",
            f"{token.entropy / math.log(2):.2f}",
            f"{perplexity(total / n_tokens):.2f}",
        )


def _likeliest(chosen: Chosen, tokenizer: Tokenizer, width: int) -> Text:
    # As many as fit, the token itself in bold.
    text = Text()
    for token, probability in chosen.alternatives:
        if token >= tokenizer.vocab_size:
            continue
        between = "  " if text else ""
        words = f"{between}{token_label(tokenizer.piece(token))} {probability:.0%}"
        if text.cell_len + cell_len(words) > width:
            break
        text.append(words, "bold" if token == chosen.id else "")
    return text


def _style(token: Chosen) -> str:
    probability = math.exp(token.log_probability)
    return next(style for limit, style, _ in _STYLES if probability < limit)
