"""Measure a model on text it was not trained on: what `minitx eval` does, as library calls.

report = evaluate_holdout(resolve_checkpoint(None), EvaluationSettings())
print(report.plain.perplexity, report.plain.bits_per_byte)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from minitx.checkpoint import LoadedModel, load_model
from minitx.checkpoint.rundir import RunDirectory, find_run
from minitx.compute import Compute, choose_device, choose_dtype
from minitx.config import EvaluationSettings, SamplingConfig
from minitx.corpus import EncodedCorpus, EncodedFile, encode_file, load_encoded
from minitx.corpus.encoded_file import blocks_of, decoded, release
from minitx.errors import BadInputError, DamagedFileError
from minitx.evaluation.baselines import MOST_BYTES, measure_baselines
from minitx.evaluation.bits import TextSize, ids_within, token_sizes
from minitx.evaluation.blocks import Blocks
from minitx.evaluation.comparison import compare
from minitx.evaluation.copying import find_copied
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Figures,
    HoldoutReport,
    ModelFigures,
    PairedTest,
    SurprisingText,
    TextFigures,
)
from minitx.evaluation.scoring import count_targets, score
from minitx.evaluation.scoring_windows import require_stride
from minitx.evaluation.surprising import Passage
from minitx.evaluation.text_score import Reading, Windows, read_text
from minitx.evaluation.verdict import Verdict, judge
from minitx.files import file_digest
from minitx.generation import generate
from minitx.model.stored_weights import store_weights
from minitx.tokenizer import Tokenizer
from minitx.training.loggers import read_metrics

IdArray = npt.NDArray[np.integer]
ByteArray = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much is done; of 0 where that is not known."""

_STRETCHES = 8
_STRETCH_TOKENS = 160
_PROMPT_TOKENS = 16
_SEARCHED_TRAIN_BYTES = 64_000_000
_COUNTED_AT_ONCE = 1 << 22


def evaluate_holdout(
    checkpoint: Path, settings: EvaluationSettings, progress: Progress | None = None
) -> HoldoutReport:
    """Measure a model on the holdout of the run that it belongs to.

    Args:
        checkpoint: for example from `resolve_checkpoint`.
        settings: how.
        progress: told what is being done.

    Raises:
        BadInputError: the checkpoint is in no run, the run has no holdout or one that its
            tokenizer does not know, or a setting does not fit the model.
        DamagedFileError: the run's data does not belong to the model.
    """
    subject = _open(checkpoint, settings, _corpus_with_holdout(checkpoint))
    return _measure(subject, _holdout(subject, settings), settings, progress)[0]


def evaluate_file(
    checkpoint: Path, source: str, settings: EvaluationSettings, progress: Progress | None = None
) -> HoldoutReport:
    """Measure a model on a text file of any size, or on a pipe.

    Raises:
        BadInputError: it can't be read, is too short, or has text that the model does not know;
            or a setting does not fit the model.
    """
    subject = _open(checkpoint, settings, _corpus_if_any(checkpoint))
    text = _file(subject, source, settings, progress)
    return _measure(subject, text, settings, progress)[0]


def compare_checkpoints(
    checkpoints: Sequence[Path],
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Measure several models on one text, and test each against the first.

    Args:
        checkpoints: at least two.
        source: a text file; None for the holdout, which must be the same for all.
        settings: how. Baselines and details are left out.
        progress: told what is being done.

    Raises:
        BadInputError: as above, or the models have different holdouts, or `max_tokens` would have
            them score different parts of the text.
    """
    if source is None:
        _require_same_holdout(checkpoints)
    return _compare([(checkpoint, settings) for checkpoint in checkpoints], source, progress)


def compare_with_quantized(
    checkpoint: Path,
    source: str | None,
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Measure what rounding the weights costs: a model as it is, and as `settings.quantize` says.

    Args:
        checkpoint: for example from `resolve_checkpoint`.
        source: a text file; None for the holdout.
        settings: how. Baselines and details are left out.
        progress: told what is being done.

    Raises:
        BadInputError: as above, or there is no such format.
    """
    as_it_is = replace(settings, quantize=None)
    return _compare([(checkpoint, as_it_is), (checkpoint, settings)], source, progress)


def _compare(
    variants: Sequence[tuple[Path, EvaluationSettings]],
    source: str | None,
    progress: Progress | None,
) -> ComparisonReport:
    reports: list[HoldoutReport] = []
    blocks: list[Blocks] = []
    same_tokens: set[tuple[str, int]] = set()
    for checkpoint, given in variants:
        settings = replace(given, quick=True)
        if source is None:
            subject = _open(checkpoint, settings, _corpus_with_holdout(checkpoint))
            text = _holdout(subject, settings)
        else:
            subject = _open(checkpoint, settings, _corpus_if_any(checkpoint))
            text = _file(subject, source, settings, progress)
        same_tokens.add((subject.tokenizer.digest, _context(subject, settings)))
        if settings.max_tokens and len(same_tokens) > 1:
            raise BadInputError(
                "with --max-tokens, models of different contexts or tokenizers would be scored on "
                "different parts of the text",
                "Leave it out, or give one --context for all",
            )
        report, of_report = _measure(subject, text, settings, progress)
        reports.append(report)
        blocks.append(of_report)
    first = reports[0].model.checkpoint
    tests = tuple(
        PairedTest(report.model.checkpoint, first, compare(of_report, blocks[0]))
        for report, of_report in zip(reports[1:], blocks[1:], strict=True)
    )
    return ComparisonReport(tuple(reports), tests)


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model to measure, and what is known of its training."""

    loaded: LoadedModel
    compute: Compute
    corpus: EncodedCorpus | None
    run: RunDirectory | None
    quantize: str | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.loaded.tokenizer

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return None if self.compute.dtype == torch.float32 else self.compute.dtype

    def train_content(self) -> ByteArray | None:
        """UTF-8 of the train part, mapped; None without one."""
        if self.corpus is None or not self.corpus.train.bytes:
            return None
        return np.memmap(self.corpus.directory / "train.txt", np.uint8, "r")


@dataclass(frozen=True, eq=False)
class _Text:
    """A text to score."""

    name: str
    ids: IdArray
    size: TextSize
    unknown: int
    content: ByteArray
    is_holdout: bool


def _open(
    checkpoint: Path,
    settings: EvaluationSettings,
    corpus: tuple[RunDirectory, EncodedCorpus] | None,
) -> _Subject:
    device = choose_device(settings.device)
    dtype = torch.float32 if settings.dtype == "auto" else choose_dtype(settings.dtype, device)
    loaded = load_model(checkpoint, device)
    if settings.quantize is not None:
        store_weights(loaded.model, settings.quantize)
    run, encoded = corpus or (None, None)
    if encoded is not None and encoded.tokenizer_digest != loaded.tokenizer.digest:
        raise DamagedFileError(
            f"{encoded.directory} was encoded with another tokenizer than that of {checkpoint}",
            "Restore the data directory of the run",
        )
    subject = _Subject(loaded, Compute(device, dtype), encoded, run, settings.quantize)
    require_stride(_stride(subject, settings), _context(subject, settings))
    return subject


def _corpus_if_any(checkpoint: Path) -> tuple[RunDirectory, EncodedCorpus] | None:
    run = find_run(checkpoint)
    if run is None or not run.data.is_dir():
        return None
    return run, load_encoded(run.data)


def _corpus_with_holdout(checkpoint: Path) -> tuple[RunDirectory, EncodedCorpus]:
    run = find_run(checkpoint)
    if run is None:
        raise BadInputError(
            f"{checkpoint} is in no run, so it has no holdout", "Name a text file to score instead"
        )
    corpus = load_encoded(run.data)
    if len(corpus.holdout_ids) < 2:
        raise BadInputError(
            f"run {run.path} has no holdout to score",
            "Name a text file to score, or train with a --holdout-fraction above 0",
        )
    return run, corpus


def _require_same_holdout(checkpoints: Sequence[Path]) -> None:
    digests: dict[str, Path] = {}
    for checkpoint in checkpoints:
        run, _ = _corpus_with_holdout(checkpoint)
        digests.setdefault(file_digest(run.data / "holdout.txt"), run.path)
    if len(digests) > 1:
        one, other, *_ = digests.values()
        raise BadInputError(
            f"runs {one} and {other} have different holdouts, so their losses don't compare",
            "Name a text file that neither was trained on",
        )


def _holdout(subject: _Subject, settings: EvaluationSettings) -> _Text:
    corpus = subject.corpus
    assert corpus is not None
    text = _Text(
        name="holdout",
        ids=corpus.holdout_ids,
        size=TextSize(corpus.holdout.bytes, corpus.holdout.characters),
        unknown=corpus.holdout.unknown,
        content=np.memmap(corpus.directory / "holdout.txt", np.uint8, "r"),
        is_holdout=True,
    )
    _require_known(subject.tokenizer, "the holdout", text, settings)
    return text


def _file(
    subject: _Subject, source: str, settings: EvaluationSettings, progress: Progress | None
) -> _Text:
    tokenizer = subject.tokenizer
    _tell(progress, f"encoding {source}")
    found: EncodedFile = encode_file(Path(source), tokenizer)
    counts = found.counts
    if counts.unknown == counts.tokens:
        raise BadInputError(
            f"{source} has nothing that the {tokenizer.kind} tokenizer of this model knows",
            "Score a text like the one it was trained on, or train with --kind bpe",
        )
    if counts.tokens < 2:
        raise BadInputError(
            f"{source} is 1 token long, which can't be scored: nothing comes before it",
            "Give a text of at least 2 tokens",
        )
    size = TextSize(counts.bytes, counts.characters)
    name = Path(source).name
    text = _Text(name, found.ids, size, counts.unknown, found.content, is_holdout=False)
    _require_known(tokenizer, source, text, settings)
    return text


def _require_known(
    tokenizer: Tokenizer, name: str, text: _Text, settings: EvaluationSettings
) -> None:
    # A vocabulary of words is never complete; one of characters is expected to be.
    if not text.unknown or settings.unknown == "replace" or tokenizer.kind != "char":
        return
    for part in decoded(blocks_of(text.content), name):
        if unknown := tokenizer.unknown_characters(part):
            break
    raise BadInputError(
        f"{name} has {text.unknown:,} character{'s' if text.unknown > 1 else ''} that the char "
        f"tokenizer does not know, the first {unknown[0]!r} (U+{ord(unknown[0]):04X})",
        "Give --unknown replace to score them as <unk>, or train with --kind bpe",
    )


def _context(subject: _Subject, settings: EvaluationSettings) -> int:
    longest = subject.loaded.model.config.context_length
    wanted = settings.context_length
    if wanted is None:
        return longest
    if not 1 <= wanted <= longest:
        raise BadInputError(
            f"context length is {wanted:,}, and this model was trained with {longest:,}",
            f"Choose a --context from 1 to {longest}",
        )
    return wanted


def _stride(subject: _Subject, settings: EvaluationSettings) -> int:
    if settings.stride is not None:
        return settings.stride
    return max(1, _context(subject, settings) // 2)


def _measure(
    subject: _Subject, text: _Text, settings: EvaluationSettings, progress: Progress | None
) -> tuple[HoldoutReport, Blocks]:
    context = _context(subject, settings)
    windows = Windows(context, context, settings.max_tokens, subject.autocast_dtype)
    counts = None if settings.quick else _train_counts(subject, progress)
    beginning = 0
    if settings.baselines and not settings.quick:
        beginning = _beginning(subject, text)
    reading = _read(subject, text, windows, progress, not settings.quick, counts, beginning)
    report = HoldoutReport(
        model=_model_figures(subject),
        text=_text_figures(text),
        plain=reading.figures,
        strided=_strided(subject, text, settings, progress),
        train_loss=_train_loss(subject, text, reading, windows, progress),
    )
    if not settings.quick:
        baselines = None
        if reading.beginning is not None:
            baselines = measure_baselines(
                subject.tokenizer,
                text.ids,
                text.size,
                text.content,
                reading.beginning,
                None if subject.corpus is None else subject.corpus.train_ids,
                subject.train_content(),
                lambda name: _tell(progress, name),
            )
        report = _with_details(subject, text, report, reading, baselines)
        report = _with_copying(subject, text, report, progress)
    return report, reading.blocks


def _beginning(subject: _Subject, text: _Text) -> int:
    """Tokens of the text that baselines are measured on."""
    if text.size.n_bytes <= MOST_BYTES:
        return len(text.ids)
    return ids_within(text.ids, token_sizes(subject.tokenizer), MOST_BYTES)


def _read(
    subject: _Subject,
    text: _Text,
    windows: Windows,
    progress: Progress | None,
    with_details: bool = False,
    train_counts: npt.NDArray[np.integer] | None = None,
    beginning: int = 0,
) -> Reading:
    total = count_targets(len(text.ids), windows.context_length, windows.stride, windows.max_tokens)
    name = f"scoring {text.name}"
    if windows.stride != windows.context_length:
        name += f", stride {windows.stride}"
    return read_text(
        subject.loaded.model, subject.tokenizer, text.ids, text.size, windows, with_details,
        train_counts, beginning, _counter(progress, name, total),
    )  # fmt: skip


def _strided(
    subject: _Subject, text: _Text, settings: EvaluationSettings, progress: Progress | None
) -> Figures | None:
    context, stride = _context(subject, settings), _stride(subject, settings)
    # A quick look leaves it out, unless it is what was asked for.
    if stride == context or (settings.quick and settings.stride is None):
        return None
    windows = Windows(context, stride, settings.max_tokens, subject.autocast_dtype)
    return _read(subject, text, windows, progress).figures


def _train_loss(
    subject: _Subject, text: _Text, reading: Reading, windows: Windows, progress: Progress | None
) -> float | None:
    if not text.is_holdout or subject.corpus is None or len(subject.corpus.train_ids) < 2:
        return None
    ids = subject.corpus.train_ids
    most = min(reading.figures.tokens_scored, len(ids) - 1)
    total = count_targets(len(ids), windows.context_length, windows.stride, most)
    return score(
        subject.loaded.model, ids, windows.context_length, windows.stride, max_tokens=most,
        autocast_dtype=subject.autocast_dtype,
        progress=_counter(progress, "scoring as much of the train part", total),
    ).loss  # fmt: skip


def _with_details(
    subject: _Subject,
    text: _Text,
    report: HoldoutReport,
    reading: Reading,
    baselines: Baselines | None,
) -> HoldoutReport:
    details = reading.details
    assert details is not None
    return replace(
        report,
        baselines=baselines,
        verdict=_verdict(subject, report, baselines),
        context_use=details.context_use,
        classes=details.classes,
        frequencies=details.frequencies,
        calibration=details.calibration,
        surprising=tuple(_readable(subject.tokenizer, one) for one in details.surprising),
    )


def _verdict(
    subject: _Subject, report: HoldoutReport, baselines: Baselines | None
) -> Verdict | None:
    if report.train_loss is None or subject.run is None:
        return None
    beaten_by = None
    if baselines is not None and len(baselines.ngrams) > 1:
        best = min(baselines.ngrams, key=lambda one: one.bits_per_byte)
        if best.bits_per_byte < baselines.model_bits_per_byte:
            beaten_by = f"counting {best.order}-grams"
    history = _holdout_losses(subject.run)
    name = subject.loaded.directory.name.removeprefix("step-")
    step = int(name) if name.isdecimal() else None
    return judge(report.train_loss, report.plain.loss, history, step, beaten_by)


def _holdout_losses(run: RunDirectory) -> list[tuple[int, float]]:
    """Step and holdout loss of each evaluation that training noted."""
    if not run.metrics_file.is_file():
        return []
    return [
        (int(line["step"]), float(line["holdout_loss"]))
        for line in read_metrics(run.metrics_file)
        if line["kind"] == "evaluation" and isinstance(line.get("holdout_loss"), (int, float))
    ]


def _with_copying(
    subject: _Subject, text: _Text, report: HoldoutReport, progress: Progress | None
) -> HoldoutReport:
    train = subject.train_content()
    if train is None:
        return report
    train = train[-_SEARCHED_TRAIN_BYTES:]
    stretches = _stretches(subject.tokenizer, text.ids)
    _tell(progress, "looking for the text in the train part")
    shared = find_copied(stretches, train)
    _tell(progress, "drawing samples")
    samples = find_copied(_samples(subject, text), train)
    return replace(report, text=replace(report.text, shared_with_train=shared), samples=samples)


def _samples(subject: _Subject, text: _Text) -> list[str]:
    context = subject.loaded.model.config.context_length
    prompts = _stretches(subject.tokenizer, text.ids, min(_PROMPT_TOKENS, max(1, context // 2)))
    # A lone unknown character can't be continued from, and its stand-in has no id.
    known = [p for p in prompts if p and not subject.tokenizer.unknown_characters(p)]
    config = SamplingConfig(max_new_tokens=_STRETCH_TOKENS)
    drawn = generate(subject.loaded.model, subject.tokenizer, known, config) if known else []
    return [one.text for one in drawn]


def _stretches(tokenizer: Tokenizer, ids: IdArray, length: int = _STRETCH_TOKENS) -> list[str]:
    """Evenly spaced pieces of a text."""
    count = max(1, min(_STRETCHES, len(ids) // length))
    starts = [i * len(ids) // count for i in range(count)]
    return [tokenizer.decode(np.asarray(ids[at : at + length])) for at in starts]


def _train_counts(subject: _Subject, progress: Progress | None) -> npt.NDArray[np.int64] | None:
    if subject.corpus is None or not len(subject.corpus.train_ids):
        return None
    _tell(progress, "counting tokens")
    counts = np.zeros(subject.tokenizer.vocab_size, np.int64)
    ids = subject.corpus.train_ids
    for start in range(0, len(ids), _COUNTED_AT_ONCE):
        counts += np.bincount(ids[start : start + _COUNTED_AT_ONCE], minlength=len(counts))
        release(ids)
    return counts


def _readable(tokenizer: Tokenizer, passage: Passage) -> SurprisingText:
    pieces = tuple(tokenizer.piece(i) for i in passage.ids)
    return SurprisingText(passage.start, passage.loss, pieces, passage.losses)


def _model_figures(subject: _Subject) -> ModelFigures:
    config = subject.loaded.model.config
    return ModelFigures(
        checkpoint=str(subject.loaded.directory)
        + (f" ({subject.quantize} weights)" if subject.quantize else ""),
        architecture=config.architecture,
        n_parameters=config.n_parameters,
        tokenizer=subject.tokenizer.kind,
        vocab_size=subject.tokenizer.vocab_size,
        context_length=config.context_length,
        device=subject.compute.description,
        dtype=subject.compute.dtype_name,
    )


def _text_figures(text: _Text) -> TextFigures:
    return TextFigures(
        text.name, len(text.ids), text.size.n_bytes, text.size.n_characters, text.unknown
    )


def _tell(progress: Progress | None, name: str) -> None:
    if progress is not None:
        progress(name, 0, 0)


def _counter(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    done = 0
    if progress is not None:
        progress(name, 0, total)

    def count(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(name, done, total)

    return count
