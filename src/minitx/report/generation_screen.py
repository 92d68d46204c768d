"""What `minitx generate` prints: text as it comes, JSON lines, or tokens with probabilities."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from minitx.config import SamplingConfig
from minitx.generation import Generation
from minitx.report.terminal import json_line, visible
from minitx.report.tokens import coloured_text, legend, probability_table
from minitx.report.units import duration
from minitx.workflows.generate import as_json, in_batches
from minitx.workflows.load import LoadedModel

_PROGRESS_SECONDS = 1.0
_CLEAR_LINE = "\r\x1b[K"


class GenerationScreen:
    """Prints generations; nothing in them reaches the terminal as a control sequence.

    Args:
        speaker: the model that generates.
        out: where to.
    """

    def __init__(self, speaker: LoadedModel, out: TextIO) -> None:
        self._speaker = speaker
        self._out = out
        self._console = Console(file=out, highlight=False, soft_wrap=True)

    def text(self, prompt: str, config: SamplingConfig) -> None:
        """Print the prompt and its continuation as it comes; several, one after the other."""
        if config.num_samples == 1:
            # Checked before anything is printed, so that an error stands alone.
            shown = False

            def show(_: int, piece: str) -> None:
                nonlocal shown
                if not shown:
                    self._print(Text(visible(prompt), style="dim"))
                    shown = True
                self._print(Text(visible(piece)))

            self._speaker.sample([prompt], config, show)
            self._out.write("\n")
            self._out.flush()
            return
        for one in self._speaker.sample([prompt], config):
            self._heading(f"sample {one.sample + 1} of {config.num_samples}")
            self._whole(one)

    def probabilities(self, prompt: str, config: SamplingConfig) -> None:
        """Print each continuation coloured by probability, and a table of its tokens."""
        tokenizer = self._speaker.tokenizer
        for one in self._speaker.sample([prompt], config, record_probabilities=True):
            if config.num_samples > 1:
                self._heading(f"sample {one.sample + 1} of {config.num_samples}")
            self._console.print(coloured_text(one, tokenizer))
            self._console.print()
            if self._console.color_system is not None and not self._console.no_color:
                self._console.print(legend())
            self._console.print(probability_table(one, tokenizer, self._console.width))

    def json_lines(self, prompts: Sequence[str], config: SamplingConfig) -> None:
        """Print one JSON object a line, in the order of the prompts; progress on stderr."""
        began = told = time.monotonic()
        total = len(prompts) * config.num_samples
        shows = sys.stderr.isatty() and not self._out.isatty()
        for done, one in enumerate(in_batches(self._speaker, prompts, config), start=1):
            self._out.write(json_line(as_json(one, self._speaker.tokenizer)) + "\n")
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

    def beams(self, prompts: Sequence[str], beams: int, max_new_tokens: int, as_json: bool) -> None:
        """Print the likeliest continuations of each prompt, best first."""
        for prompt in prompts:
            for one in self._speaker.beam_search(prompt, beams, max_new_tokens):
                if as_json:
                    values = {
                        "prompt": prompt, "rank": one.sample, "text": one.text, "ids": one.ids,
                    }  # fmt: skip
                    self._out.write(json_line(values) + "\n")
                else:
                    self._heading(f"beam {one.sample + 1}")
                    self._whole(one)
        self._out.flush()

    def _whole(self, one: Generation) -> None:
        text = Text(visible(one.prompt), style="dim")
        self._console.print(Text().append_text(text).append(visible(one.text)))

    def _heading(self, words: str) -> None:
        self._console.print(Text(f"── {words} ──", style="bold"))

    def _print(self, text: Text) -> None:
        self._console.print(text, end="")
        self._out.flush()
