"""What went wrong in a run, by name: what `minitx diagnose` does, as a library call."""

from __future__ import annotations

import os
from pathlib import Path

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory, use_checkpoint
from minitx.compute import choose_compute
from minitx.corpus import load_encoded
from minitx.diagnosis.review import CheckpointReview, Diagnosis, merged, review_metrics
from minitx.errors import BadInputError, MinitxError
from minitx.training.logging.metrics_file import read_metrics


def diagnose(path: Path | None) -> Diagnosis:
    """Look at the metrics and the last checkpoint of a run; nothing in it is changed.

    Without a path it is the newest run.

    Raises:
        BadInputError: there is no such run, or it has neither metrics nor a checkpoint.
    """
    run = RunDirectory.open(path)
    config = run.read_config()
    has_metrics = os.path.lexists(run.metrics_file)
    records = list(read_metrics(run.metrics_file)) if has_metrics else []
    told, others, checks, curves = review_metrics(records, config)
    if not has_metrics:
        checks = {"metrics": "there are none"}
    finished = any(
        record["kind"] == "end" and record.get("reason") in ("finished", "early-stopping")
        for record in records
    )
    checkpoint: Path | None = None
    try:
        loaded = use_checkpoint(lambda: run.usable_checkpoint("last"), load_model)
        checkpoint = loaded.directory
        corpus = load_encoded(run.data)
    except MinitxError as error:
        # A run that broke before its first checkpoint still has metrics to look at.
        if not has_metrics:
            raise BadInputError(
                f"{run.path} has nothing to look at: {error.what}", "Train it first, or resume it"
            ) from None
        checks["checkpoint"] = f"can't be looked at: {error.what}"
    else:
        step = int(checkpoint.name.removeprefix("step-"))
        checks["checkpoint"] = f"step {step:,}"
        compute, engine = choose_compute("cpu", config.train.dtype), config.train.engine
        review = CheckpointReview(
            loaded.model, loaded.tokenizer, corpus, step, compute, engine,
            list(zip(curves.steps, curves.holdout, strict=True)), checks=checks,
        )  # fmt: skip
        review.look(judge_fit=finished and not told and not others)
        others += review.findings
    return Diagnosis(run.path, checkpoint, merged(told, others), checks)
