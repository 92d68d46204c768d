"""`minitx report`: everything about a run on one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer


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
    eval: Annotated[
        bool, typer.Option("--eval/--no-eval", help="Measure the holdout anew, with baselines.")
    ] = True,
    attn: Annotated[
        bool, typer.Option("--attn/--no-attn", help="Show what the model looks at.")
    ] = True,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text it looks at; the beginning of the holdout if left out."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Score about so many holdout tokens; 0 for all.")
    ] = 0,
    checkpoint: Annotated[
        str, typer.Option(metavar="best|last", help="Which checkpoint of a run is measured.")
    ] = "best",
    device: Annotated[
        str, typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps")
    ] = "auto",
) -> None:
    """Write everything about a run on one page: curves, samples, holdout, attention, config.

    The page is one file that fetches nothing; it may be sent to others as it is.

    minitx report                          the newest run

    minitx report runs/a runs/b            two runs on one set of axes
    """
    from minitx.config.checks import require_one_of, require_range
    from minitx.config.train_config import DeviceName
    from minitx.report.pages.run_curves import plotting_library

    require_one_of("--checkpoint", checkpoint, ("best", "last"))
    require_one_of("--device", device, get_args(DeviceName))
    require_range("--max-tokens", max_tokens, 0, 10**15)
    # Before minutes are spent on measuring.
    plotting_library()

    from minitx.report.evaluation.evaluation_progress import EvaluationProgress
    from minitx.report.pages.run_page import page_path, save_run_page
    from minitx.workflows.report import ReportSettings, gather

    which: Literal["best", "last"] = "last" if checkpoint == "last" else "best"
    settings = ReportSettings(eval, attn, prompt, max_tokens, which, device)
    with EvaluationProgress(sys.stderr) as progress:
        stories = gather(runs or [], settings, progress.update)
        path = out or page_path(stories)
        save_run_page(stories, path)
    typer.echo(f"Wrote {path}", err=True)
