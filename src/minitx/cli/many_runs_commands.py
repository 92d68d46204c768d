"""`minitx runs`: all runs at a glance, and what is done with them beside training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.checkpoint.run_changes import (
    all_runs,
    disk_bytes,
    prunable,
    prune_run,
    remove_run,
    rename_run,
    require_idle,
    whole_run,
)
from minitx.checkpoint.rundir import RunDirectory
from minitx.cli import many_imports
from minitx.cli.flags import Json, complete_runs, show_result, takes
from minitx.config import ReportSettings
from minitx.config.checks import require
from minitx.config.overrides import config_from_options
from minitx.errors import MinitxError
from minitx.report.terminal.printable import run_path
from minitx.report.terminal.units import bytes_

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
    from minitx.report.terminal.runs_view import runs_table
    from minitx.workflows.many_runs import overview

    paths = all_runs()
    found = overview(paths)
    if json:
        show_result({"runs": [run.to_json() for run in found]})
    elif found:
        show_result(*runs_table(found, disk_bytes(paths)[0]))
    else:
        typer.echo("There is no run yet in runs/. Train one with: minitx train corpus.txt")


@runs.command()
def show(run: Name, json: Json = False) -> None:
    """Show one run: how it went, what it was made of, and its checkpoints."""
    from minitx.report.terminal.runs_view import run_facts
    from minitx.workflows.many_runs import facts

    known = facts(whole_run(run))
    show_result(*([known] if json else run_facts(known)))


@runs.command()
def rename(
    run: Name, name: Annotated[str, typer.Argument(help="New name; the run stays where it is.")]
) -> None:
    """Give a run another name."""
    typer.echo(f"It is {run_path(rename_run(whole_run(run), name))} now.")


@runs.command()
def rm(runs: Names = None, yes: Yes = False) -> None:
    """Remove runs with all their files; never one that is being trained."""
    require(bool(runs), "no run was named", "Name those to remove; minitx runs lists them")
    directories = _whole_runs(runs or [])
    for run in directories:
        require_idle(run)
    if freed := _agreed_to_free([run.path for run in directories], yes):
        for run in directories:
            remove_run(run)
        typer.echo(f"Freed {freed}.")


@runs.command()
@takes(ReportSettings, only=("eval", "max_tokens", "checkpoint", "device"))
def compare(first: Name, second: Name, json: Json = False, **options: Any) -> None:
    """Say what two runs were set to differently, and whether one is better or that is chance.

    The test reads their common holdout with both models; --no-eval leaves it out.
    """
    from minitx.report.terminal.runs_view import differences_table
    from minitx.workflows.many_runs import differences, run_name

    settings = config_from_options(ReportSettings, options)
    pair = _whole_runs([first, second])
    require(len(pair) == 2, f"run {first} was named twice", "Name two runs")
    differing, names = differences(*pair), [run_name(run.path) for run in pair]
    comparison, why = None, "--no-eval was given"
    if settings.eval:
        from minitx.report.evaluation.evaluation_progress import EvaluationProgress

        with EvaluationProgress(sys.stderr) as progress:
            progress.update("loading torch", 0, 0)
            with many_imports():
                from minitx.report.evaluation.holdout_report import print_reports
                from minitx.workflows.report import compare_runs

            try:
                comparison = compare_runs([run.path for run in pair], settings, progress.update)
            except MinitxError as error:
                why = error.what
    if json:
        test = {"comparison": comparison.to_json()} if comparison else {"left_out": why}
        show_result({"runs": names, "differences": differing, "comparison": None, **test})
        return
    show_result(differences_table(names, differing))
    if comparison is not None:
        print_reports([comparison], full=False)
    else:
        typer.echo(f"No test on a common holdout: {why}.")


@runs.command()
def prune(runs: Names = None, yes: Yes = False) -> None:
    """Free space: keep the best and the last checkpoint of each run, or of those named.

    Runs that are being trained, and those without a whole checkpoint, are left alone.
    """
    doomed: dict[RunDirectory, list[Path]] = {}
    for run in _whole_runs(runs or all_runs()):
        try:
            require_idle(run)
            doomed[run] = prunable(run)
        except MinitxError as error:
            typer.echo(f"{error.what}: left alone.", err=True)
    paths = [path for found in doomed.values() for path in found]
    if not paths:
        typer.echo("Nothing to free: only the best and last checkpoints are left.")
    elif freed := _agreed_to_free(paths, yes):
        for run in doomed:
            prune_run(run)
        typer.echo(f"Freed {freed}.")


def _whole_runs(paths: Sequence[Path]) -> list[RunDirectory]:
    return list({run.path: run for run in map(whole_run, paths)}.values())


def _agreed_to_free(paths: list[Path], yes: bool) -> str:
    """How much that frees, if a person agrees; empty if not. --yes agrees where nobody is asked."""
    from minitx.report.terminal.tables import table

    sizes = [(run_path(path), bytes_(disk_bytes([path])[1])) for path in paths]
    freed = bytes_(disk_bytes(paths)[1])
    show_result(table(["", "frees"], sizes, numbers=[1]))
    if yes:
        return freed
    require(sys.stdin.isatty(), "nobody can be asked here, and --yes was not given", "Give --yes")
    try:
        agreed = typer.confirm(f"Remove {'it' if len(paths) == 1 else 'them'} ({freed})?")
    except typer.Abort:
        typer.echo(err=True)  # Leave the line of the question.
        raise
    if not agreed:
        typer.echo("Nothing was removed.")
    return freed if agreed else ""
