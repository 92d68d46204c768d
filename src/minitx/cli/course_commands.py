"""`minitx learn`: a course that checks itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

learn = typer.Typer()

Directory = Annotated[
    Path, typer.Option("--dir", help="Directory of the course; this one if left out.")
]


@learn.callback(invoke_without_command=True)
def check(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Check whenever the file is saved.")
    ] = False,
    hint: Annotated[
        bool, typer.Option("--hint", help="Give a hint, each time a plainer one; the third solves.")
    ] = False,
    exercise: Annotated[
        str | None, typer.Option(help="This exercise, and not the next one.", metavar="NAME")
    ] = None,
    directory: Directory = Path(),
) -> None:
    """Build a transformer yourself: exercises with gaps, and a judge that says what is wrong.

    Without a further word it checks the next exercise.

    minitx learn start course              lay the exercises out; then: cd course

    minitx learn --watch                   check the next one whenever you save it
    """
    if context.invoked_subcommand is not None:
        context.obj = directory
        return
    from minitx.errors import BadInputError
    from minitx.learn import checking
    from minitx.learn.progress import open_course
    from minitx.report import course_screen

    if watch and exercise is not None:
        what = "--watch follows the order of the course, and --exercise leaves it"
        raise BadInputError(what, "Give one of them")
    course = open_course(directory)
    only = None if exercise is None else checking.named_exercise(exercise)
    if hint:
        asked = only or course.next()
        if asked is not None:
            _print(course_screen.hint_lines(asked, *course.next_hint(asked)), is_code=True)
            return
    checked = None
    with contextlib.suppress(KeyboardInterrupt) if watch else contextlib.nullcontext():
        for checked in checking.watch(course) if watch else checking.check(course, only):
            _print(course_screen.checked_lines(checked, course))
    if checked is None:
        typer.echo("All exercises have passed.")
    elif not (watch or checked.verdict.passed or checked.verdict.empty):
        raise typer.Exit(1)


@learn.command()
def start(
    directory: Annotated[Path, typer.Argument(help="Directory to make.")],
    notebooks: Annotated[
        bool, typer.Option("--notebooks", help="Also as notebooks for Jupyter, one a chapter.")
    ] = False,
) -> None:
    """Lay the exercises out; in a directory that has them, only what is missing."""
    from minitx.learn.progress import start_course
    from minitx.report.terminal.printable import run_path, run_word

    n_files = start_course(directory, notebooks)
    typer.echo(f"Wrote {n_files} file{'s' if n_files != 1 else ''} to {run_path(directory)}.")
    first = "1-tokenizer-works.ipynb" if notebooks else "count_pairs.py, and call minitx learn"
    typer.echo(f"Next: cd {run_word(directory)}, open {first}")


@learn.command()
def status(context: typer.Context, directory: Directory = Path()) -> None:
    """Show the milestones, and which exercises have passed."""
    from minitx.learn.progress import open_course
    from minitx.report.course_screen import status_lines

    _print(status_lines(open_course(context.obj if directory == Path() else directory)))


def _print(lines: Iterable[RenderableType], is_code: bool = False) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        # Code is not wrapped: it is there to be copied.
        console.print(line, soft_wrap=is_code)
