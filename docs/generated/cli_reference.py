"""The reference of the command line, read from the commands themselves.

Every command, argument and option must have a help text: one without stops the build.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command


class UndocumentedError(Exception):
    """A command or an option has no help text."""


def cli_reference(app: typer.Typer) -> str:
    """The page, in Markdown.

    Raises:
        UndocumentedError: naming the command or option that has no help text.
    """
    root = get_command(app)
    parts = [
        "# Commands",
        _prose(root.help or "", "minitx"),
        "This page is made from the commands themselves; `-h` or `--help` after a command prints "
        "its part. Where no default is named, an option is off, or the command chooses.",
    ]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        parts.extend(_command(f"minitx {name}", command))
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}"
    yield _prose(command.help or "", name)
    context = command.make_context(name, [], resilient_parsing=True)
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panel = getattr(parameter, "rich_help_panel", None) or usual
        panels.setdefault(panel, []).append(_item(name, parameter, context))
    for panel, items in panels.items():
        yield f"**{panel}**"
        yield "\n".join(items)
    for word, inner in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {word}", inner)


def _item(command: str, parameter: Any, context: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    if not (parameter.help or "").strip():
        raise UndocumentedError(f"{command}: {names[0]} has no help text")
    shown = ", ".join(f"`{name}`" for name in names) + _value(parameter, context)
    return f"- {shown}: {_one_line(parameter.help)}{_default(parameter)}"


def _value(parameter: Any, context: Any) -> str:
    if getattr(parameter, "is_flag", False) or parameter.secondary_opts:
        return ""
    value = parameter.metavar
    if value is None:
        describe = getattr(parameter, "display_type", None) or parameter.make_metavar
        value = describe(context).strip("<>")
    if value.startswith("list["):
        value = value[len("list[") : -1]
    # Arguments that take the rest of the line, and options that may be given again.
    many = getattr(parameter, "multiple", False) or parameter.nargs == -1
    return f" *{_one_line(value)}*{', several' if many else ''}"


def _default(parameter: Any) -> str:
    default = parameter.default
    if default in (None, (), []) or callable(default) or default is False:
        return ""
    return f" Default: {'on' if default is True else f'`{_one_line(str(default))}`'}."


def _prose(text: str, name: str) -> str:
    """Help as paragraphs; those that are examples as one block of code."""
    if not text.strip():
        raise UndocumentedError(f"{name} has no help text")
    paragraphs = inspect.cleandoc(text.replace("\b", "")).split("\n\n")
    prose = [paragraph for paragraph in paragraphs if not paragraph.startswith("minitx ")]
    code = [f"    {paragraph}" for paragraph in paragraphs if paragraph.startswith("minitx ")]
    return "\n\n".join([*prose, "\n".join(code)] if code else prose)


def _one_line(text: str) -> str:
    return " ".join(text.split())
