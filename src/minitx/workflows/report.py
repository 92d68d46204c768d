"""Everything about a run on one page: what `minitx report` gathers, as library calls.

story = gather_run(RunDirectory.open(None), ReportSettings())
story.history.best, story.holdout, story.study
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitx.checkpoint.manifest import weights_digest
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint, use_checkpoints
from minitx.config import EvaluationSettings, ReportSettings, RunConfig
from minitx.corpus.audit import Audit, read_audit
from minitx.corpus.encoded import DESCRIPTION, Description, read_description
from minitx.errors import BadInputError, MinitxError
from minitx.evaluation.holdout_figures import ComparisonReport, HoldoutReport
from minitx.files import read_json
from minitx.inspection.film import Film, read_film
from minitx.training.history import RunHistory, read_history
from minitx.training.logging.metrics_file import read_metrics
from minitx.workflows.attend import PAGE_PROMPT, AttentionStudy, open_study
from minitx.workflows.evaluate import Progress, compare_checkpoints, evaluate_holdout, no_progress
from minitx.workflows.session import MADE_WITH_FILE


@dataclass(eq=False)
class RunStory:
    """One run, as far as it can be told.

    Attributes:
        corpus: digests of the text and the tokenizer; None if they can't be read.
        corpus_notes: what `corpus.json` says; empty if it can't be read.
        audit: what its parts have in common; None if that was not noted.
        checkpoint: that was measured; None before there is a whole one.
        weights_digest: SHA-256 of its `model.safetensors`; None without one.
        made_with: versions and the machine that made it; empty if that was not noted.
        film: what training kept of its moments; None if it kept none.
        holdout, study: what `minitx eval` and `minitx attn` find; None if left out.
        left_out: for `eval` and `attn`, why it is not there.
    """

    run: RunDirectory
    config: RunConfig
    history: RunHistory
    corpus: Description | None = None
    corpus_notes: dict[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    checkpoint: Path | None = None
    weights_digest: str | None = None
    made_with: dict[str, str] = field(default_factory=dict)
    film: Film | None = None
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
    unmeasured = ReportSettings(eval=False, attn=False, checkpoint=settings.checkpoint)
    stories = tuple(gather_run(run, unmeasured, progress) for run in runs)
    if not settings.eval:
        return Stories(stories, left_out="--no-eval was given")
    checkpoints = [story.checkpoint for story in stories if story.checkpoint is not None]
    if len(checkpoints) < len(stories):
        early = next(story for story in stories if story.checkpoint is None)
        return Stories(stories, left_out=f"run {early.run.path} has no checkpoint yet")
    try:
        comparison = compare_checkpoints(checkpoints, None, _evaluation(settings), progress)
    except MinitxError as error:
        return Stories(stories, left_out=error.what)
    return Stories(stories, comparison)


def compare_runs(
    paths: Sequence[Path], settings: ReportSettings, progress: Progress = no_progress
) -> ComparisonReport:
    """Test runs against the first, on the holdout that they have in common.

    Raises:
        BadInputError: they have none in common, or one has no checkpoint yet.
        DamagedFileError: one has no whole checkpoint.
    """
    return use_checkpoints(
        lambda: [resolve_checkpoint(path, settings.checkpoint) for path in paths],
        lambda found: compare_checkpoints(found, None, _evaluation(settings), progress),
    )


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
    story = RunStory(run, run.read_config(), read_history(read_metrics(run.metrics_file)))
    story.film = read_film(run.film_file)
    with contextlib.suppress(MinitxError):
        story.corpus = read_description(run.data)
        story.corpus_notes = read_json(run.data / DESCRIPTION)
        story.audit = read_audit(run.data)
    try:
        story.checkpoint = checkpoint = resolve_checkpoint(run.path, settings.checkpoint)
    except MinitxError as error:
        if not len(story.history.steps) and not story.history.evaluations:
            raise BadInputError(
                f"run {run.path} has nothing to report yet: {error.what}", "Train it for a while"
            ) from None
        story.left_out = dict.fromkeys(("eval", "attn"), error.what)
        return story
    # Runs of earlier versions have no such file; a report is no reason to refuse them.
    with contextlib.suppress(OSError, ValueError):
        content = read_json(checkpoint / MADE_WITH_FILE)
        story.made_with = {key: str(value) for key, value in content.items()}
    unwanted = [part for part in ("eval", "attn") if not getattr(settings, part)]
    story.left_out = {part: f"--no-{part} was given" for part in unwanted}
    try:
        if settings.eval:
            story.holdout = evaluate_holdout(checkpoint, _evaluation(settings), progress)
    except MinitxError as error:
        story.left_out["eval"] = error.what
    try:
        if settings.attn:
            progress("looking into the model", 0, 0)
            story.study = open_study(checkpoint, settings.prompt, PAGE_PROMPT, settings.device)
    except MinitxError as error:
        if settings.prompt is not None and checkpoint.is_dir():
            raise
        story.left_out["attn"] = error.what
    if story.left_out and not checkpoint.is_dir():  # Pruned meanwhile: look again.
        return gather_run(run, settings, progress)
    story.weights_digest = weights_digest(checkpoint)
    return story


def _evaluation(settings: ReportSettings) -> EvaluationSettings:
    return EvaluationSettings(max_tokens=settings.max_tokens, device=settings.device)
