"""Plan a run from its corpus: tokenizer, sizes, batch, rates and steps, each with a reason.

The rules are few, and each constant says where it was measured (`docs/plan.md`). Whatever a
person gives is taken as it is; the rest is filled in around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.config.model_config import derive_head_dim
from minitx.config.run_config import TokenizerKind
from minitx.config.toml import build
from minitx.training.optimizers import OPTIMIZERS

DEFAULT_BUDGET_SECONDS = 300.0
"""Planned for when neither a budget nor a number of steps is given."""

BYTES_PER_TOKEN = 3
"""Of byte-level BPE, about; where it is needed before there is one."""

MOST_UNTIED = 1024
"""Largest vocabulary whose embedding and head are planned as two tables."""

CHARACTERS_FROM_READINGS = 5.0
"""Of a text of few characters, from which on it is read as such: pieces of words show more of a
text in the same time, and it is learned by heart sooner.

Measured with a minute: in pieces of words, the loss per byte is 15 % lower at 4 readings of
Python source, 5 % at 3 of Russian messages, the same at 4 of tiny Shakespeare; 8 % higher at 10 of
the Python reference and at 17 of source."""

TABLE_TO_BLOCKS = 0.75
"""Most parameters of a planned vocabulary's table, over those of the blocks.

Measured with 4 layers of 128 and a minute on 20 MB: with 4,096 ids the loss per byte is lowest;
with 8,192 it is 16 % higher, and with 32,768 32 %, since most of a step goes into the head."""

TABLE_OF_UNREAD = 1.2
"""The same for a text that there is no time to read once: longer pieces show more of it.

Measured with 3 layers of 96 and 35 s: 4,096 ids instead of 2,048 make the loss per byte of 20 MB of
source 5 % lower, but that of messages that are read eight times 2 % higher."""

MOST_STEPS = 10**9
"""Planned for, however fast the machine."""

WORK_FOR_CONTEXT_256 = 3e14
"""Operations at the device's peak rate from which twice the usual context is worth its steps."""

MOST_PARAMETERS_PER_TOKEN = 5
"""A larger model learns a short text by heart: of 50,000 characters, 2 layers of 64 with dropout
learn more than 3 of 96."""

DROPOUT = ((20.0, 0.1), (9.0, 0.05))
"""Planned from so many readings of the text on, times parameters per token, most first.

A larger model learns a text by heart in fewer readings (docs/plan.md has the figures)."""

MOST_EPOCHS = 30
"""Further readings only make the holdout worse, dropout or not."""

PART_OF_PEAK = 0.4
"""What a training step reaches of the device's matrix product rate: with compiled blocks a quarter
of it with 2 layers of 64, half with 6 of 256."""

BATCH_TOKENS = 3072
"""In a step. Of 2,048 and 4,096 one was better by 1 or 2 % on some texts, the other on others."""

FAST = 1e13
"""Operations a second from which on a step of so few tokens is mostly the starting of kernels, so
that more tokens in it cost little. ..."""

FAST_BATCH_TOKENS = 8192
"""... On an H100 (5e13) with 6 layers of 256, 3,072 take 3.8 ms and 8,192 take 5.9; after the same
9 seconds on tiny Shakespeare, the loss is 1.457 and 1.438."""

NARROW = 128
"""Width below which a step has half as many tokens, if they are pieces of words.

Measured with 3 layers of 96 and 35 s: so the loss per byte of Polish messages is 3 % lower, of our
source and of 20 MB of source the same or lower; with 4 layers of 128 it is the same."""

MOST_HEADS = 1024
"""Looked for in a width that was asked for, however absurd: `ModelConfig` allows no more."""

CLOSING_TOKENS = 150_000
"""Of the holdout, which are scored after the last step in any case. They come from everywhere in
it: of 240,000 of 600,000 tokens of source, the loss was within 0.1 % of that of the whole."""

CLOSING_TO_TRAINED = 0.15
"""Tokens of the holdout that are scored after the last step at most, if they are more than those,
over tokens trained on. A forward pass is about a third of a step, so that takes 5 % of the time."""

EVALUATION_TOKENS = 20_000
"""Of the holdout, which are scored in each evaluation ..."""

EVALUATION_OF_TIME = 0.02
"""... unless the whole is scored in this part of the time from one to the next."""

SECONDS_BETWEEN_EVALUATIONS = 4.0
"""At least, in a run that is not so short that it would have fewer than four."""

WORK_FOR_SIZE = 40_000
"""Operations at the device's peak rate that a model of n parameters deserves, over n^1.5.

Measured on characters of tiny Shakespeare: with 3 10^12 operations 2 layers of 64 learn most, with
10^13 3 of 96, with 4 10^13 4 of 128 (docs/plan.md). Pieces of words come with a table that takes
up to `TABLE_TO_BLOCKS` as much work again; with it, as many tokens are read as without."""

Given = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A rung of the ladder of model sizes."""

    n_layers: int
    n_heads: int
    d_model: int


# Widths are multiples of 32, so that matrix products fill the vector units.
LADDER = (
    Shape(2, 2, 64),
    Shape(3, 3, 96),
    Shape(4, 4, 128),
    Shape(4, 6, 192),
    Shape(6, 4, 256),
    Shape(6, 6, 384),
    Shape(8, 8, 512),
    Shape(12, 12, 768),
)


@dataclass(frozen=True)
class TextFigures:
    """What is known of a text before it is tokenized.

    Attributes:
        n_bytes: of its UTF-8.
        n_characters: all of them.
        n_distinct: different ones.
    """

    n_bytes: int
    n_characters: int
    n_distinct: int

    @classmethod
    def of(cls, text: str) -> TextFigures:
        """Count."""
        return cls(len(text.encode()), len(text), len(set(text)))


@dataclass(frozen=True)
class Reader:
    """What will read a text, as far as it can be told before there are tokens.

    Attributes:
        model: for pieces of words; with a vocabulary of one id, until there is one.
        n_characters: what can be read in the time, by a model for characters.
    """

    model: ModelConfig
    n_characters: float


@dataclass(frozen=True)
class TokenFigures:
    """What is known of the encoded corpus.

    Attributes:
        vocab_size: token ids.
        n_train: tokens of the train part.
        n_holdout: tokens of the holdout.
    """

    vocab_size: int
    n_train: int
    n_holdout: int


def plan_tokenizer(
    text: TextFigures, given: Given, reader: Reader | None = None
) -> tuple[TokenizerConfig, dict[str, str]]:
    """Choose a tokenizer for a train part.

    Args:
        text: of the train part.
        given: keys of `TokenizerConfig` that are fixed.
        reader: of the tokens; None if it is not known.

    Returns:
        The config, and a reason for each key that was chosen.
    """
    values, reasons = dict(given), {}
    if "kind" not in values:
        values["kind"], reasons["kind"] = _choose_kind(text, reader)
    if "vocab_size" not in values and values["kind"] != "char":
        # In powers of two: every piece is seen often.
        values["vocab_size"] = _between(512, 2 ** round(math.log2(text.n_bytes / 250)), 32_768)
        reasons["vocab_size"] = "about one id for each 250 bytes of the train part"
        if reader is not None and (most := _most_ids(text, reader)) < values["vocab_size"]:
            values["vocab_size"] = most
            reasons["vocab_size"] = "more would take most of the work of a model of this size"
    return build(TokenizerConfig, values, "tokenizer"), reasons


def _choose_kind(text: TextFigures, reader: Reader | None) -> tuple[TokenizerKind, str]:
    size = f"{text.n_bytes / 1e6:.3g} MB with {text.n_distinct:,} characters"
    if text.n_bytes >= 8_000_000 or text.n_distinct > 256:
        return "bpe", f"{size}: pieces of words make the text shorter"
    if reader is None:
        return "char", f"{size}: each character is seen often enough to be learned"
    readings = reader.n_characters / max(1, text.n_characters)
    times = f"there is time for {readings:.2g} readings of {size}"
    if readings >= CHARACTERS_FROM_READINGS:
        return "char", f"{times}: enough to learn from each character"
    return "bpe", f"{times}: in pieces of words, more of it is read"


def _most_ids(text: TextFigures, reader: Reader) -> int:
    is_read = reader.n_characters >= text.n_characters
    part, model = TABLE_TO_BLOCKS if is_read else TABLE_OF_UNREAD, reader.model
    n_ids = part * model.n_parameters / model.d_model
    return _between(512, 2 ** int(math.log2(n_ids)), 32_768)


def plan_reader(
    text: TextFigures, matmul_rate: float, given_model: Given, given_train: Given
) -> Reader:
    """The models that `plan_run` will choose.

    Args:
        text: of the train part.
        matmul_rate: of the device, in floating-point operations a second.
        given_model: keys of `ModelConfig` that are fixed.
        given_train: keys of `TrainConfig` that are fixed.

    Raises:
        BadInputError: a given size is out of range, or two don't fit together.
    """
    tokens = TokenFigures(1, text.n_bytes // BYTES_PER_TOKEN, 0)
    budget = given_train.get("budget_seconds") or DEFAULT_BUDGET_SECONDS

    def model_for(kind: TokenizerKind) -> ModelConfig:
        shape, _ = _choose_shape(kind, tokens, matmul_rate, budget)
        return planned_shape({"n_layers": shape.n_layers, "d_model": shape.d_model, **given_model})

    return Reader(model_for("bpe"), budget * _tokens_per_second(model_for("char"), matmul_rate))


def plan_run(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    tokens: TokenFigures,
    matmul_rate: float,
    given_model: Given,
    given_train: Given,
) -> tuple[RunConfig, dict[str, str]]:
    """Choose everything that is not given.

    Args:
        data: where the text comes from.
        tokenizer: its config.
        tokens: figures of the encoded corpus.
        matmul_rate: of the device, in floating-point operations a second.
        given_model: keys of `ModelConfig` that are fixed.
        given_train: keys of `TrainConfig` that are fixed.

    Returns:
        The resolved config, and a reason for each key that was chosen.

    Raises:
        BadInputError: a given value is out of range, or two don't fit together.
    """
    reasons: dict[str, str] = {}
    train = dict(given_train)
    budget = train.get("budget_seconds")
    if budget is None and "steps" not in train:
        budget = train["budget_seconds"] = DEFAULT_BUDGET_SECONDS
        reasons["budget_seconds"] = "no --budget or --steps was given"
    time = budget or DEFAULT_BUDGET_SECONDS
    model = _plan_model(tokenizer.kind, tokens, matmul_rate, time, given_model, reasons)
    config = build(ModelConfig, model, "model")
    _plan_batch(tokenizer.kind, config, matmul_rate, train, reasons)
    if "dropout" not in given_model:
        readings = _readings(config, tokens, matmul_rate, train)
        dropout, reasons["dropout"] = _choose_dropout(config, readings, tokens.n_train)
        config = replace(config, dropout=dropout)
    planned = _plan_train(config, tokens, matmul_rate, train, reasons)
    run = RunConfig(data, tokenizer, config, build(TrainConfig, planned, "train"))
    return run, reasons


def planned_shape(given: Given) -> ModelConfig:
    """The model that sizes lead to, but for the vocabulary of a text that was not read yet.

    Args:
        given: keys of `ModelConfig`; at least `n_layers` and `d_model`.

    Raises:
        BadInputError: a value is out of range, or two don't fit together.
    """
    unread = TokenFigures(vocab_size=1, n_train=8, n_holdout=8)
    values = _plan_model("char", unread, 1.0, DEFAULT_BUDGET_SECONDS, given, {})
    return build(ModelConfig, values, "model")


def _plan_model(
    kind: TokenizerKind,
    tokens: TokenFigures,
    rate: float,
    budget: float,
    given: Given,
    reasons: dict[str, str],
) -> Given:
    values = dict(given)
    values["vocab_size"] = tokens.vocab_size
    if not {"n_layers", "n_heads", "d_model"} <= set(values):
        shape, why = _choose_shape(kind, tokens, rate, budget)
        for key in ("n_layers", "d_model", "n_heads"):
            if key not in values:
                values[key] = getattr(shape, key)
                reasons[key] = why
        if "n_heads" not in given and "d_model" in given and "head_dim" not in given:
            values["n_heads"], why = _heads_of(int(values["d_model"]))
            reasons["n_heads"] = why
    if "head_dim" not in values:
        values["head_dim"] = derive_head_dim(values["d_model"], values["n_heads"])
    values.setdefault("n_kv_heads", values["n_heads"])
    if "d_ff" not in values:
        gated = values.get("architecture", "qwen3") == "qwen3"
        # A gated MLP has three matrices where a plain one has two.
        width = values["d_model"] * (8 / 3 if gated else 4)
        values["d_ff"] = max(8, math.ceil(width / 64) * 64)
    if "context_length" not in values:
        longest = max(1, min(tokens.n_train, tokens.n_holdout or tokens.n_train) // 8)
        most = 256 if rate * budget >= WORK_FOR_CONTEXT_256 else 128
        values["context_length"] = _between(8, 2 ** int(math.log2(max(8, longest))), most)
        reasons["context_length"] = "longer ones cost more steps than they teach in this time"
    if "tie_embeddings" not in values and values["vocab_size"] <= MOST_UNTIED:
        values["tie_embeddings"] = False
        reasons["tie_embeddings"] = "a few ids cost little twice, and two tables learn faster"
    return values


def _plan_batch(
    kind: TokenizerKind, model: ModelConfig, rate: float, values: Given, reasons: dict[str, str]
) -> None:
    if "batch_size" not in values and rate >= FAST:
        values["batch_size"] = _between(1, FAST_BATCH_TOKENS // model.context_length, 256)
        reasons["batch_size"] = "about 8,000 tokens a step: fewer would hardly be faster here"
    elif "batch_size" not in values:
        half = kind != "char" and model.d_model < NARROW
        tokens = BATCH_TOKENS // 2 if half else BATCH_TOKENS
        values["batch_size"] = _between(1, tokens // model.context_length, 64)
        about = f"about {round(tokens, -2):,} tokens a step"
        reasons["batch_size"] = f"{about}: many steps matter more than large ones"
    values.setdefault("accumulation", 1)


def _tokens_per_step(model: ModelConfig, train: Given) -> int:
    n_tokens: int = train["batch_size"] * train["accumulation"] * model.context_length
    return n_tokens


def _readings(model: ModelConfig, tokens: TokenFigures, rate: float, train: Given) -> float:
    # Of the train part, in the whole run.
    per_step = _tokens_per_step(model, train)
    if "steps" in train:
        return float(min(train["steps"], MOST_STEPS) * per_step / tokens.n_train)
    readings = train["budget_seconds"] * _tokens_per_second(model, rate) / tokens.n_train
    most = train.get("max_steps", 0) * per_step / tokens.n_train or MOST_EPOCHS
    return float(min(readings, most))


def _choose_dropout(model: ModelConfig, readings: float, n_train: int) -> tuple[float, str]:
    times = f"the text is read about {readings:.2g} times"
    heart = readings * _block_parameters(model) / n_train
    for least, dropout in DROPOUT:
        if heart >= least:
            return dropout, f"{times}: without it, it would be learned by heart"
    return 0.0, f"{times}: too seldom to be learned by heart"


def _tokens_per_second(model: ModelConfig, rate: float) -> float:
    # Rough: a step of a small model reaches about this part of the device's peak.
    return PART_OF_PEAK * rate / model.flops_per_token


def _choose_shape(
    kind: TokenizerKind, tokens: TokenFigures, rate: float, budget: float
) -> tuple[Shape, str]:
    best, why = LADDER[0], "the largest that this machine trains well in the time"
    # The table of characters costs next to nothing.
    with_table = WORK_FOR_SIZE * (1.0 if kind == "char" else 1.0 + TABLE_TO_BLOCKS)
    for shape in LADDER:
        n_parameters = _block_parameters(shape)
        if with_table * n_parameters**1.5 > rate * budget:
            break
        if n_parameters > MOST_PARAMETERS_PER_TOKEN * tokens.n_train:
            why = "a larger one would learn a text of this length by heart"
            break
        best = shape
    return best, why


def _block_parameters(shape: Shape | ModelConfig) -> int:
    # About: four matrices of the width's square in attention, and as much as eight in the MLP.
    return 12 * shape.n_layers * shape.d_model**2


def _heads_of(d_model: int) -> tuple[int, str]:
    for n_heads in range(_between(1, round(d_model / 48), MOST_HEADS), 0, -1):
        if d_model % n_heads == 0 and (d_model // n_heads) % 2 == 0:
            return n_heads, f"heads of {d_model // n_heads} wide"
    return 1, "no other number divides the width"


def _plan_train(
    model: ModelConfig, tokens: TokenFigures, rate: float, given: Given, reasons: dict[str, str]
) -> Given:
    values = dict(given)
    tokens_per_step = _tokens_per_step(model, values)
    seconds_per_step = tokens_per_step * model.flops_per_token / (PART_OF_PEAK * rate) + 2e-3
    optimizer = OPTIMIZERS.get(values.get("optimizer", TrainConfig.optimizer))
    values.setdefault("learning_rate", optimizer.planned_rate)
    if "steps" not in values:
        values["steps"] = _between(10, int(values["budget_seconds"] / seconds_per_step), MOST_STEPS)
        reasons["steps"] = "an estimate; settled by the measured rate before the decay"
        most = max(100, round(MOST_EPOCHS * tokens.n_train / tokens_per_step))
        if "max_steps" not in values and values["steps"] > most:
            values["max_steps"] = values["steps"] = most
            reasons["max_steps"] = (
                f"{tokens.n_train:,} tokens are few for the time: after {MOST_EPOCHS} readings the "
                "text is overfitted, so training ends there although time is left"
            )
    steps = values["steps"]
    values.setdefault("warmup_steps", _between(1, steps // 20, 20))
    # Often enough to draw a curve, rarely enough to cost a run of seconds little.
    apart = round(SECONDS_BETWEEN_EVALUATIONS / seconds_per_step)
    period = _between(max(1, steps // 12), apart, max(1, steps // 4))
    values.setdefault("evaluate_every", period)
    values.setdefault("checkpoint_every", values["evaluate_every"])
    if "evaluation_tokens" not in values:
        seconds = values["evaluate_every"] * seconds_per_step
        # A forward pass is about a third of a step.
        affordable = EVALUATION_OF_TIME * seconds * 3 * _tokens_per_second(model, rate)
        whole = tokens.n_holdout <= max(EVALUATION_TOKENS, affordable)
        values["evaluation_tokens"] = 0 if whole else EVALUATION_TOKENS
    if "closing_tokens" not in values:
        most = max(CLOSING_TOKENS, round(CLOSING_TO_TRAINED * steps * tokens_per_step))
        values["closing_tokens"] = most if tokens.n_holdout > most else 0
        if values["closing_tokens"]:
            reasons["closing_tokens"] = "to score all of the holdout would take time from training"
    values.setdefault("log_every", _between(1, round(0.5 / seconds_per_step), 10))
    return values


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
