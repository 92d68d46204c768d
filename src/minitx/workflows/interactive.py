"""Generate for somebody who watches: a text as it comes, or line after line at a prompt."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minitx.config import SamplingConfig
from minitx.config.options import options_of
from minitx.config.toml import typed
from minitx.errors import BadInputError
from minitx.generation import Generation, stream
from minitx.workflows.load import LoadedModel

SETTINGS = [option.name for option in options_of(SamplingConfig) if option.kind in (int, float)]
"""What can be changed at a prompt."""

HELP = """\
Write a text, and the model continues it. A line that begins with / is a command:
  /temperature 0.5      change a setting (or /set temperature 0.5); /top-k off
  /temperature          show one setting
  /settings             show all settings
  /probs                show each token's probability, or stop showing it
  /help                 show this help
  /quit                 leave (or quit, exit, Ctrl-D; Ctrl-C stops a text)
"""


Said = str | Iterator[str] | list[Generation]
"""Lines that answer a command, a text that comes in pieces, or complete texts of one prompt."""


def continue_text(
    model: LoadedModel, prompt: str, config: SamplingConfig, with_probabilities: bool = False
) -> Said:
    """Continue a prompt: in pieces, if there is one text and no probabilities are asked for.

    Raises:
        BadInputError: as in `generate`.
    """
    if with_probabilities or config.num_samples > 1:
        return model.sample([prompt], config, record_probabilities=with_probabilities)
    return stream(model.model, model.tokenizer, prompt, config)


@dataclass(eq=False)
class Conversation:
    """What `minitx generate --interactive` does with each line that a person types.

    Commands change the settings, and whether each token's probability is shown.
    """

    model: LoadedModel
    config: SamplingConfig
    with_probabilities: bool = False
    greeting, cue = "Write a text to continue, or /help\n", "> "
    repeats_prompt = True

    def answer(self, line: str) -> Said | None:
        """Continue a text, or obey a command; None if that was to leave.

        Raises:
            BadInputError: there is no such command, or the text can't be continued.
        """
        command = line.strip()
        if command in ("/quit", "/exit", "quit", "exit"):
            return None
        if command == "/help":
            return HELP
        if command in ("/settings", "/set"):
            return settings_text(self.config)
        if command == "/probs":
            self.with_probabilities = not self.with_probabilities
        elif line.startswith("/"):
            self.config = changed(self.config, command)
            return settings_text(self.config, _key_and_value(command)[0])
        elif line:
            return continue_text(self.model, line, self.config, self.with_probabilities)
        return ""


def changed(
    config: SamplingConfig, line: str, settings: Sequence[str] = SETTINGS
) -> SamplingConfig:
    """Apply one of the settings, like ``/top-k 40``; a name alone changes nothing.

    Raises:
        BadInputError: there is no such setting, or its value can't be.
    """
    key, value = _key_and_value(line)
    name = key.replace("_", "-")
    if key not in settings:
        near = difflib.get_close_matches(key, settings, n=1)
        fix = f"Did you mean /{near[0].replace('_', '-')}?" if near else "See /settings"
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


def settings_text(
    config: SamplingConfig, only: str | None = None, settings: Sequence[str] = SETTINGS
) -> str:
    """All settings, or one of them, as lines that can be typed."""
    values = {key: getattr(config, key) for key in settings if only in (None, key)}
    return "".join(
        f"/{key.replace('_', '-')} {'off' if value is None else value}\n"
        for key, value in values.items()
    )


def _key_and_value(line: str) -> tuple[str, str]:
    # "/top-k 40", "/set top-k 40" and "/set top-k = 40" name a field and its value.
    words = line[1:].replace("=", " ", 1).removeprefix("set ").split(maxsplit=1)
    key, value = (*words, "", "")[:2]
    return key.replace("-", "_"), value.strip()
