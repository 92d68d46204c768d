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
        "This page is made from the commands themselves. A default of – means that the command "
        "chooses, as the help text says.",
    ]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        parts.extend(_command(f"minitx {name}", command))
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}"
    yield _prose(command.help or "", name)
    context = command.make_context(name, [], resilient_parsing=True)
    yield "    " + " ".join([name, *command.collect_usage_pieces(context)])
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        is_argument = parameter.param_type_name == "argument"
        usual = "Arguments" if is_argument else "Options"
        panel = getattr(parameter, "rich_help_panel", None) or usual
        panels.setdefault(panel, []).append(_row(name, parameter, is_argument, context))
    for panel, rows in panels.items():
        yield f"**{panel}**"
        yield "\n".join(["| | value | default | |", "| --- | --- | --- | --- |", *rows])


def _row(command: str, parameter: Any, is_argument: bool, context: Any) -> str:
    names = [parameter.name] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    if not (parameter.help or "").strip():
        raise UndocumentedError(f"{command}: {names[0]} has no help text")
    shown = ", ".join(f"`{_cell(name)}`" for name in names)
    cells = (shown, _value(parameter, context), _default(parameter), _cell(parameter.help))
    return f"| {' | '.join(cells)} |"


def _value(parameter: Any, context: Any) -> str:
    if getattr(parameter, "is_flag", False) or parameter.secondary_opts:
        return ""
    value = parameter.metavar
    if value is None:
        describe = getattr(parameter, "display_type", None) or parameter.make_metavar
        value = describe(context)
    several = " several" if getattr(parameter, "multiple", False) else ""
    return f"`{_cell(value.strip('<>'))}`{several}"


def _default(parameter: Any) -> str:
    default = parameter.default
    if default is None or default == () or default == []:
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    if callable(default):
        return "–"
    return f"`{_cell(str(default))}`"


def _prose(text: str, name: str) -> str:
    """Help as paragraphs; those that are examples as code."""
    if not text.strip():
        raise UndocumentedError(f"{name} has no help text")
    paragraphs = inspect.cleandoc(text.replace("\b", "")).split("\n\n")
    code = [f"    {p}" if p.startswith("minitx ") else p for p in paragraphs]
    return "\n\n".join(code)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
