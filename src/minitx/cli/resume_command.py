"""`minitx resume`: continue a run."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from minitx.cli.flags import Loggers, RunDirectory, TensorBoard, takes
from minitx.config import TrainConfig
from minitx.config.train_config import RESUMABLE


@takes(TrainConfig, planned=True, only=RESUMABLE)
def resume(
    run: RunDirectory = None,
    allow_changed_corpus: Annotated[
        bool, typer.Option("--allow-changed-corpus", help="Go on although the text has changed.")
    ] = False,
    tensorboard: TensorBoard = False,
    logger: Loggers = None,
    **options: Any,
) -> None:
    """Continue a run from its last checkpoint, also to more steps than first planned.

    With no option, it ends with the numbers it would have had if it had never stopped.

    The steps given with --steps include those already done.
    """
    from minitx.config.overrides import tables_from_options
    from minitx.report.training.training_view import choose_view
    from minitx.training.observer import Phase

    changes = tables_from_options(**options)["train"]
    with contextlib.closing(choose_view(sys.stdout)) as view:
        view.observe(Phase("loading torch"))
        from minitx.workflows.resume import ResumeRequest
        from minitx.workflows.resume import resume as resume_run

        loggers = (*(logger or ()), *(("tensorboard",) if tensorboard else ()))
        request = ResumeRequest(run, changes, allow_changed_corpus, loggers)
        resume_run(request, [view])
