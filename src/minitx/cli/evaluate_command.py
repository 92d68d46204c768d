"""`minitx eval`: loss and perplexity on text that a model was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, takes
from minitx.config import EvaluationSettings, LoadConfig


@takes(EvaluationSettings, defaults={"unknown": "error"})
@takes(LoadConfig, only=("checkpoint",))
def evaluate(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs or checkpoints to measure (the newest run if none), and text files to "
            "measure them on. Several runs are compared.",
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Score the run's holdout, also beside text files.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Show all: where the loss comes from, calibration, copying, surprising passages.",
        ),
    ] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Measure loss, perplexity and bits per byte, over the whole text, each token once.

    Before them a verdict on the fit, after them what the model must beat.

    With --full also where the loss comes from, surprises, and whether it copies.

    minitx eval --holdout                  the newest run on its holdout

    minitx eval runs/corpus-001 other.txt  a run on another text

    minitx eval runs/a runs/b              which is better, and is that chance?

    minitx eval --quantize int8            what do weights of 8 bits cost?
    """
    from minitx.config.overrides import config_from_options

    settings = config_from_options(EvaluationSettings, options)
    checkpoint = config_from_options(LoadConfig, options).checkpoint
    with many_imports():
        from minitx.report.evaluation.evaluation_progress import EvaluationProgress
        from minitx.report.evaluation.holdout_report import print_reports
        from minitx.report.terminal.printable import json_line
        from minitx.workflows.evaluate import evaluate_targets
        from minitx.workflows.load import say_used

    with EvaluationProgress(sys.stderr) as progress:
        reports = evaluate_targets(targets or [], holdout, checkpoint, settings, progress.update)
    if json:
        typer.echo(json_line({"reports": [report.to_json() for report in reports]}))
    else:
        print_reports(reports, full, with_stride=settings.stride is not None)
    models = [of.model for report in reports for of in getattr(report, "reports", [report])]
    say_used(model.checkpoint for model in models)
