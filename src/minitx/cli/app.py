"""The `minitx` command: its subcommands, and errors shown as one line.

Nothing here or in the command modules imports torch until a command runs, so that help is
instant.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from minitx import __version__
from minitx.cli.course_commands import learn
from minitx.cli.machine_commands import doctor, man
from minitx.cli.many_runs_commands import runs
from minitx.cli.model_commands import attn, chat, evaluate, explore, generate, serve
from minitx.cli.run_commands import diagnose, export, profile, report
from minitx.cli.training_commands import corpus, plan, resume, tokenize, train
from minitx.cli.variables import command_line, naming_variable, warn_of_unknown
from minitx.errors import MinitxError, as_sentence, is_out_of_memory
from minitx.files import lookup_error
from minitx.report.terminal.printable import visible
from minitx.training.launched import is_launched

# A full disk or quota (Windows has none), the largest file allowed, a terminal that is gone.
_NOT_TAKEN = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EIO)


class _Commands(TyperGroup):
    """Tells Ctrl-C from a command that ends with 130 on its own, which typer does not."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _InterruptedError from None


class _InterruptedError(Exception):
    """Ctrl-C, and nothing has been said of it yet."""


app = typer.Typer(
    name="minitx",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("corpus")(corpus)
app.command("tokenize")(tokenize)
app.command("plan")(plan)
app.command("train")(train)
app.command("resume")(resume)
app.command("generate")(generate)
app.command("chat")(chat)
app.command("serve")(serve)
app.command("eval")(evaluate)
app.command("attn")(attn)
app.command("explore")(explore)
app.command("diagnose")(diagnose)
app.command("report")(report)
app.command("profile")(profile)
app.command("doctor")(doctor)
app.command("man")(man)
app.add_typer(runs, name="runs")
app.command("export")(export)
app.add_typer(learn, name="learn")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"minitx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Build, train, resume, run, measure and look inside a small transformer on your own text.

    Start with: minitx train corpus.txt --budget 3m
    """


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    # A stream that was closed before the start (`>&-`) takes and gives nothing.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    log = logging.getLogger("minitx")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(_LogLine())
    commands = command_line(app)
    try:
        if not is_launched():  # Else the process that started this one has said it.
            warn_of_unknown(commands, sys.argv[1:])
        code = commands(prog_name="minitx", standalone_mode=False)
        sys.stdout.flush()
    except MinitxError as error:
        _stop(naming_variable(str(error), commands, sys.argv[1:]), error.exit_code)
    except (BrokenPipeError, SystemExit) as end:
        # How rich and typer each take a reader (head, less) that went away; all is said.
        if BrokenPipeError not in (type(end), type(end.__context__)):
            raise
        code = 0
        _forget_output(sys.stdout, sys.stderr)
    except (KeyboardInterrupt, _InterruptedError):
        # Leave the line of a terminal in which ^C, or half a text, may stand.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr.isatty():
                sys.stdout.flush()
                sys.stderr.write("\n")
        _stop("stopped by Ctrl-C. What was saved before is whole", 130)
    except Exception as error:
        message = _usage_message(error) or _system_message(error)
        if message is None:
            raise
        _stop(naming_variable(message, commands, sys.argv[1:]), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_message(error: Exception) -> str | None:
    """One line for a flag that typer could not read; None for any other exception."""
    # Typer carries a click of its own, so its exceptions are known by what they can do.
    describe = getattr(error, "format_message", None)
    if describe is None:
        return "stopped" if type(error).__name__ == "Abort" else None
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "minitx")
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(context.get_help() + "\n" if context is not None else "")
        return "no command was given. Choose one of the commands above"
    return f"{as_sentence(' '.join(str(describe()).split()))} See {command} --help"


def _system_message(error: Exception) -> str | None:
    """One line where the system refuses memory, a name or output; None for other exceptions."""
    if is_out_of_memory(error):
        return (
            "memory ran out. Lower --batch-size, --context or the sizes of the model, or close "
            "other programs"
        )
    if not isinstance(error, OSError):
        return None
    name = str(error.filename or "output")
    if error.errno in _NOT_TAKEN:
        return f"{name} can't be written ({error.strerror}). Make room, or write elsewhere"
    # Asking whether a file exists says no to most bad names, but raises for one that is too long
    # or lies where this user may not look.
    if error.filename is not None and error.errno in (errno.ENAMETOOLONG, errno.EACCES):
        return str(lookup_error(name, error))
    return None


class _LogLine(logging.Handler):
    """Prints each message of the library in one line, on what stderr is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.INFO:
            # About output: it is told once the output is where it should be.
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{_one_line(record.getMessage())}\n")


def _stop(message: str, code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output(sys.stdout)
    try:
        # One line: a name in the message may hold a line feed.
        sys.stderr.write(f"error: {_one_line(message)}\n")
        sys.stderr.flush()
    except OSError:
        # The terminal is gone; the exit code still tells.
        _forget_output(sys.stderr)
    sys.exit(code)


def _one_line(message: str) -> str:
    return " ".join(visible(message).splitlines())


def _forget_output(*streams: TextIO) -> None:
    # What is still buffered would raise once more when Python ends.
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
