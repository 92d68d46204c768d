"""`minitx doctor` and `man`: what computes here, and the manual page."""

from __future__ import annotations

from typing import Annotated

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, show_result


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
        from minitx.report.terminal.doctor_view import doctor_view
        from minitx.workflows.doctor import bug_report, examine

        found = examine()
    if report:
        typer.echo(bug_report(found))
    else:
        show_result(*([found] if json else doctor_view(found)))


def man(context: typer.Context) -> None:
    """Open the manual page; written into a file or a pipe, it is what man reads.

    minitx man

    minitx man > ~/.local/share/man/man1/minitx.1
    """
    from minitx.cli.man_page import show_man_page

    show_man_page(context.find_root().command)
