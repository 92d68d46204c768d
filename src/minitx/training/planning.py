"""Plan a run from its encoded corpus: sizes, batch, rates and steps, each with a reason.

The rules are few, and `docs/plan.md` has what their constants were measured on. Whatever a person
gives is taken as it is; the rest is filled in around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.config.checks import duration_text, number_text
from minitx.config.model_config import Architecture, derive_head_dim
from minitx.config.overrides import Overrides
from minitx.config.run_config import TokenizerKind
from minitx.config.toml import build
from minitx.training.optimizers import OPTIMIZERS

DEFAULT_BUDGET_SECONDS = 300.0
"""Planned for when neither a budget nor a number of steps is given."""

NOMINAL_RATES = {"cpu": 1.6e11, "mps": 1.6e12, "cuda": 2e13}
"""Operations of training a second that a device of a kind is taken to do where the number of steps
is given: such a run is the same whenever it is repeated, so nothing in it may follow from a
measurement."""

MOST_UNTIED = 1024
"""Largest vocabulary for which separate input and output embeddings are planned."""

EMBEDDING_TO_BLOCKS = 0.75
"""Most parameters of a planned vocabulary's embedding, over those of the blocks."""

MOST_STEPS = 10**9
"""Planned for, however fast the machine."""

WORK_FOR_CONTEXT_256 = 1.2e14
"""Operations of training from which twice the usual context is worth its steps."""

MOST_PARAMETERS_PER_TOKEN = 5
"""A larger model memorizes a short text."""

DROPOUT = ((20.0, 0.1), (9.0, 0.05))
"""Planned from so many epochs (passes over the text) on, times parameters per token, most first: a
larger model memorizes a text in fewer epochs."""

MOST_EPOCHS = 30
"""Further ones only make the holdout loss worse, dropout or not."""

TRAINED_RATE = 0.1
"""Learning rates for a model that is trained already, over those of a new one ..."""

TRAINED_WIDTH = 256
"""... and of a wider one, less: what a step changes adds up over the width (Yang et al. 2022, table
3)."""

TRAINED_EPOCHS = 5
"""The most passes over the text in which such a model is trained further."""

TRAINED_CONTEXT = 512
"""The longest context in which it is, unless a person says so."""

LONGEST_PLANNED_CHAT = 512
"""The longest context that is planned for a conversation to fit."""

BATCH_TOKENS = 3072
"""In a step."""

FAST = 4e12
"""Operations a second from which on a step of so few tokens is mostly launching kernels ..."""

FAST_BATCH_TOKENS = 8192
"""... so that these cost only half as much again."""

NARROW = 128
"""Width below which a step has half as many tokens, if they are word pieces."""

CLOSING_TOKENS = 150_000
"""Of the holdout, which are scored after the last step in any case."""

CLOSING_TO_TRAINED = 0.15
"""The most tokens scored after the last step, if more than those, over the tokens trained on."""

EVALUATION_TOKENS = 20_000
"""Of the holdout, which are scored in each evaluation ..."""

EVALUATION_OF_TIME = 0.02
"""... unless all of it can be scored in this part of the time between two evaluations."""

SECONDS_BETWEEN_EVALUATIONS = 4.0
"""At least, in a run that is not so short that it would have fewer than four."""

WORK_FOR_SIZE = 16_000
"""Operations of training that a model of n parameters needs, over n^1.5; with word
pieces up to `EMBEDDING_TO_BLOCKS` as many again, which their embedding takes."""


@dataclass(frozen=True)
class Shape:
    """A rung of the ladder of model sizes."""

    n_layers: int
    n_heads: int
    d_model: int


# Widths are multiples of 32, so that matrix products fill the vector units.
LADDER = (
    Shape(2, 2, 64), Shape(3, 3, 96), Shape(4, 4, 128), Shape(4, 6, 192),
    Shape(6, 4, 256), Shape(6, 6, 384), Shape(8, 8, 512), Shape(12, 12, 768),
)  # fmt: skip


@dataclass(frozen=True)
class TokenFigures:
    """What is known of the encoded corpus: its token ids, and the tokens of its two parts.

    `n_conversation`: how many tokens all but the longest conversations have; 0 of other texts.
    """

    vocab_size: int
    n_train: int
    n_holdout: int
    n_conversation: int = 0


def plan_run(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    tokens: TokenFigures,
    rate: float,
    given_model: Overrides,
    given_train: Overrides,
) -> tuple[RunConfig, dict[str, str]]:
    """Choose everything that is not given, with a reason for each key that was chosen.

    `rate`, the floating-point operations of training that the device does in a second, is measured
    or nominal.

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
    model = _plan_model(tokenizer.kind, tokens, rate, time, given_model, reasons)
    config = build(ModelConfig, model, "model")
    _plan_batch(tokenizer.kind, config, rate, train, reasons)
    if "dropout" not in given_model:
        epochs = _epochs(config, tokens, rate, train)
        dropout, reasons["dropout"] = _choose_dropout(config, epochs, tokens.n_train)
        config = replace(config, dropout=dropout)
    planned = _plan_train(config, tokens, rate, train, reasons)
    run = RunConfig(data, tokenizer, config, build(TrainConfig, planned, "train"))
    return run, reasons


def planned_shape(given: Overrides) -> ModelConfig:
    """The model that sizes lead to, but for the vocabulary of a text that is not known yet.

    At least `n_layers` and `d_model` must be given.

    Raises:
        BadInputError: a value is out of range, or two don't fit together.
    """
    unknown = TokenFigures(vocab_size=1, n_train=8, n_holdout=8)
    values = _plan_model("char", unknown, 1.0, DEFAULT_BUDGET_SECONDS, given, {})
    return build(ModelConfig, values, "model")


def _plan_model(
    kind: TokenizerKind,
    tokens: TokenFigures,
    rate: float,
    budget: float,
    given: Overrides,
    reasons: dict[str, str],
) -> Overrides:
    values = dict(given)
    values["vocab_size"] = tokens.vocab_size
    if not {"n_layers", "n_heads", "d_model"} <= set(values):
        shape, why = choose_shape(kind, tokens, rate, budget)
        for key in ("n_layers", "d_model", "n_heads"):
            if key not in values:
                values[key] = getattr(shape, key)
                reasons[key] = why
        if "n_heads" not in given and "d_model" in given and "head_dim" not in given:
            values["n_heads"], reasons["n_heads"] = _heads_of(int(values["d_model"]))
    if "head_dim" not in values:
        values["head_dim"] = derive_head_dim(values["d_model"], values["n_heads"])
    values.setdefault("n_kv_heads", values["n_heads"])
    if "d_ff" not in values:
        values["d_ff"] = planned_d_ff(values["d_model"], values.get("architecture", "qwen3"))
    if "context_length" not in values:
        longest = max(1, min(tokens.n_train, tokens.n_holdout or tokens.n_train) // 8)
        most = 256 if rate * budget >= WORK_FOR_CONTEXT_256 else 128
        values["context_length"] = between(8, 2 ** int(math.log2(max(8, longest))), most)
        reasons["context_length"] = "a longer context would leave too few steps"
        most = min(LONGEST_PLANNED_CHAT, tokens.n_train - 1)
        if values["context_length"] < min(tokens.n_conversation, most):
            values["context_length"] = min(most, 2 ** math.ceil(math.log2(tokens.n_conversation)))
            reasons["context_length"] = "a conversation fits, as a shorter context could not answer"
    if "tie_embeddings" not in values and values["vocab_size"] <= MOST_UNTIED:
        values["tie_embeddings"] = False
        reasons["tie_embeddings"] = (
            "separate input and output embeddings: cheap at this vocabulary size, and learn faster"
        )
    return values


def planned_d_ff(d_model: int, architecture: Architecture) -> int:
    """Width of the MLP's hidden layer for a width of the model."""
    # A gated MLP has three matrices where a plain one has two.
    width = d_model * (4 if architecture == "gpt2" else 8 / 3)
    return max(8, math.ceil(width / 64) * 64)


def _plan_batch(
    kind: TokenizerKind, model: ModelConfig, rate: float, values: Overrides, reasons: dict[str, str]
) -> None:
    is_given = "accumulation" in values
    values.setdefault("accumulation", 1)
    if "batch_size" in values:
        return
    if rate >= FAST:
        values["batch_size"] = between(1, FAST_BATCH_TOKENS // model.context_length, 256)
        reasons["batch_size"] = "about 8,000 tokens a step: smaller batches would hardly be faster"
    else:
        half = kind != "char" and model.d_model < NARROW
        tokens = BATCH_TOKENS // 2 if half else BATCH_TOKENS
        values["batch_size"] = between(1, tokens // model.context_length, 64)
        about = f"about {round(tokens, -2):,} tokens a step"
        reasons["batch_size"] = f"{about}: more steps help more than larger batches"
    if not is_given and values.get("processes", 1) > 1:
        # The same batch, divided into passes: one for each process.
        values["accumulation"] = min(values["processes"], values["batch_size"])
        values["batch_size"] //= values["accumulation"]
        reasons["accumulation"] = "a pass for each process"


def _tokens_per_step(model: ModelConfig, train: Overrides) -> int:
    return int(train["batch_size"] * train["accumulation"] * model.context_length)


def _epochs(model: ModelConfig, tokens: TokenFigures, rate: float, train: Overrides) -> float:
    # Passes over the train part in the whole run.
    per_step = _tokens_per_step(model, train)
    if "steps" in train:
        return float(min(train["steps"], MOST_STEPS) * per_step / tokens.n_train)
    affordable = train["budget_seconds"] * tokens_per_second(model, rate) / tokens.n_train
    most = train.get("max_steps", 0) * per_step / tokens.n_train or MOST_EPOCHS
    return float(min(affordable, most))


def passes_text(epochs: float) -> str:
    """How often a text is read."""
    return f"about {number_text(epochs, 2)} passes"


def _choose_dropout(model: ModelConfig, epochs: float, n_train: int) -> tuple[float, str]:
    passes = f"{passes_text(epochs)} over the text"
    memorizing = epochs * block_parameters(model) / n_train
    for least, dropout in DROPOUT:
        if memorizing >= least:
            return dropout, f"{passes}: without dropout, the model would memorize it"
    return 0.0, f"{passes}: too few to memorize it"


def tokens_per_second(model: ModelConfig, rate: float) -> float:
    """About so many are trained on; `rate` is as in `plan_run`."""
    return rate / model.flops_per_token


def choose_shape(
    kind: TokenizerKind, tokens: TokenFigures, rate: float, budget: float
) -> tuple[Shape, str]:
    """The rung of the ladder for a text and a time in seconds, and the reason.

    `rate` is as in `plan_run`.
    """
    best, why = LADDER[0], f"the largest that trains well in {duration_text(budget)}"
    # The embedding of characters costs next to nothing.
    work = WORK_FOR_SIZE * (1.0 if kind == "char" else 1.0 + EMBEDDING_TO_BLOCKS)
    for shape in LADDER:
        n_parameters = block_parameters(shape)
        if work * n_parameters**1.5 > rate * budget:
            break
        if n_parameters > MOST_PARAMETERS_PER_TOKEN * tokens.n_train:
            why = "a larger model would memorize a text of this length"
            break
        best = shape
    return best, why


def block_parameters(shape: Shape | ModelConfig) -> int:
    """Parameters of the blocks, about."""
    # Four matrices of the width's square in attention, and as much as eight in the MLP.
    return 12 * shape.n_layers * shape.d_model**2


def _heads_of(d_model: int) -> tuple[int, str]:
    for n_heads in range(between(1, round(d_model / 48), 1024), 0, -1):
        if d_model % n_heads == 0 and (d_model // n_heads) % 2 == 0:
            return n_heads, f"each head is {d_model // n_heads} wide"
    return 1, "no other number divides the width"


def _plan_train(
    model: ModelConfig, tokens: TokenFigures, rate: float, given: Overrides, reasons: dict[str, str]
) -> Overrides:
    values = dict(given)
    tokens_per_step = _tokens_per_step(model, values)
    seconds_per_step = tokens_per_step * model.flops_per_token / rate + 2e-3
    optimizer = OPTIMIZERS.get(values.get("optimizer", TrainConfig.optimizer))
    trained = values.get("start") is not None
    if trained:
        # Low-rank updates take about ten times the rate of full ones (Schulman et al. 2025).
        factor = min(1.0, TRAINED_WIDTH / model.d_model)
        factor *= 1.0 if values.get("lora") else TRAINED_RATE
        if "learning_rate" not in values:
            reasons["learning_rate"] = f"the model is trained already: {factor:.2g} of a new one's"
        values.setdefault("learning_rate", optimizer.planned_rate * factor)
        values.setdefault("muon_learning_rate", TrainConfig.muon_learning_rate * factor)
    values.setdefault("learning_rate", optimizer.planned_rate)
    most_epochs = TRAINED_EPOCHS if trained else MOST_EPOCHS
    if "steps" not in values:
        values["steps"] = between(10, int(values["budget_seconds"] / seconds_per_step), MOST_STEPS)
        reasons["steps"] = "an estimate; the measured speed decides before the learning rate falls"
        most = max(100, round(most_epochs * tokens.n_train / tokens_per_step))
        if "max_steps" not in values and values["steps"] > most:
            values["max_steps"] = values["steps"] = most
            reasons["max_steps"] = (
                f"{tokens.n_train:,} tokens are few for the time: after {most_epochs} epochs the "
                "model is overfitted, so training ends there although time is left"
            )
    steps = values["steps"]
    # The moments of a trained model's optimizer are not known any more.
    warmup = between(1, steps // 10, 100) if trained else between(1, steps // 20, 20)
    values.setdefault("warmup_steps", warmup)
    # Often enough to draw a curve, rarely enough to cost a run of seconds little.
    period = round(SECONDS_BETWEEN_EVALUATIONS / seconds_per_step)
    values.setdefault("evaluate_every", between(max(1, steps // 12), period, max(1, steps // 4)))
    values.setdefault("checkpoint_every", values["evaluate_every"])
    if "evaluation_tokens" not in values:
        seconds = values["evaluate_every"] * seconds_per_step
        # A forward pass is about a third of a step.
        affordable = EVALUATION_OF_TIME * seconds * 3 * tokens_per_second(model, rate)
        scores_all = tokens.n_holdout <= max(EVALUATION_TOKENS, affordable)
        values["evaluation_tokens"] = 0 if scores_all else EVALUATION_TOKENS
    if "closing_tokens" not in values:
        most = max(CLOSING_TOKENS, round(CLOSING_TO_TRAINED * steps * tokens_per_step))
        values["closing_tokens"] = most if tokens.n_holdout > most else 0
        if values["closing_tokens"]:
            reasons["closing_tokens"] = "scoring the whole holdout would take time from training"
    values.setdefault("log_every", between(1, round(0.5 / seconds_per_step), 10))
    return values


def between(low: int, value: int, high: int) -> int:
    """The value, or the bound that it is beyond."""
    return max(low, min(value, high))
