"""The `minitx` command: its six subcommands, and errors shown as one line.

Nothing here or in the command modules imports torch until a command runs, so that help is
instant.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from minitx import __version__
from minitx.cli.attn import attn
from minitx.cli.evaluate import evaluate
from minitx.cli.generate import generate
from minitx.cli.resume import resume
from minitx.cli.tokenize import tokenize
from minitx.cli.train import train
from minitx.errors import MinitxError

app = typer.Typer(
    name="minitx",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("tokenize")(tokenize)
app.command("train")(train)
app.command("resume")(resume)
app.command("generate")(generate)
app.command("eval")(evaluate)
app.command("attn")(attn)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"minitx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Build, train, resume, run, measure and look inside a small transformer on your own text.

    Start with: minitx train corpus.txt --budget 3m
    """


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    try:
        app()
    except MinitxError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
