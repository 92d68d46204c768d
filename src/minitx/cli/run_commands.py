"""`minitx report`, `diagnose`, `profile`, `export`: what a run was, and what comes out of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, Run, RunDirectory, complete_runs, show_result, takes
from minitx.config import ExportRequest, LoadConfig, ReportSettings
from minitx.config.overrides import config_from_options


@takes(ReportSettings)
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run directories; several are drawn over each other. The newest run if none.",
            show_default=False,
            autocompletion=complete_runs,
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
    from minitx.report.pages.run_curves import plotting_library

    settings = config_from_options(ReportSettings, options)
    # Before minutes are spent on measuring.
    plotting_library()

    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    with EvaluationProgress(sys.stderr) as progress:
        progress.update("loading torch", 0, 0)
        with many_imports():
            from minitx.report.pages.run_page import page_path, run_page
            from minitx.report.pages.templates import write_page
            from minitx.report.terminal.printable import printed_name
            from minitx.workflows.load import say_used
            from minitx.workflows.report import gather

        stories = gather(runs or [], settings, progress.update)
        path = out or page_path(stories)
        progress.update("measuring heads and drawing the page", 0, 0)
        write_page(run_page(stories), path)
    say_used(run.checkpoint for run in stories.runs if run.holdout or run.study)
    typer.echo(f"Wrote {printed_name(path)}", err=True)


def diagnose(run: RunDirectory = None, json: Json = False) -> None:
    """Name what went wrong in a run: the evidence, the likely cause, and the fix to try.

    Its metrics are read again, and its last checkpoint is looked into.
    """
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    with EvaluationProgress(sys.stderr) as progress:
        progress.update("looking into the last checkpoint", 0, 0)
        with many_imports():
            from minitx.report.training.diagnosis_report import diagnosis_report
            from minitx.workflows.diagnose import diagnose as diagnose_run
            from minitx.workflows.load import say_used

        diagnosis = diagnose_run(run)
    show_result(diagnosis.to_json() if json else diagnosis_report(diagnosis))
    say_used([diagnosis.checkpoint])


def profile(
    run: RunDirectory = None,
    steps: Annotated[int, typer.Option(help="Steps to measure.")] = 20,
    device: Annotated[
        str, typer.Option(help="Where to measure.", metavar="auto|cpu|cuda|mps")
    ] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(help="Number format; the run's if left out.", metavar="float32|bfloat16|auto"),
    ] = None,
    json: Json = False,
) -> None:
    """Show where a training step's time goes: attention, MLP, norms, head, optimizer, data.

    A copy of the run's last checkpoint is trained for a few steps; the run is not changed.
    """
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    with EvaluationProgress(sys.stderr) as progress:
        progress.update(f"measuring {steps:,} steps twice", 0, 0)
        with many_imports():
            from minitx.report.training.profile_report import profile_json, profile_report
            from minitx.workflows.load import say_used
            from minitx.workflows.profile import profile_run

        profile = profile_run(run, steps, device, dtype)
    show_result(profile_json(profile) if json else profile_report(profile))
    say_used([profile.checkpoint])


@takes(ExportRequest)
@takes(LoadConfig, only=("checkpoint",))
def export(run: Run = None, **options: Any) -> None:
    """Write a model as a file that other programs run.

    minitx export --gguf model.gguf        the newest run, for llama.cpp

    minitx export runs/a --gguf a.gguf --type q8_0

    minitx export --onnx model.onnx        for onnxruntime
    """
    request = config_from_options(ExportRequest, options)
    checkpoint = config_from_options(LoadConfig, options).checkpoint
    with many_imports():
        from minitx.report.terminal.printable import printed_name
        from minitx.workflows.export import export as export_model
        from minitx.workflows.load import say_used

    model, written = export_model(run, checkpoint, request)
    for path in written:
        typer.echo(f"Wrote {printed_name(path)}", err=True)
    say_used([model.directory])
