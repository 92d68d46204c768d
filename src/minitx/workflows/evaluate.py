"""Measure a model on text it was not trained on: what `minitx eval` does, as library calls.

report = evaluate_holdout(resolve_checkpoint(None), EvaluationSettings())
print(report.plain.perplexity, report.plain.bits_per_byte)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minitx import engine
from minitx.checkpoint.rundir import Which, named_run, resolve_checkpoint, use_checkpoints
from minitx.config import EvaluationSettings
from minitx.errors import BadInputError
from minitx.evaluation.baselines import MOST_BYTES, measure_baselines
from minitx.evaluation.bits import ids_within, token_sizes
from minitx.evaluation.blocks import Blocks
from minitx.evaluation.classes import count_ids
from minitx.evaluation.comparison import compare
from minitx.evaluation.copying import MOST_TRAIN_BYTES, find_copied, sample_texts, stretches
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Figures,
    HoldoutReport,
    PairedTest,
    Report,
)
from minitx.evaluation.scoring import chosen_context, count_targets, score
from minitx.evaluation.scoring_windows import require_stride
from minitx.evaluation.text_score import ScoredText, TextScore, Windows, score_text
from minitx.evaluation.verdict import Verdict, judge
from minitx.workflows.evaluation_inputs import (
    Subject,
    file_text,
    find_subject,
    holdout_text,
    require_same_holdout,
)
from minitx.workflows.load import LoadedModel, open_checkpoint

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done; of 0 where that is not known.
"""


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
        which, settings, progress: which checkpoint of a run; how; called with what is being done.

    Raises:
        BadInputError: a target does not exist, or as in `evaluate_holdout` and its like.
    """
    targets = [named_run(target) for target in targets]
    models: list[Path | None] = [target for target in targets if target.is_dir()]
    texts = [target for target in targets if not target.is_dir()]
    for text in texts:
        if not text.exists():
            raise BadInputError(f"{text} does not exist", "Name a run, a checkpoint or a text file")
    sources: list[str | None] = [None] if holdout or not texts else []

    def measure(checkpoints: list[Path]) -> list[Report]:
        first, *others = checkpoints
        reports: list[Report] = []
        for source in [*sources, *map(str, texts)]:
            if others:
                reports.append(compare_checkpoints(checkpoints, source, settings, progress))
            elif settings.quantize is not None:
                reports.append(compare_with_quantized(first, source, settings, progress))
            else:
                reports.append(evaluate_model(_open(first, settings), source, settings, progress))
        return reports

    return use_checkpoints(
        lambda: [resolve_checkpoint(model, which) for model in models or [None]], measure
    )


def evaluate_holdout(
    checkpoint: Path, settings: EvaluationSettings, progress: Progress = no_progress
) -> HoldoutReport:
    """Measure a model on the holdout of the run that it belongs to.

    Args:
        checkpoint: for example from `resolve_checkpoint`.
        settings, progress: how; called with what is being done.

    Raises:
        BadInputError: the checkpoint is in no run, the run has no holdout or one that its
            tokenizer does not know, or a setting does not fit the model.
        DamagedFileError: the run's data does not belong to the model.
    """
    return evaluate_model(_open(checkpoint, settings), None, settings, progress)


def evaluate_file(
    checkpoint: Path, source: str, settings: EvaluationSettings, progress: Progress = no_progress
) -> HoldoutReport:
    """Measure a model on a text file of any size, or on a pipe.

    Raises:
        BadInputError: it can't be read, is too short, or has text that the model does not know;
            or a setting does not fit the model.
    """
    return evaluate_model(_open(checkpoint, settings), source, settings, progress)


def compare_checkpoints(
    checkpoints: Sequence[Path],
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> ComparisonReport:
    """Measure several models on one text, and test each against the first.

    Baselines and details are left out.

    Args:
        checkpoints: at least two.
        source: a text file; None for the holdout, which must be the same for all.
        settings, progress: how; called with what is being done.

    Raises:
        BadInputError: as above, or the models have different holdouts, or `max_tokens` would have
            them score different parts of the text.
    """
    if source is None:
        require_same_holdout(checkpoints)
    return _compare([(checkpoint, settings) for checkpoint in checkpoints], source, progress)


def compare_with_quantized(
    checkpoint: Path,
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> ComparisonReport:
    """Measure what rounding the weights costs: a model as it is, and as `settings.quantize` says.

    Raises:
        BadInputError: as above, or there is no such format.
    """
    exact = replace(settings, quantize=None)
    return _compare([(checkpoint, exact), (checkpoint, settings)], source, progress)


def _compare(
    variants: Sequence[tuple[Path, EvaluationSettings]], source: str | None, progress: Progress
) -> ComparisonReport:
    reports: list[HoldoutReport] = []
    blocks: list[Blocks] = []
    same_tokens: set[tuple[str, int]] = set()
    for checkpoint, settings in variants:
        quick = replace(settings, quick=True)
        evaluation = _prepare(_open(checkpoint, quick), source, quick, progress)
        same_tokens.add(
            (evaluation.subject.loaded.tokenizer.digest, evaluation.windows.context_length)
        )
        if settings.max_tokens and len(same_tokens) > 1:
            raise BadInputError(
                "with --max-tokens, models of different contexts or tokenizers would be scored on "
                "different parts of the text",
                "Leave it out, or give one --context for all",
            )
        report, blocks_of_report = evaluation.measure()
        reports.append(report)
        blocks.append(blocks_of_report)
    first = reports[0].model.checkpoint
    tests = tuple(
        PairedTest(report.model.checkpoint, first, compare(blocks_of_report, blocks[0]))
        for report, blocks_of_report in zip(reports[1:], blocks[1:], strict=True)
    )
    return ComparisonReport(tuple(reports), tests)


def evaluate_model(
    loaded: LoadedModel,
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> HoldoutReport:
    """Measure a model as it is in memory, on a text file or on the holdout of its run (None).

    `device` and `quantize` of the settings are those that it was loaded with.

    Raises:
        BadInputError, DamagedFileError: as above.
    """
    return _prepare(loaded, source, settings, progress).measure()[0]


def _open(checkpoint: Path, settings: EvaluationSettings) -> LoadedModel:
    loaded = open_checkpoint(checkpoint, settings.device)
    if settings.quantize is not None:
        engine.quantize(loaded.model, settings.quantize)
    return loaded


def _prepare(
    loaded: LoadedModel, source: str | None, settings: EvaluationSettings, progress: Progress
) -> _Evaluation:
    subject = find_subject(loaded, settings.dtype, settings.quantize, with_holdout=source is None)
    context = chosen_context(loaded.model, settings.context_length)
    stride = max(1, context // 2) if settings.stride is None else settings.stride
    require_stride(stride, context)
    if source is None:
        text = holdout_text(subject, settings.unknown)
    else:
        progress(f"encoding {source}", 0, 0)
        text = file_text(subject, source, settings.unknown)
    windows = Windows(context, context, settings.max_tokens, subject.compute.dtype)
    return _Evaluation(subject, text, settings, windows, stride, progress)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """One model on one text.

    Attributes:
        windows: side by side, for the plain figure.
        stride: of the overlapping windows, for the second figure.
    """

    subject: Subject
    text: ScoredText
    settings: EvaluationSettings
    windows: Windows
    stride: int
    progress: Progress

    def measure(self) -> tuple[HoldoutReport, Blocks]:
        """The report, and what was summed in each block of the text."""
        detailed = not self.settings.quick
        scored = self._score(self.windows, detailed)
        report = HoldoutReport(
            model=self.subject.figures(),
            text=self.text.figures,
            plain=scored.figures,
            strided=self._strided(),
            train_loss=self._train_loss(scored.figures.tokens_scored),
        )
        if detailed:
            baselines = self._baselines(scored)
            verdict = self._verdict(report, baselines)
            report = replace(report, baselines=baselines, verdict=verdict, **vars(scored.details))
            report = self._with_copying(report)
        return report, scored.blocks

    def _score(self, windows: Windows, detailed: bool = False) -> TextScore:
        loaded, ids, train_ids = self.subject.loaded, self.text.ids, self.subject.train_ids
        counts, n_beginning = None, 0
        if detailed and len(train_ids):
            self._tell("counting tokens")
            counts = count_ids(train_ids, loaded.tokenizer.vocab_size)
        if detailed and self.settings.baselines:
            n_beginning = ids_within(ids, token_sizes(loaded.tokenizer), MOST_BYTES)
        name = f"scoring {self.text.figures.name}"
        if windows.stride != windows.context_length:
            name += f", stride {windows.stride}"
        told = self._counter(name, len(ids), windows)
        return score_text(
            loaded.model, loaded.tokenizer, self.text, windows, detailed, counts, n_beginning, told
        )

    def _strided(self) -> Figures | None:
        # A quick evaluation leaves it out, unless it was asked for.
        left_out = self.settings.quick and self.settings.stride is None
        if left_out or self.stride == self.windows.context_length:
            return None
        return self._score(replace(self.windows, stride=self.stride)).figures

    def _train_loss(self, n_scored: int) -> float | None:
        """Loss on as much of the train part as was scored of the holdout."""
        ids = self.subject.train_ids
        if not self.text.is_holdout or len(ids) < 2:
            return None
        windows = replace(self.windows, max_tokens=min(n_scored, len(ids) - 1))
        told = self._counter("scoring as much of the train part", len(ids), windows)
        return score(
            self.subject.loaded.model, ids, windows.context_length, windows.stride, None,
            windows.max_tokens, windows.autocast_dtype, told,
        ).loss  # fmt: skip

    def _baselines(self, scored: TextScore) -> Baselines | None:
        if scored.beginning is None:
            return None
        subject = self.subject
        return measure_baselines(
            subject.loaded.tokenizer, self.text, scored.beginning, subject.train_ids,
            subject.train_content(), self._tell,
        )  # fmt: skip

    def _verdict(self, report: HoldoutReport, baselines: Baselines | None) -> Verdict | None:
        if report.train_loss is None or self.subject.run is None:
            return None
        beaten_by = None
        if baselines is not None and len(baselines.ngrams) > 1:
            best = min(baselines.ngrams, key=lambda ngram: ngram.bits_per_byte)
            if best.bits_per_byte < baselines.model_bits_per_byte:
                beaten_by = f"counting {best.order}-grams"
        history, step = self.subject.holdout_losses(), self.subject.loaded.step
        return judge(report.train_loss, report.plain.loss, history, step, beaten_by)

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
        total = count_targets(n_ids, windows.context_length, windows.stride, windows.max_tokens)
        done = 0
        self.progress(name, 0, total)

        def count(n_scored: int) -> None:
            nonlocal done
            done += n_scored
            self.progress(name, done, total)

        return count
