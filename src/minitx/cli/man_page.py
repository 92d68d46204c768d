"""`minitx man`: the manual page, made from the commands as --help is."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minitx import __version__, errors
from minitx.cli.variables import commands_of


def show_man_page(root: Any) -> None:
    """Open the page in `man` on a terminal; else write it as `man` reads it."""
    page, viewer = man_page(root), shutil.which("man")
    if viewer is None or not sys.stdout.isatty():
        sys.stdout.write(page)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "minitx.1"
        path.write_text(page, encoding="utf-8")
        subprocess.run([viewer, str(path)], check=False)


def man_page(root: Any) -> str:
    """The page in the macros of man(7)."""
    lines = [
        f'.TH MINITX 1 "" "minitx {__version__}" "User Commands"',
        ".SH NAME", r"minitx \- build, train, measure and look inside a small transformer",
        ".SH SYNOPSIS", ".B minitx", ".I COMMAND", "[options]", ".SH DESCRIPTION",
        *_prose(root.help or ""), ".SH COMMANDS",
    ]  # fmt: skip
    for words, command in commands_of(root):
        if words:
            name = _text(" ".join(["minitx", *words]))
            arguments = [p for p in command.params if p.param_type_name == "argument"]
            takes = [_text(f"{p.name.upper()}{' ...' if p.nargs == -1 else ''}") for p in arguments]
            lines += [f'.SS "{" ".join([name, *takes])}"', *_prose(command.help or "")]
            for parameter in command.params:
                lines += [".TP", *_parameter(parameter), _text(" ".join(parameter.help.split()))]
    table = (errors.__doc__ or "").split("| --------- |")[1].splitlines()[1:]
    lines += [
        ".SH ENVIRONMENT", ".TP", r"\fBMINITX_COMMAND_FLAG\fR", "Sets a flag of a command, for "
        r"example \fBMINITX_TRAIN_BATCH_SIZE=8\fR. A flag that is given wins.",
        ".SH EXIT STATUS",
    ]  # fmt: skip
    for row in table:
        code, meaning = (cell.strip() for cell in row.strip("| ").split("|"))
        lines += [".TP", rf"\fB{code}\fR", _text(meaning)]
    lines += [".SH FILES", ".TP", r"\fBruns/\fR", "Where new runs go, and are looked for by name."]
    return "\n".join(lines) + "\n"


def _parameter(parameter: Any) -> Iterator[str]:
    if parameter.param_type_name == "argument":
        yield rf"\fI{_text(parameter.name.upper())}\fR"
        return
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = ", ".join(rf"\fB{_text(name)}\fR" for name in names)
    is_flag = getattr(parameter, "is_flag", False) or parameter.secondary_opts
    yield shown if is_flag else rf"{shown} \fI{_text(parameter.metavar or 'VALUE')}\fR"


def _prose(text: str) -> Iterator[str]:
    """Paragraphs of a docstring; examples stand as they are."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("minitx "):
            yield from (".PP", ".nf", _text(paragraph), ".fi")
        else:
            yield from (".PP", _text(" ".join(paragraph.split())))


def _text(text: str) -> str:
    """A line in which no character is a command to the formatter."""
    safe = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{safe}" if safe.startswith((".", "'")) else safe
