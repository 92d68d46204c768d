"""What an evaluation found, as data: for the screen, for JSON, for a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minitx.evaluation.breakdown import CalibrationCurve, ClassLoss, ContextUse, SurprisingText
from minitx.evaluation.by_document import DocumentLosses
from minitx.evaluation.comparison import Comparison, Interval
from minitx.evaluation.copying import Copied
from minitx.evaluation.verdict import Verdict
from minitx.files import as_plain
from minitx.shown import Shown


@dataclass(frozen=True)
class Figures:
    """Loss of a model on a text, in windows of one kind; each target is scored once.

    Attributes:
        context_length: most tokens that a prediction saw.
        stride: targets scored by each window; the context length for windows side by side.
        loss: nats per token.
        loss_interval, bits_per_byte_interval: 95 %, by bootstrap over blocks; None for a text too
            short for it.
    """

    context_length: int
    stride: int
    tokens_scored: int
    bytes_scored: int
    loss: float
    loss_interval: Interval | None
    perplexity: float
    bits_per_byte: float
    bits_per_byte_interval: Interval | None
    bits_per_character: float


@dataclass(frozen=True)
class ModelFigures:
    """Which model was measured, and how.

    Attributes:
        architecture: `qwen3` or `gpt2`.
        tokenizer, tokenizer_digest: `bpe`, `char` or `word`; what decides its ids.
        context_length: the model's own.
        device, dtype: of the matrix products.
    """

    checkpoint: str
    architecture: str
    n_parameters: int
    tokenizer: str
    vocab_size: int
    context_length: int
    device: str
    dtype: str
    tokenizer_digest: str = ""


@dataclass(frozen=True)
class TextFigures:
    """Which text was scored.

    Attributes:
        name: `holdout`, or a file's name.
        tokens: in it; the first has nothing before it and is not scored.
        unknown_tokens: that stand for what the vocabulary lacks.
        shared_with_train: what some stretches of it have in common with the train part; None
            where there is no train part.
    """

    name: str
    tokens: int
    bytes: int
    characters: int
    unknown_tokens: int
    shared_with_train: Copied | None = None

    @property
    def unknown_rate(self) -> float:
        """Part of the tokens that is unknown."""
        return self.unknown_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class NGramFigures:
    """What counting achieves on the tokens that the model was scored on.

    Attributes:
        order: 0 for the uniform distribution; else a prediction sees `order` - 1 tokens.
        loss: nats per token.
    """

    order: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class Compressed:
    """What a compressor needs for the holdout: added to a compressed train part, and alone."""

    name: str
    bits_per_byte: float
    bits_per_byte_alone: float


@dataclass(frozen=True)
class Baselines:
    """What the model must beat, and the model on the same text.

    Of a large text, all this is measured on its beginning.

    Attributes:
        ngrams: by order; only the uniform one where there is no train part to count.
        train_tokens: that the n-grams were counted on.
        tokens: of the text that n-grams and model were scored on.
        text_bytes: of the text that was compressed.
        train_bytes: of the train part that was compressed before it.
        model_loss: of the model on these tokens, nats per token.
    """

    ngrams: tuple[NGramFigures, ...]
    compressors: tuple[Compressed, ...]
    train_tokens: int
    tokens: int
    text_bytes: int
    train_bytes: int
    model_loss: float
    model_bits_per_byte: float


@dataclass(frozen=True)
class HoldoutReport(Shown):
    """All that is found out about a model on a text.

    Attributes:
        plain: windows side by side: the figure that training reports.
        without_leaks: the same without passages that also stand in the train part; None if there
            are none.
        documents: loss by document; None of a single one.
        strided: overlapping windows, so that contexts are fuller; None where not asked for.
        train_loss: nats per token on as many tokens of the train part; None without one.
        verdict: under-, over- or well fitted; None where the text is not the run's holdout.
        baselines, samples: None where not asked for; samples are some texts of the model, as far as
            the train part has them.
        classes: loss by kind of token; `letter` is `new word` and `in-word` together, which
            follow it.
        frequencies: loss by how common tokens are in the train part; empty without one.
        surprising: the passages with the highest loss.
    """

    model: ModelFigures
    text: TextFigures
    plain: Figures
    strided: Figures | None = None
    train_loss: float | None = None
    verdict: Verdict | None = None
    baselines: Baselines | None = None
    context_use: ContextUse | None = None
    classes: tuple[ClassLoss, ...] = ()
    frequencies: tuple[ClassLoss, ...] = ()
    calibration: CalibrationCurve | None = None
    surprising: tuple[SurprisingText, ...] = ()
    samples: Copied | None = None
    without_leaks: Figures | None = None
    documents: DocumentLosses | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a figure that is no number is None."""
        return {"kind": "report", **as_plain(asdict(self))}


@dataclass(frozen=True)
class PairedTest:
    """The model of one checkpoint against that of the first, on the same text."""

    checkpoint: str
    against: str
    comparison: Comparison


@dataclass(frozen=True)
class ComparisonReport(Shown):
    """Several models on one text, and tests of each but the first against the first."""

    reports: tuple[HoldoutReport, ...]
    tests: tuple[PairedTest, ...]

    @property
    def same_tokens(self) -> bool:
        """Whether all have one tokenizer: only then do losses per token compare."""
        return len({report.model.tokenizer_digest for report in self.reports}) == 1

    @property
    def has_clear_winner(self) -> bool:
        """Whether the tests tell the model of the lowest bits per byte from the others tested."""
        best = self.ranked()[0]
        tests = self.tests[best - 1 : best] if best else self.tests
        return all(test.comparison.is_significant for test in tests)

    def ranked(self) -> list[int]:
        """Index of each report, by rising bits per byte, which compare whatever the tokenizer."""
        numbers = range(len(self.reports))
        return sorted(numbers, key=lambda number: self.reports[number].plain.bits_per_byte)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a figure that is no number is None."""
        return {
            "kind": "comparison",
            "reports": [report.to_json() for report in self.reports],
            "tests": [as_plain(asdict(test)) for test in self.tests],
        }


Report = HoldoutReport | ComparisonReport
