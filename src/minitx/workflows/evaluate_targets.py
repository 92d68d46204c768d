"""Runs and texts as they are named to `minitx eval`, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import EvaluationSettings
from minitx.errors import BadInputError
from minitx.evaluation.holdout_figures import Report
from minitx.workflows.evaluate import (
    Progress,
    compare_checkpoints,
    compare_with_quantized,
    evaluate_file,
    evaluate_holdout,
    no_progress,
)


def evaluate_targets(
    targets: Sequence[Path],
    holdout: bool,
    which: Literal["best", "last"],
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> list[Report]:
    """Measure each model that is named on each text; several models are compared.

    Args:
        targets: runs or checkpoints (the newest run if none), and text files.
        holdout: measure on the run's holdout, too, where text files are named.
        which: which checkpoint of a run.
        settings: how; with `quantize`, one model is compared with itself.
        progress: told what is being done.

    Returns:
        A report for each text.

    Raises:
        BadInputError: a target does not exist, or as in `evaluate_holdout` and its like.
    """
    models: list[Path | None] = [target for target in targets if target.is_dir()]
    texts = [target for target in targets if not target.is_dir()]
    for text in texts:
        if not text.exists():
            raise BadInputError(f"{text} does not exist", "Name a run, a checkpoint or a text file")
    checkpoints = [resolve_checkpoint(model, which) for model in models or [None]]
    sources = [None] if holdout or not texts else []
    return [
        _measured(checkpoints, source, settings, progress)
        for source in (*sources, *map(str, texts))
    ]


def _measured(
    checkpoints: Sequence[Path],
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress,
) -> Report:
    if len(checkpoints) > 1:
        return compare_checkpoints(checkpoints, source, settings, progress)
    if settings.quantize is not None:
        return compare_with_quantized(checkpoints[0], source, settings, progress)
    if source is None:
        return evaluate_holdout(checkpoints[0], settings, progress)
    return evaluate_file(checkpoints[0], source, settings, progress)
