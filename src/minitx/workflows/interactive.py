"""Generate for somebody who watches: a text as it comes, or line after line at a prompt.

What is written where is left to a view, such as `minitx.report.generation_screen`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from minitx.config import SamplingConfig
from minitx.config.options import options_of
from minitx.config.toml import typed
from minitx.errors import BadInputError
from minitx.generation import Generation, stream
from minitx.tokenizer import Tokenizer
from minitx.workflows.load import LoadedModel

_SETTINGS = [option.name for option in options_of(SamplingConfig) if option.kind in (int, float)]

HELP = """\
Write a text, and the model continues it. A line that begins with / is a command:
  /temperature 0.5      change a setting; also /top-k 40, /top-k off, /seed 7
  /temperature          show one setting
  /settings             show all settings
  /probs                show each token's probability, or stop showing it
  /help                 show this help
  /quit                 leave (or Ctrl-D; Ctrl-C stops a text)
"""


class GenerationView(Protocol):
    """Shows what is generated."""

    def stream(self, prompt: str, pieces: Iterator[str]) -> None:
        """A text that comes in pieces."""

    def samples(self, generations: Sequence[Generation]) -> None:
        """Several complete texts of one prompt."""

    def probabilities(self, generations: Sequence[Generation], tokenizer: Tokenizer) -> None:
        """Complete texts with the probability of each token."""

    def message(self, text: str) -> None:
        """Lines that answer a command."""


def continue_text(
    model: LoadedModel,
    view: GenerationView,
    prompt: str,
    config: SamplingConfig,
    with_probabilities: bool = False,
) -> None:
    """Continue a prompt and show it: as it comes, if there is one text and no probabilities.

    Raises:
        BadInputError: as in `generate`; nothing was shown then.
    """
    if with_probabilities:
        generations = model.sample([prompt], config, record_probabilities=True)
        view.probabilities(generations, model.tokenizer)
    elif config.num_samples > 1:
        view.samples(model.sample([prompt], config))
    else:
        view.stream(prompt, stream(model.model, model.tokenizer, prompt, config))


@dataclass(eq=False)
class Conversation:
    """What `minitx generate --interactive` does with each line that a person types.

    Commands change the settings, and whether each token's probability is shown.
    """

    model: LoadedModel
    view: GenerationView
    config: SamplingConfig
    with_probabilities: bool = False

    def answer(self, line: str) -> bool:
        """Continue a text, or obey a command; False if that was to leave.

        Raises:
            BadInputError: there is no such command, or the text can't be continued.
        """
        if line in ("/quit", "/exit"):
            return False
        if line == "/help":
            self.view.message(HELP)
        elif line == "/settings":
            self.view.message(settings_text(self.config))
        elif line == "/probs":
            self.with_probabilities = not self.with_probabilities
        elif line.startswith("/"):
            self.config = changed(self.config, line)
            self.view.message(settings_text(self.config, _key(line)))
        elif line:
            continue_text(self.model, self.view, line, self.config, self.with_probabilities)
        return True


def changed(config: SamplingConfig, line: str) -> SamplingConfig:
    """Apply one setting, like ``/top-k 40``; a name alone changes nothing.

    Raises:
        BadInputError: there is no such setting, or its value can't be.
    """
    key, value = _key(line), line.partition(" ")[2].strip()
    name = key.replace("_", "-")
    if key not in _SETTINGS:
        near = difflib.get_close_matches(key, _SETTINGS, n=1)
        fix = f"Did you mean /{near[0].replace('_', '-')}" if near else "See /settings"
        raise BadInputError(f"there is no setting /{name}", fix)
    if not value:
        return config
    parsed: float | None = None
    try:
        if key != "top_k" or value != "off":
            parsed = float(value) if "." in value or "e" in value.lower() else int(value)
    except ValueError:
        raise BadInputError(f"/{name} is {value!r}", "Give a number") from None
    return dataclasses.replace(config, **{key: typed(SamplingConfig, key, parsed, "setting")})


def settings_text(config: SamplingConfig, only: str | None = None) -> str:
    """All settings, or one of them, as lines that can be typed."""
    values = {key: getattr(config, key) for key in _SETTINGS if only in (None, key)}
    return "".join(
        f"/{key.replace('_', '-')} {'off' if value is None else value}\n"
        for key, value in values.items()
    )


def _key(line: str) -> str:
    # The field that a line like "/top-k 40" names.
    return line[1:].strip().partition(" ")[0].replace("-", "_")
