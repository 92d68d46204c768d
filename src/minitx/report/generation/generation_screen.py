"""What `minitx generate` prints: text as it comes, JSON lines, or tokens with probabilities."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from minitx.errors import BadInputError
from minitx.generation import Generation
from minitx.report.generation.probability_view import coloured_text, legend, probability_table
from minitx.report.terminal.printable import json_line, visible
from minitx.report.terminal.units import duration
from minitx.tokenizer import Tokenizer
from minitx.workflows.generate import as_json
from minitx.workflows.interactive import Conversation, Said

_PROGRESS_SECONDS = 1.0
_CLEAR_LINE = "\r\x1b[K"


class GenerationScreen:
    """Prints generations; nothing in them reaches the terminal as a control sequence."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._console = Console(file=out, highlight=False, soft_wrap=True)

    def show(self, prompt: str, said: Said, tokenizer: Tokenizer) -> None:
        """Print what became of a prompt, or of a line of a conversation."""
        if isinstance(said, str):
            self.message(said)
        elif not isinstance(said, list):
            self.stream(prompt, said)
        elif said[0].chosen:
            self.probabilities(said, tokenizer)
        else:
            self.samples(said)

    def stream(self, prompt: str, pieces: Iterable[str]) -> None:
        """Print a text as it comes, behind its prompt."""
        before = Text().append(visible(prompt), "dim")
        for piece in pieces:
            self._console.print(before + Text(visible(piece)), end="")
            self._out.flush()
            before = Text()
        self.message("\n")

    def message(self, text: str) -> None:
        """Print lines as they are."""
        self._out.write(text)
        self._out.flush()

    def samples(self, generations: Sequence[Generation]) -> None:
        """Print complete texts, one after the other."""
        for one in generations:
            self._heading(f"sample {one.sample + 1} of {len(generations)}")
            self._text(one)

    def probabilities(self, generations: Sequence[Generation], tokenizer: Tokenizer) -> None:
        """Print each continuation coloured by probability, and a table of its tokens."""
        for one in generations:
            if len(generations) > 1:
                self._heading(f"sample {one.sample + 1} of {len(generations)}")
            self._console.print(coloured_text(one, tokenizer))
            self._console.print()
            if self._console.color_system is not None and not self._console.no_color:
                self._console.print(legend())
            self._console.print(probability_table(one, tokenizer, self._console.width))

    def json_lines(
        self, generations: Iterable[Generation], total: int, tokenizer: Tokenizer
    ) -> None:
        """Print one JSON object a line as they come, of so many in all; progress on stderr."""
        began = told = time.monotonic()
        shows = sys.stderr.isatty() and not self._out.isatty()
        for done, one in enumerate(generations, start=1):
            self._out.write(json_line(as_json(one, tokenizer)) + "\n")
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
        for one in generations:
            if as_json:
                values = {
                    "prompt": one.prompt, "rank": one.sample, "text": one.text, "ids": one.ids,
                }  # fmt: skip
                self.message(json_line(values) + "\n")
            else:
                self._heading(f"beam {one.sample + 1}")
                self._text(one)

    def _text(self, one: Generation) -> None:
        self._console.print(Text().append(visible(one.prompt), "dim").append(visible(one.text)))

    def _heading(self, words: str) -> None:
        self._console.print(Text(f"── {words} ──", style="bold"))


def converse(conversation: Conversation, screen: GenerationScreen) -> None:
    """Answer what a person types, line by line, until that is to leave or the input ends.

    A `BadInputError` is printed, Ctrl-C stops an answer.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and editing keys)
    print("Write a text to continue, or /help")
    while True:
        try:
            line = input("> ")
            said = conversation.answer(line)
            if said is None:
                return
            screen.show(line, said, conversation.model.tokenizer)
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
