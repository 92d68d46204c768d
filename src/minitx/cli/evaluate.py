"""`minitx eval`: loss and perplexity on text that a model was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minitx.errors import BadInputError

if TYPE_CHECKING:
    from minitx.workflows.evaluate import EvaluationReport, EvaluationSettings


def evaluate(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs or checkpoints to measure (the newest run if none), and text files to "
            "measure them on.",
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        bool, typer.Option("--holdout", help="Score the run's holdout, also beside text files.")
    ] = False,
    context: Annotated[
        int | None, typer.Option(help="Most tokens a prediction sees; the model's if left out.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens scored by each window; fewer than the context fill contexts."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Score about so many, evenly spaced; 0 for all.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last", help="Which checkpoint of a run.")
    ] = "best",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16")] = "auto",
) -> None:
    """Measure loss, perplexity and bits per byte, over the whole text, each token once.

    minitx eval --holdout                 the newest run on its holdout

    minitx eval runs/corpus-001 other.txt  a run on another text
    """
    from minitx.checkpoint.rundir import resolve_checkpoint
    from minitx.config.checks import require_one_of, require_range
    from minitx.config.training import DEVICES, DTYPES

    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    require_one_of("--device", device, DEVICES)
    require_one_of("--dtype", dtype, DTYPES)
    require_range("--max-tokens", max_tokens, 0, 10**15)
    which: Literal["best", "last"] = "last" if checkpoint == "last" else "best"
    models: list[Path] = []
    texts: list[Path] = []
    for target in targets or []:
        (models if target.is_dir() else texts).append(target)
    for text in texts:
        if not text.exists():
            raise BadInputError(f"{text} does not exist", "Name a run, a checkpoint or a text file")
    named: list[Path | None] = [*models] or [None]
    directories = [resolve_checkpoint(model, which) for model in named]

    from minitx.workflows.evaluate import EvaluationSettings

    settings = EvaluationSettings(context, stride, max_tokens, device, dtype)
    reports = _measure(directories, texts, holdout or not texts, settings)
    if json:
        import json as json_module

        typer.echo(json_module.dumps([report.to_json() for report in reports], indent=2))
        return
    from rich.console import Console

    from minitx.report.evaluation_screen import evaluation_table

    console = Console(highlight=False)
    if len(directories) == 1:
        console.print(f"{directories[0]}", style="dim")
    console.print(evaluation_table(reports))


def _measure(
    directories: list[Path], texts: list[Path], holdout: bool, settings: EvaluationSettings
) -> list[EvaluationReport]:
    from minitx.report.evaluation_progress import EvaluationProgress
    from minitx.workflows.evaluate import evaluate_file, evaluate_holdout

    reports = []
    with EvaluationProgress(sys.stderr) as progress:
        for directory in directories:
            if holdout:
                reports.append(evaluate_holdout(directory, settings, progress.named("holdout")))
            for text in texts:
                told = progress.named(text.name)
                reports.append(evaluate_file(directory, str(text), settings, told))
    return reports
