"""`minitx runs`: all runs at a glance, and what is done with them beside training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, complete_runs, takes
from minitx.config import ReportSettings
from minitx.config.overrides import config_from_options

if TYPE_CHECKING:
    from minitx.checkpoint.rundir import RunDirectory

runs = typer.Typer()

Name = Annotated[
    Path, typer.Argument(help="Run, by its name or path.", autocompletion=complete_runs)
]
Names = Annotated[
    list[Path] | None,
    typer.Argument(help="Runs, by name or path.", autocompletion=complete_runs),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@runs.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False) -> None:
    """See all runs: their state, bits per byte, size and age; those that compare stand together.

    minitx runs                            all runs in runs/

    minitx runs compare corpus-001 corpus-002

    minitx runs prune                      keep the best and the last checkpoint of each
    """
    if context.invoked_subcommand is not None:
        return
    from minitx.checkpoint.run_changes import all_runs, disk_bytes
    from minitx.workflows.many_runs import overview

    paths = all_runs()
    found = overview(paths)
    if json:
        _print_json({"runs": [run.to_json() for run in found]})
        return
    from rich.console import Console

    from minitx.report.terminal.runs_view import runs_table

    if not found:
        typer.echo("There is no run yet in runs/. Train one with: minitx train corpus.txt")
        return
    console = Console(highlight=False)
    for part in runs_table(found, disk_bytes(paths)[0], console.width):
        console.print(part)


@runs.command()
def show(run: Name, json: Json = False) -> None:
    """Show one run: how it went, what it was made of, and its checkpoints."""
    from minitx.checkpoint.run_changes import whole_run
    from minitx.workflows.many_runs import facts, overview

    directory = whole_run(run)
    known = facts(directory)
    if json:
        _print_json(known)
        return
    from minitx.report.terminal.runs_view import run_facts

    _print(*run_facts(known, overview([directory.path])[0]))


@runs.command()
def rename(
    run: Name, name: Annotated[str, typer.Argument(help="New name; the run stays where it is.")]
) -> None:
    """Give a run another name."""
    from minitx.checkpoint.run_changes import rename_run, whole_run
    from minitx.report.terminal.printable import run_path

    typer.echo(f"It is {run_path(rename_run(whole_run(run), name))} now.")


@runs.command()
def rm(runs: Names = None, yes: Yes = False) -> None:
    """Remove runs with all their files; never one that is being trained."""
    from minitx.checkpoint.run_changes import disk_bytes, remove_run, require_idle
    from minitx.config.checks import require

    require(bool(runs), "no run was named", "Name those to remove; minitx runs lists them")
    directories = _whole_runs(runs or [])
    for run in directories:
        require_idle(run)
    sizes = [disk_bytes([run.path])[1] for run in directories]
    freed = disk_bytes([run.path for run in directories])[1]
    if _agreed([str(run.path) for run in directories], sizes, freed, yes):
        for run in directories:
            remove_run(run)
        _tell_freed(freed)


@runs.command()
@takes(ReportSettings, only=("eval", "max_tokens", "checkpoint", "device"))
def compare(first: Name, second: Name, json: Json = False, **options: Any) -> None:
    """Say what two runs were set to differently, and whether one is better or that is chance.

    The test reads their common holdout with both models; --no-eval leaves it out.
    """
    from minitx.errors import MinitxError
    from minitx.workflows.many_runs import differences, run_name

    settings = config_from_options(ReportSettings, options)
    pair = _whole_runs([first, second])
    from minitx.config.checks import require

    require(len(pair) == 2, f"run {first} was named twice", "Name two runs")
    differing = differences(*pair)
    comparison, why = None, "--no-eval was given"
    if settings.eval:
        from minitx.report.evaluation.evaluation_progress import EvaluationProgress

        with EvaluationProgress(sys.stderr) as progress:
            progress.update("loading torch", 0, 0)
            with many_imports():
                from minitx.workflows.report import compare_runs

            try:
                comparison = compare_runs([run.path for run in pair], settings, progress.update)
            except MinitxError as error:
                why = error.what
    names = [run_name(run.path) for run in pair]
    if json:
        told = comparison.to_json() if comparison else None
        known = {"runs": names, "differences": differing, "comparison": told}
        _print_json(known if comparison else {**known, "left_out": why})
        return
    from rich.console import Console

    from minitx.report.terminal.runs_view import differences_table

    console = Console(highlight=False)
    console.print(differences_table(names, differing, console.width))
    if comparison is not None:
        from minitx.report.evaluation.holdout_report import print_reports

        print_reports([comparison], full=False)
    else:
        typer.echo(f"No test on a common holdout: {why}.")


@runs.command()
def prune(runs: Names = None, yes: Yes = False) -> None:
    """Free space: keep the best and the last checkpoint of each run, or of those named.

    Runs that are being trained, and those without a whole checkpoint, are left alone.
    """
    from minitx.checkpoint.run_changes import (
        all_runs,
        disk_bytes,
        prunable,
        prune_run,
        require_idle,
    )
    from minitx.errors import MinitxError

    doomed: dict[RunDirectory, list[Path]] = {}
    for run in _whole_runs(runs or all_runs()):
        try:
            require_idle(run)
            doomed[run] = prunable(run)
        except MinitxError as error:
            typer.echo(f"{error.what}: left alone.", err=True)
    paths = [path for found in doomed.values() for path in found]
    freed = disk_bytes(paths)[1]
    sizes = [disk_bytes([path])[1] for path in paths]
    if not paths:
        typer.echo("Nothing to free: runs have their best and last checkpoint alone.")
    elif _agreed(list(map(str, paths)), sizes, freed, yes):
        for run in doomed:
            prune_run(run)
        _tell_freed(freed)


def _whole_runs(paths: Sequence[Path]) -> list[RunDirectory]:
    from minitx.checkpoint.run_changes import whole_run

    found = {run.path: run for run in map(whole_run, paths)}
    return list(found.values())


def _agreed(names: list[str], sizes: list[int], freed: int, yes: bool) -> bool:
    """Whether a person agrees to what is shown; where nobody can be asked, --yes must say so."""
    from minitx.config.checks import require
    from minitx.report.terminal.printable import run_path
    from minitx.report.terminal.runs_view import to_remove
    from minitx.report.terminal.units import bytes_

    _print(to_remove(zip(map(run_path, names), sizes, strict=True)))
    if yes:
        return True
    require(sys.stdin.isatty(), "nobody can be asked here, and --yes was not given", "Give --yes")
    try:
        agreed = typer.confirm(f"Remove {'it' if len(names) == 1 else 'them'} ({bytes_(freed)})?")
    except typer.Abort:
        typer.echo(err=True)  # Leave the line of the question.
        raise
    if not agreed:
        typer.echo("Nothing was removed.")
    return agreed


def _tell_freed(freed: int) -> None:
    from minitx.report.terminal.units import bytes_

    typer.echo(f"Freed {bytes_(freed)}.")


def _print_json(values: Any) -> None:
    from minitx.report.terminal.printable import json_line

    typer.echo(json_line(values))


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)
