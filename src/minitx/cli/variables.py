"""Every flag is also an environment variable: `MINITX_TRAIN_BATCH_SIZE` is `train --batch-size`.

Its value counts as if the flag had been given, unless the command line has the flag. Flags that may
be repeated take several values, with spaces between them; truths are 1 or 0.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.main import get_command

from minitx.config.options import Config, options_of

OTHERS = ("MINITX_SERVE_TOKEN",)
"""That begin as those of a command do, and are no flag's."""

_log = logging.getLogger("minitx")


def command_line(app: typer.Typer) -> Any:
    """The command of an app, whose options read their variables."""
    root = get_command(app)
    for words, command in commands_of(root):
        for option in options_in(command):
            option.envvar = "_".join(["MINITX", *words, _flag(option)]).replace("-", "_").upper()
            option.show_envvar = False  # One line of the documentation says it for all.
    return root


def commands_of(command: Any, words: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, each with the words that call it."""
    yield tuple(words), command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands_of(inner, [*words, word])


def options_in(command: Any) -> list[Any]:
    """Its options, without those that only print something."""
    options = [param for param in command.params if param.param_type_name == "option"]
    return [option for option in options if not option.is_eager]


def warn_of_unknown(root: Any, arguments: Sequence[str]) -> None:
    """Warn of variables that look like those of the command that is called, and are none."""
    for word in [word for word in arguments if word in root.commands][:1]:
        below = [option for _, command in commands_of(root.commands[word])
                 for option in options_in(command)]  # fmt: skip
        known = [*(option.envvar for option in below), *OTHERS]
        for name in sorted(os.environ):
            if name.startswith(f"MINITX_{word.upper()}_") and name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f". Did you mean {near[0]}?" if near else ""
                _log.warning("warning: %s is no option of minitx %s%s", name, word, hint)


def naming_variable(message: str, root: Any, arguments: Sequence[str]) -> str:
    """An error that speaks of an option, with the variable that has set it, if one has."""
    command = root
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    keys = {option.word: option.name for config in Config.__subclasses__()
            for option in options_of(config)}  # fmt: skip
    for option in options_in(command):
        names = {*option.opts, *option.secondary_opts, keys.get(option.name)}
        told = names & set(message.replace("'", " ").replace(":", " ").split())
        given = any(word.partition("=")[0] in names for word in arguments)
        if told and not given and os.environ.get(option.envvar):
            return f"{option.envvar}: {message}"
    return message


def _flag(option: Any) -> str:
    return str(next(name for name in option.opts if name.startswith("--"))).removeprefix("--")
