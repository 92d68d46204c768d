"""`minitx report`: everything about a run on one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli.flags import takes
from minitx.config import ReportSettings


@takes(ReportSettings)
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run directories; several are drawn over each other. The newest run if none.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; report.html in the run, or comparison.html in the first of "
            "several, if left out."
        ),
    ] = None,
    **options: Any,
) -> None:
    """Write everything about a run on one page: curves, samples, holdout, attention, config.

    The page is one file that fetches nothing; it may be sent to others as it is.

    minitx report                          the newest run

    minitx report runs/a runs/b            two runs on one set of axes
    """
    from minitx.config.overrides import config_from_options
    from minitx.report.pages.run_curves import plotting_library

    settings = config_from_options(ReportSettings, options)
    # Before minutes are spent on measuring.
    plotting_library()

    from minitx.report.evaluation.evaluation_progress import EvaluationProgress
    from minitx.report.pages.run_page import page_path, run_page
    from minitx.report.pages.templates import write_page
    from minitx.report.terminal.printable import printed_name
    from minitx.workflows.load import say_used
    from minitx.workflows.report import gather

    with EvaluationProgress(sys.stderr) as progress:
        stories = gather(runs or [], settings, progress.update)
        path = out or page_path(stories)
        write_page(run_page(stories), path)
    say_used(run.checkpoint for run in stories.runs if run.holdout or run.study)
    typer.echo(f"Wrote {printed_name(path)}", err=True)
