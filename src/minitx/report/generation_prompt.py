"""`minitx generate --interactive`: a prompt with history, and settings changed on the fly."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import shutil
import textwrap
from typing import Any

from minitx.config import SamplingConfig
from minitx.config.toml import build
from minitx.errors import BadInputError
from minitx.report.generation_screen import GenerationScreen
from minitx.report.terminal import visible
from minitx.workflows.load import LoadedModel

_NUMBERS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "max_new_tokens", "min_new_tokens", "num_samples",
    "seed",
)  # fmt: skip

HELP = """\
Write a text, and the model continues it. A line with / in front is a command:
  /temperature 0.5      change a setting; so do /top-k 40, /top-k off, /seed 7
  /temperature          say what it is
  /settings             all settings as they are
  /probs                show each token's probability, or no longer
  /help                 this
  /quit                 leave (or Ctrl-D; Ctrl-C ends a text)
"""


def ask_for_prompts(
    speaker: LoadedModel,
    screen: GenerationScreen,
    config: SamplingConfig,
    with_probabilities: bool = False,
) -> None:
    """Read prompts from the terminal until it ends, and print a continuation of each."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and editing keys)
    print(visible(str(speaker.directory)))
    print("Write a text to continue, or /help")
    while True:
        try:
            line = input("> ")
            if line in ("/quit", "/exit"):
                return
            if line == "/help":
                print(HELP, end="")
            elif line == "/settings":
                print(settings_text(config), end="")
            elif line == "/probs":
                with_probabilities = not with_probabilities
            elif line.startswith("/"):
                config = changed(config, line)
                print(settings_text(config, _key(line)), end="")
            elif line and with_probabilities:
                screen.probabilities(line, config)
            elif line:
                screen.text(line, config)
        except BadInputError as error:
            width = shutil.get_terminal_size().columns
            # Between words; a terminal would break lines inside them.
            print(textwrap.fill(f"error: {visible(str(error))}", width, break_on_hyphens=False))
        except KeyboardInterrupt:
            # Ends what is being written; Ctrl-D ends the conversation.
            print()
        except EOFError:
            print()
            return


def changed(config: SamplingConfig, line: str) -> SamplingConfig:
    """Apply one setting, like ``/top-k 40``; a name alone changes nothing.

    Raises:
        BadInputError: there is no such setting, or its value can't be.
    """
    key, value = _key(line), line.partition(" ")[2].strip()
    name = key.replace("_", "-")
    if key not in _NUMBERS:
        near = difflib.get_close_matches(key, _NUMBERS, n=1)
        fix = f"Did you mean /{near[0].replace('_', '-')}" if near else "See /settings"
        raise BadInputError(f"there is no setting /{name}", fix)
    if not value:
        return config
    parsed: Any
    try:
        if key == "top_k" and value == "off":
            parsed = None
        else:
            parsed = float(value) if "." in value or "e" in value.lower() else int(value)
    except ValueError:
        raise BadInputError(f"/{name} is {value!r}", "Give a number") from None
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for field in dataclasses.fields(config):
        if isinstance(values[field.name], dict):
            values.pop(field.name)
    rebuilt = build(SamplingConfig, {**values, key: parsed}, "setting")
    return dataclasses.replace(rebuilt, logit_bias=config.logit_bias)


def settings_text(config: SamplingConfig, only: str | None = None) -> str:
    """All numbers, or one of them, as lines that can be typed."""
    values = {key: getattr(config, key) for key in _NUMBERS if only in (None, key)}
    return "".join(
        f"/{key.replace('_', '-')} {'off' if value is None else value}\n"
        for key, value in values.items()
    )


def _key(line: str) -> str:
    # The field that a line like "/top-k 40" names.
    return line[1:].strip().partition(" ")[0].replace("-", "_")
