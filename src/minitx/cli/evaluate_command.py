"""`minitx eval`: loss and perplexity on text that a model was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from minitx.cli.imports import many_imports
from minitx.errors import BadInputError

if TYPE_CHECKING:
    from minitx.evaluation.holdout_figures import Report
    from minitx.workflows.evaluate import EvaluationSettings


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
    context: Annotated[
        int | None, typer.Option(help="Most tokens a prediction sees; the model's if left out.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens that each overlapping window scores, for the figure with fuller "
            "contexts; half the context if left out."
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Score about so many, evenly spaced; 0 for all.")
    ] = 0,
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Measure n-grams and compressors too."),
    ] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="The loss alone, without baselines and details.")
    ] = False,
    unknown: Annotated[
        str,
        typer.Option(
            metavar="error|replace",
            help="Refuse characters that a char tokenizer lacks, or score them as unknown.",
        ),
    ] = "error",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8|bfloat16",
            help="Round the weights, and show what it costs beside the model as it is.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last", help="Which checkpoint of a run.")
    ] = "best",
    device: Annotated[
        str, typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps")
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|float32|bfloat16", help="Of the matrix products; auto is float32, exact."
        ),
    ] = "auto",
) -> None:
    """Measure loss, perplexity and bits per byte, over the whole text, each token once.

    With them: what it must beat, where the loss comes from, what surprised the model, and whether
    it copies.

    minitx eval --holdout                  the newest run on its holdout

    minitx eval runs/corpus-001 other.txt  a run on another text

    minitx eval runs/a runs/b              which is better, and is that chance?

    minitx eval --quantize int8            what do weights of 8 bits cost?
    """
    with many_imports():
        from minitx.checkpoint.rundir import resolve_checkpoint
        from minitx.config.checks import require_one_of, require_range
        from minitx.config.train_config import DeviceName, DTypeName

    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    require_one_of("--device", device, get_args(DeviceName))
    require_one_of("--dtype", dtype, get_args(DTypeName))
    require_one_of("--unknown", unknown, ("error", "replace"))
    if quantize is not None:
        from minitx.config import WEIGHT_FORMATS

        require_one_of("--quantize", quantize, WEIGHT_FORMATS)
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

    settings = EvaluationSettings(
        context, stride, max_tokens, baselines, quick, device, dtype, unknown, quantize
    )
    sources = [None] if holdout or not texts else []
    reports = _measure(directories, [*sources, *map(str, texts)], settings)
    if json:
        from minitx.report.terminal.printable import json_line

        found = [report.to_json() for report in reports]
        typer.echo(json_line({"reports": found}))
    else:
        _print(reports)


def _measure(
    directories: list[Path], sources: list[str | None], settings: EvaluationSettings
) -> list[Report]:
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress
    from minitx.workflows.evaluate import (
        compare_checkpoints,
        compare_with_quantized,
        evaluate_file,
        evaluate_holdout,
    )

    reports: list[Report] = []
    with EvaluationProgress(sys.stderr) as progress:
        for source in sources:
            if len(directories) > 1:
                reports.append(compare_checkpoints(directories, source, settings, progress.update))
            elif settings.quantize is not None:
                reports.append(
                    compare_with_quantized(directories[0], source, settings, progress.update)
                )
            elif source is None:
                reports.append(evaluate_holdout(directories[0], settings, progress.update))
            else:
                reports.append(evaluate_file(directories[0], source, settings, progress.update))
    return reports


def _print(reports: list[Report]) -> None:
    from rich.console import Console
    from rich.text import Text

    from minitx.report.evaluation.holdout_report import holdout_report
    from minitx.report.terminal.heatmap import shading_for

    console = Console(highlight=False)
    for number, report in enumerate(reports):
        if number:
            console.print(Text())
        for part in holdout_report(report, shading_for(console), console.width):
            console.print(part)
