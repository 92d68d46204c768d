"""How a trained model is loaded and measured."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from minitx.config.options import LOADED, Config, option
from minitx.config.train_config import DeviceName, DTypeName

CheckpointName = Literal["best", "last"]
WeightFormat = Literal["int8", "bfloat16"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
"""Formats with fewer bits that weights can be kept in."""
UnknownPolicy = Literal["error", "replace"]
_MOST_TOKENS = 10**15


@dataclass(frozen=True)
class LoadConfig(Config, named_by_flags=True):
    """Which checkpoint of a run is loaded, and how."""

    checkpoint: CheckpointName = option("best", "Which checkpoint of a run.", LOADED)
    device: DeviceName = option("auto", "Where to compute.", LOADED)
    dtype: DTypeName = option("auto", "Number format of the weights.", LOADED)
    quantize: WeightFormat | None = option(
        None, "Keep the weights in fewer bits; eval --quantize says what it costs.", LOADED
    )


@dataclass(frozen=True)
class EvaluationSettings(Config, named_by_flags=True):
    """How a text is scored, and what else is measured."""

    context_length: int | None = option(
        None, "Largest number of tokens a prediction sees; the model's if left out.", flag="context"
    )
    stride: int | None = option(
        None,
        "Tokens that each overlapping window scores, for the figure with fuller contexts; half "
        "the context if left out.",
        details="Equal to the context length, there is no such figure.",
    )
    max_tokens: int = option(
        0, "Score about this many tokens, evenly spaced; 0 is all.", within=(0, _MOST_TOKENS)
    )
    baselines: bool = option(True, "Measure n-grams and compressors on the same text, too.")
    quick: bool = option(False, "The loss alone, without baselines and details.")
    device: DeviceName = option("auto", "Where to compute.", LOADED)
    dtype: DTypeName = option(
        "auto", "Number format of the matrix products; auto is float32, exact.", LOADED
    )
    unknown: UnknownPolicy = option(
        "replace",
        "Refuse characters that a char tokenizer lacks, or score them as the unknown token.",
        details="The latter makes bits per byte too low. Words that a `word` tokenizer lacks are "
        "always replaced, and counted.",
    )
    quantize: WeightFormat | None = option(
        None, "Round the weights, and show what it costs beside the model as it is.", LOADED
    )


@dataclass(frozen=True)
class ReportSettings(Config, named_by_flags=True):
    """What a report has beside what training recorded."""

    eval: bool = option(True, "Measure the holdout anew, with baselines and details.")
    attn: bool = option(True, "Show what the model looks at.")
    prompt: str | None = option(None, "Text it looks at; the beginning of the holdout if left out.")
    max_tokens: int = option(
        0, "Score about this many holdout tokens; 0 is all.", within=(0, _MOST_TOKENS)
    )
    checkpoint: CheckpointName = option("best", "Which checkpoint of a run is measured.", LOADED)
    device: DeviceName = option("auto", "Where to compute.", LOADED)
