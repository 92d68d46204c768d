"""`minitx resume`: continue a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def resume(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory; the newest run if left out.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps of the whole run, those done included.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="New peak rate of AdamW.")] = None,
    muon_learning_rate: Annotated[float | None, typer.Option(help="New peak rate of Muon.")] = None,
    grad_clip: Annotated[
        float | None, typer.Option(help="New largest gradient norm; 0 is off.")
    ] = None,
    on_spike: Annotated[
        str | None,
        typer.Option(metavar="warn|rollback|stop", help="After a loss spike or divergence."),
    ] = None,
    max_rollbacks: Annotated[int | None, typer.Option(help="After so many, stop.")] = None,
    early_stopping: Annotated[
        int | None,
        typer.Option(help="Stop after so many evaluations without a better holdout loss."),
    ] = None,
    keep_checkpoints: Annotated[
        int | None, typer.Option(help="How many of the newest checkpoints stay.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to compute; as before if left out.", metavar="auto|cpu|cuda|mps"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0 for all.")] = None,
    allow_changed_corpus: Annotated[
        bool,
        typer.Option("--allow-changed-corpus", help="Go on although the text has changed."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also for TensorBoard.")
    ] = False,
) -> None:
    """Continue a run from its last checkpoint, also to more steps than first planned.

    With no option, it ends with the numbers it would have had if it had never stopped.
    """
    from minitx.report.training.training_view import choose_view

    changes = {
        "steps": steps,
        "learning_rate": learning_rate,
        "muon_learning_rate": muon_learning_rate,
        "grad_clip": grad_clip,
        "on_spike": on_spike,
        "max_rollbacks": max_rollbacks,
        "early_stopping": early_stopping,
        "keep_checkpoints": keep_checkpoints,
        "device": device,
        "threads": threads,
    }
    view = choose_view(sys.stdout)
    try:
        view.on_phase("loading torch")
        from minitx.workflows.resume import ResumeRequest
        from minitx.workflows.resume import resume as resume_run

        request = ResumeRequest(
            run=run,
            train={key: value for key, value in changes.items() if value is not None},
            allow_changed_corpus=allow_changed_corpus,
            tensorboard=tensorboard,
        )
        resume_run(request, [view])
    finally:
        view.close()
