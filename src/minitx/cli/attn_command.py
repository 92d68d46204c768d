"""`minitx attn`: draw what a model looks at while it reads a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minitx.cli import many_imports
from minitx.cli.flags import Json, Run, takes
from minitx.config import AttentionRequest, LoadConfig


@takes(AttentionRequest)
@takes(LoadConfig, only=("checkpoint", "device"))
def attn(
    run: Run = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text to read; the beginning of the holdout if left out.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to explore in a browser.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture (needs matplotlib).")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write all maps as NumPy arrays.")] = None,
    json: Json = False,
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Draw with ASCII alone.")] = False,
    **options: Any,
) -> None:
    """Draw what a model looks at: attention maps, head roles, logit lens, ablation.

    With nothing but a run: its most telling head, and the role of every head.
    """
    from minitx.config.overrides import config_from_options

    request = config_from_options(AttentionRequest, options)
    load = config_from_options(LoadConfig, options)
    from minitx.report.evaluation.evaluation_progress import EvaluationProgress

    text, written = "", list[Path]()
    try:
        with EvaluationProgress(sys.stderr) as progress:
            progress.update("looking into the model", 0, 0)
            with many_imports():
                from rich.console import Console

                from minitx.checkpoint.rundir import resolve_checkpoint, use_checkpoint
                from minitx.report.attention.attention_output import (
                    study_json,
                    study_screen,
                    write_study,
                )
                from minitx.report.terminal.printable import printed_name
                from minitx.workflows.attend import PAGE_PROMPT, SHORT_PROMPT, open_study
                from minitx.workflows.load import say_used

            n_tokens = PAGE_PROMPT if html else SHORT_PROMPT
            study = use_checkpoint(
                lambda: resolve_checkpoint(run, load.checkpoint),
                lambda checkpoint: open_study(checkpoint, prompt, n_tokens, load.device),
            )
            if json:
                # Before a file is written: it may be refused.
                text = study_json(study, request)
            written.extend(write_study(study, request, html=html, png=png, npz=npz))
            # All is measured before anything is printed, so that an error stands alone.
            console = Console(highlight=False, soft_wrap=False)
            on_screen = not (json or html or png or npz)
            screen = study_screen(study, request, console, ascii_only) if on_screen else []
    finally:
        for path in written:
            typer.echo(f"Wrote {printed_name(path)}", err=True)
    if json:
        typer.echo(text)
    for part in screen:
        console.print(part)
    say_used([study.checkpoint])
    if request.check_mask and not study.mask_check.passed:
        raise typer.Exit(1)
