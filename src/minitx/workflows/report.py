"""Everything about a run on one page: what `minitx report` gathers, as library calls.

story = gather_run(RunDirectory.open(None), ReportSettings())
story.history.best, story.holdout, story.study
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minitx.checkpoint.manifest import weights_digest
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import EvaluationSettings, ReportSettings, RunConfig
from minitx.corpus.encoded import Description, read_description
from minitx.errors import BadInputError, MinitxError
from minitx.evaluation.holdout_figures import ComparisonReport, HoldoutReport
from minitx.files import read_json
from minitx.training.history import RunHistory, read_history
from minitx.training.logging.metrics_file import read_metrics
from minitx.workflows.attend import PAGE_PROMPT, AttentionStudy, open_study
from minitx.workflows.evaluate import Progress, compare_checkpoints, evaluate_holdout, no_progress
from minitx.workflows.session_checkpoint import MADE_WITH_FILE


@dataclass(frozen=True, eq=False)
class RunStory:
    """One run, as far as it can be told.

    Attributes:
        corpus: digests of the text and the tokenizer; None if they can't be read.
        checkpoint: that was measured; None before there is a whole one.
        weights_digest: SHA-256 of its `model.safetensors`; None without one.
        made_with: versions and the machine that made it; empty if that was not noted.
        holdout, study: what `minitx eval` and `minitx attn` find; None if left out.
        left_out: for `eval` and `attn`, why it is not there.
    """

    run: RunDirectory
    config: RunConfig
    history: RunHistory
    corpus: Description | None = None
    checkpoint: Path | None = None
    weights_digest: str | None = None
    made_with: dict[str, str] = field(default_factory=dict)
    holdout: HoldoutReport | None = None
    study: AttentionStudy | None = None
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stories:
    """The runs of one report.

    Attributes:
        runs: at least one, each with a name of its own.
        comparison: of several on one holdout; None if there is one run, or they can't be compared.
        left_out: why there is no comparison, in words; None where there is one or nobody asked.
    """

    runs: tuple[RunStory, ...]
    comparison: ComparisonReport | None = None
    left_out: str | None = None


def gather(
    paths: Sequence[Path], settings: ReportSettings, progress: Progress = no_progress
) -> Stories:
    """Read and measure the runs of a report, or checkpoints in them; none for the newest run.

    Of several runs, the holdout is compared and nothing else is measured.

    Raises:
        BadInputError: there is no such run, one has nothing to show, or is named twice; or the
            prompt does not fit the model.
        DamagedFileError: the config of a run can't be read.
    """
    runs = [RunDirectory.open(path) for path in paths] or [RunDirectory.open(None)]
    for number, run in enumerate(runs):
        if run.path.resolve() in (other.path.resolve() for other in runs[:number]):
            raise BadInputError(f"run {run.path} is named twice", "Name each run once")
    if len(runs) == 1:
        return Stories((gather_run(runs[0], settings, progress),))
    told = ReportSettings(eval=False, attn=False, checkpoint=settings.checkpoint)
    stories = tuple(gather_run(run, told, progress) for run in runs)
    if not settings.eval:
        return Stories(stories, left_out="--no-eval was given")
    checkpoints: list[Path] = []
    for story in stories:
        if story.checkpoint is None:
            return Stories(stories, left_out=f"run {story.run.path} has no checkpoint yet")
        checkpoints.append(story.checkpoint)
    how = EvaluationSettings(max_tokens=settings.max_tokens, device=settings.device)
    try:
        return Stories(stories, compare_checkpoints(checkpoints, None, how, progress))
    except MinitxError as error:
        return Stories(stories, left_out=error.what)


def gather_run(
    run: RunDirectory, settings: ReportSettings, progress: Progress = no_progress
) -> RunStory:
    """Read what a run noted, and measure its checkpoint.

    What can't be had yet (a run has no checkpoint in its first minute, and may have no holdout)
    is left out, with the reason.

    Raises:
        BadInputError: it has neither metrics nor a checkpoint, or the prompt does not fit.
        DamagedFileError: its config can't be read.
    """
    config = run.read_config()
    history = read_history(read_metrics(run.metrics_file))
    checkpoint: Path | None = None
    left_out: dict[str, str] = {}
    try:
        checkpoint = resolve_checkpoint(run.path, settings.checkpoint)
    except MinitxError as error:
        if not len(history.steps) and not history.evaluations:
            raise BadInputError(
                f"run {run.path} has nothing to report yet: {error.what}", "Train it for a while"
            ) from None
        left_out = dict.fromkeys(("eval", "attn"), error.what)
    corpus: Description | None = None
    with contextlib.suppress(MinitxError):
        corpus = read_description(run.data)
    if checkpoint is None:
        return RunStory(run, config, history, corpus, left_out=left_out)
    made_with: dict[str, str] = {}
    # Runs of earlier versions have no such file; a report is no reason to refuse them.
    with contextlib.suppress(OSError, ValueError):
        content = read_json(checkpoint / MADE_WITH_FILE)
        made_with = {key: str(value) for key, value in content.items()}
    holdout: HoldoutReport | None = None
    study: AttentionStudy | None = None
    if settings.eval:
        how = EvaluationSettings(max_tokens=settings.max_tokens, device=settings.device)
        try:
            holdout = evaluate_holdout(checkpoint, how, progress)
        except MinitxError as error:
            if not checkpoint.is_dir():  # Pruned since it was found: look again.
                return gather_run(run, settings, progress)
            left_out["eval"] = error.what
    else:
        left_out["eval"] = "--no-eval was given"
    if settings.attn:
        try:
            study = open_study(checkpoint, settings.prompt, PAGE_PROMPT, settings.device)
        except MinitxError as error:
            if not checkpoint.is_dir():
                return gather_run(run, settings, progress)
            if settings.prompt is not None:
                raise
            left_out["attn"] = error.what
    else:
        left_out["attn"] = "--no-attn was given"
    digest = weights_digest(checkpoint)
    return RunStory(
        run, config, history, corpus, checkpoint, digest, made_with, holdout, study, left_out
    )
