"""`minitx doctor` and `man`: what computes here, and the manual page."""

from __future__ import annotations

from typing import Annotated

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json


def doctor(
    json: Json = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Print what a bug report needs: no path, text, host or user name."
        ),
    ] = False,
) -> None:
    """See what computes on this machine, what is missing, and what that would bring."""
    with many_imports():
        from rich.console import Console

        from minitx.report.terminal.doctor_view import doctor_view
        from minitx.report.terminal.printable import json_line
        from minitx.workflows.doctor import bug_report, examine

        found = examine()
    if json or report:
        typer.echo(bug_report(found) if report else json_line(found))
        return
    console = Console(highlight=False)
    for part in doctor_view(found):
        console.print(part)


def man(context: typer.Context) -> None:
    """Open the manual page; written into a file or a pipe, it is what man reads.

    minitx man

    minitx man > ~/.local/share/man/man1/minitx.1
    """
    from minitx.cli.man_page import show_man_page

    show_man_page(context.find_root().command)
