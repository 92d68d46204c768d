"""Measure a model on text it was not trained on: what `minitx eval` does, as library calls.

report = evaluate_holdout(resolve_checkpoint(None), EvaluationSettings())
print(report.plain.perplexity, report.plain.bits_per_byte)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from minitx import engine
from minitx.checkpoint.rundir import Which, named_run, resolve_checkpoint, use_checkpoints
from minitx.config import EvaluationSettings
from minitx.corpus.answer_targets import answers_in
from minitx.errors import BadInputError
from minitx.evaluation.arrays import ids_within, token_sizes
from minitx.evaluation.baselines import MOST_BYTES, measure_baselines
from minitx.evaluation.breakdown import count_ids
from minitx.evaluation.comparison import Blocks, compare
from minitx.evaluation.copying import MOST_TRAIN_BYTES, find_copied, sample_texts, stretches
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Figures,
    HoldoutReport,
    PairedTest,
    Report,
)
from minitx.evaluation.ngrams import bigram_loss
from minitx.evaluation.scoring import Windows, count_targets, score, windows_for
from minitx.evaluation.text_score import Beginning, Details, score_text
from minitx.evaluation.verdict import Verdict, judge
from minitx.workflows.evaluation_inputs import (
    file_text,
    find_subject,
    holdout_text,
    require_same_holdout,
)
from minitx.workflows.load import LoadedModel, open_checkpoint

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done; of 0 if that is not known."""


def no_progress(name: str, done: int, total: int) -> None:
    """Show nothing."""


def evaluate_targets(
    targets: Sequence[Path],
    holdout: bool,
    which: Which,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> list[Report]:
    """Measure each model that is named on each text: a report for each text.

    Args:
        targets: runs or checkpoints (the newest run if none), and text files. Several models are
            compared; with `quantize`, one is compared with itself.
        holdout: measure on the run's holdout, too, where text files are named.

    Raises:
        BadInputError: a target does not exist, or as in `evaluate_model` and `compare_checkpoints`.
    """
    targets = [target if target.is_file() else named_run(target) for target in targets]
    models: list[Path | None] = [target for target in targets if target.is_dir()]
    texts = [target for target in targets if not target.is_dir()]
    for text in texts:
        if not text.exists():
            raise BadInputError(f"{text} does not exist", "Name a run, a checkpoint or a text file")
    sources: list[str | None] = [None] if holdout or not texts else []

    def measure(checkpoints: list[Path]) -> list[Report]:
        reports: list[Report] = []
        for source in [*sources, *map(str, texts)]:
            if len(checkpoints) > 1 or settings.quantize is not None:
                reports.append(compare_checkpoints(checkpoints, source, settings, progress))
            else:
                loaded = _open(checkpoints[0], settings)
                reports.append(evaluate_model(loaded, source, settings, progress))
        return reports

    return use_checkpoints(
        lambda: [resolve_checkpoint(model, which) for model in models or [None]], measure
    )


def evaluate_holdout(
    checkpoint: Path, settings: EvaluationSettings, progress: Progress = no_progress
) -> HoldoutReport:
    """Measure a model on the holdout of the run that it belongs to.

    Raises:
        BadInputError: the checkpoint is in no run, the run has no holdout or one that its
            tokenizer does not know, or a setting does not fit the model.
        DamagedFileError: the run's data does not belong to the model.
    """
    return evaluate_model(_open(checkpoint, settings), None, settings, progress)


def compare_checkpoints(
    checkpoints: Sequence[Path],
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> ComparisonReport:
    """Measure several models on one text, and test each against the first.

    Baselines and details are left out.

    Args:
        checkpoints: one alone is compared with itself, its weights rounded to
            `settings.quantize`.
        source: a text file; None for the holdout, which must be the same for all.

    Raises:
        BadInputError: as above, or the models have different holdouts, or `max_tokens` would have
            them score different parts of the text, or there is no such format.
    """
    if source is None:
        require_same_holdout(checkpoints)
    elif not Path(source).is_file():
        raise BadInputError(f"{source} is a pipe, and can be read only once", "Save it to a file")
    settings = replace(settings, quick=True)
    variants = [(checkpoint, settings) for checkpoint in checkpoints]
    if len(variants) == 1:
        variants.insert(0, (checkpoints[0], replace(settings, quantize=None)))
    measured: list[tuple[HoldoutReport, Blocks]] = []
    same_tokens: set[tuple[str, int]] = set()
    for checkpoint, how in variants:
        evaluation = _Evaluation(_open(checkpoint, how), source, how, progress)
        same_tokens.add(
            (evaluation.subject.loaded.tokenizer.digest, evaluation.windows.context_length)
        )
        if settings.max_tokens and len(same_tokens) > 1:
            raise BadInputError(
                "with --max-tokens, models of different contexts or tokenizers would be scored on "
                "different parts of the text",
                "Leave it out, or give one --context for all",
            )
        measured.append(evaluation.measure())
    (first, first_blocks), *others = measured
    tests = tuple(
        PairedTest(report.model.checkpoint, first.model.checkpoint, compare(blocks, first_blocks))
        for report, blocks in others
    )
    return ComparisonReport(tuple(report for report, _ in measured), tests)


def evaluate_model(
    loaded: LoadedModel,
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> HoldoutReport:
    """Measure a model as it is in memory, on a text file or on the holdout of its run (None).

    `device` and `quantize` of the settings are those that it was loaded with.

    Raises:
        BadInputError, DamagedFileError: as `evaluate_holdout`, or a text can't be read, is too
            short, or has characters that the model does not know.
    """
    evaluation = _Evaluation(loaded, source, settings, progress)
    report, _ = evaluation.measure()
    return replace(report, verdict=evaluation.verdict(report))


def _open(checkpoint: Path, settings: EvaluationSettings) -> LoadedModel:
    loaded = open_checkpoint(checkpoint, settings.device)
    if settings.quantize is not None:
        engine.quantize(loaded.model, settings.quantize)
    return loaded


class _Evaluation:
    """One model on one text."""

    def __init__(
        self,
        loaded: LoadedModel,
        source: str | None,
        settings: EvaluationSettings,
        progress: Progress,
    ) -> None:
        self.settings, self.progress = settings, progress
        self.subject = find_subject(loaded, settings, with_holdout=source is None)
        context, how = settings.context_length, (settings.max_tokens, self.subject.compute.dtype)
        # Side by side, for the plain figure; and overlapping, for the second one.
        self.windows = windows_for(loaded.model, context, None, *how)
        half = max(1, self.windows.context_length // 2)
        stride = half if settings.stride is None else settings.stride
        self.overlapping = windows_for(loaded.model, context, stride, *how)
        if source is None:
            self.text = holdout_text(self.subject, with_documents=not settings.quick)
        else:
            progress(f"encoding {source}", 0, 0)
            self.text = file_text(self.subject, source, settings)
        answers = answers_in(self.text.ids, loaded.tokenizer)
        self.windows = replace(self.windows, answers=answers)
        self.overlapping = replace(self.overlapping, answers=answers)

    def measure(self) -> tuple[HoldoutReport, Blocks]:
        """The report, and what was summed in each block of the text."""
        details = None if self.settings.quick else self._details()
        plain, blocks = self._score(self.windows, details)
        # A quick evaluation leaves the second one out, unless it was asked for.
        left_out = self.settings.quick and self.settings.stride is None
        has_strided = not left_out and self.overlapping != self.windows
        report = HoldoutReport(
            model=self.subject.figures(),
            text=self.text.figures,
            plain=plain,
            strided=self._score(self.overlapping)[0] if has_strided else None,
            train_loss=self._train_loss(plain.tokens_scored),
        )
        if details is not None:
            report = replace(details.added_to(report), baselines=self._baselines(details.beginning))
            report = self._with_copying(report)
        return report, blocks

    def _details(self) -> Details:
        tokenizer, train_ids = self.subject.loaded.tokenizer, self.subject.train_ids
        counts = None
        if len(train_ids):
            self._tell("counting tokens")
            counts = count_ids(train_ids, tokenizer.vocab_size)
        n_beginning = 0
        if self.settings.baselines:
            n_beginning = ids_within(self.text.ids, token_sizes(tokenizer), MOST_BYTES)
        return Details(tokenizer, self.windows, self.text, counts, n_beginning)

    def _score(self, windows: Windows, details: Details | None = None) -> tuple[Figures, Blocks]:
        name = f"scoring {self.text.figures.name}"
        if windows.stride != windows.context_length:
            name += f", stride {windows.stride}"
        told = self._counter(name, len(self.text.ids), windows)
        model, tokenizer = self.subject.loaded.model, self.subject.loaded.tokenizer
        return score_text(model, tokenizer, self.text, windows, details, told)

    def _train_loss(self, n_scored: int) -> float | None:
        ids = self.subject.train_ids
        if not self.text.is_holdout or len(ids) < 2:
            return None
        answers = answers_in(ids, self.subject.loaded.tokenizer)
        most = min(n_scored, len(ids) - 1)
        windows = replace(self.windows, max_tokens=most, answers=answers)
        told = self._counter("scoring as much of the train part", len(ids), windows)
        return score(self.subject.loaded.model, ids, windows, told).loss

    def _baselines(self, scored: Beginning) -> Baselines | None:
        if not scored.index:
            return None
        subject = self.subject
        return measure_baselines(
            subject.loaded.tokenizer, self.text, scored, subject.train_ids,
            subject.train_content(), self._tell, self.windows.answers is not None,
        )  # fmt: skip

    def verdict(self, report: HoldoutReport) -> Verdict | None:
        """Whether the model fits; None where the text is not the run's holdout."""
        if report.train_loss is None or self.subject.run is None:
            return None
        # As diagnosis does, and whatever baselines were asked for: no option decides the verdict.
        vocab_size = self.subject.loaded.tokenizer.vocab_size
        pairs = bigram_loss(self.subject.train_ids, self.text.ids, vocab_size, self.windows.answers)
        loss = report.plain.loss
        beaten_by = "counting 2-grams" if loss > pairs else None
        history, step = self.subject.holdout_losses(), self.subject.loaded.step
        return judge(report.train_loss, loss, history, step, beaten_by)

    def _with_copying(self, report: HoldoutReport) -> HoldoutReport:
        train = self.subject.train_content()[-MOST_TRAIN_BYTES:]
        if not len(train):
            return report
        model, tokenizer = self.subject.loaded.model, self.subject.loaded.tokenizer
        self._tell("looking for the text in the train part")
        shared = find_copied(stretches(tokenizer, self.text.ids), train)
        self._tell("drawing samples")
        samples = find_copied(sample_texts(model, tokenizer, self.text.ids), train)
        return replace(report, text=replace(report.text, shared_with_train=shared), samples=samples)

    def _tell(self, name: str) -> None:
        self.progress(name, 0, 0)

    def _counter(self, name: str, n_ids: int, windows: Windows) -> Callable[[int], None]:
        """Turn counts of newly scored tokens into progress."""
        total = count_targets(n_ids, windows)
        if windows.answers is not None:
            total = round(total * windows.answers.share)
        done = 0
        self.progress(name, 0, total)

        def count(n_scored: int) -> None:
            nonlocal done
            done += n_scored
            self.progress(name, done, total)

        return count
