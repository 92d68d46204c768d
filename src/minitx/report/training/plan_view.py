"""The plan of a run as a table: what, the value, and why."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.containers import Lines
from rich.text import Text

from minitx.config import DataConfig, ModelConfig, TrainConfig
from minitx.config.checks import number_text
from minitx.corpus.audit import amount_text, leak_text
from minitx.report.terminal.printable import cut_label, run_path, text_label, visible
from minitx.report.terminal.tables import table
from minitx.report.terminal.units import count, duration
from minitx.training.observer import RunStart
from minitx.training.optimizers import OPTIMIZERS

_Row = tuple[str, str, tuple[str, ...]]


def plan_table(start: RunStart, width: int = 80) -> RenderableType:
    """Lay out the resolved config, at most `width` columns wide.

    A reason stands beside the row that its config key belongs to; keys that have no row of their
    own get one at the end.
    """
    rows = _rows(start)
    told = {key for _, _, keys in rows for key in keys}
    rows += [(key, _value(start, key), (key,)) for key in start.reasons if key not in told]
    with_reasons = bool(start.reasons)
    made = table(["plan"], width=width if with_reasons else None)
    made.columns[0].style = "bold"
    made.add_column("value", max_width=max(30, width * 2 // 5))
    if with_reasons:
        made.add_column("why", style="dim", ratio=1)
    for name, value, keys in rows:
        reasons = dict.fromkeys(start.reasons[key] for key in keys if key in start.reasons)
        cells = (name, value, *(["; ".join(reasons)] if with_reasons else []))
        made.add_row(*(_WithUnits(visible(cell)) for cell in cells))
    data = start.config.data
    if not data.leaked:
        return made
    head = Text(f"{leak_text(data.leaked)}, most of all:", "yellow")
    return Group(made, head, *(Text(cut_label(text_label(leak), width)) for leak in data.leaks))


_JOINED = "\ue000"
"""Stands for a space at which no line ends: rich ends lines at every kind of space."""


class _WithUnits(Text):
    """A text whose numbers stand in one line with what they count: ``1.05 M``, ``4 layers``."""

    def __init__(self, text: str) -> None:
        super().__init__(re.sub(r"(?<=\d) (?=[^\W\d])", _JOINED, text))

    def wrap(self, *arguments: Any, **options: Any) -> Lines:
        lines = super().wrap(*arguments, **options)
        for line in lines:
            line.plain = line.plain.replace(_JOINED, " ")
        return lines


def _rows(start: RunStart) -> list[_Row]:
    tokenizer, model, train = start.config.tokenizer, start.config.model, start.config.train
    parts = f"{count(start.n_train_tokens)} train, {count(start.n_holdout_tokens)} holdout tokens"
    if start.n_unknown_tokens:
        parts += f" ({start.n_unknown_tokens:,} unknown to the tokenizer)"
    corpus = f"{_corpus_name(start.config.data.corpus)}: {parts}"
    tokens_per_step = train.batch_size * train.accumulation * model.context_length
    tokens = tokens_per_step * train.steps
    rounds = tokens / max(1, start.n_train_tokens)
    steps = f"{train.steps:,}: {count(tokens)} tokens, {number_text(rounds, 2)} epochs"
    if start.first_step:
        steps += f"; {start.first_step:,} already done"
    seconds = train.budget_seconds
    budget = [] if seconds is None else [("budget", duration(seconds), ("budget_seconds",))]
    passes = f" x {train.accumulation} passes" if train.accumulation > 1 else ""
    batch = f"{train.batch_size:,} sequences{passes}, {count(tokens_per_step)} tokens a step"
    if 0 < train.micro_batch_size < train.batch_size:
        batch += f", {train.micro_batch_size:,} sequences at once"
    optimizer = OPTIMIZERS.get(train.optimizer).description or train.optimizer
    clip = f"{train.grad_clip:g}" if train.grad_clip else "off"
    against = f"dropout {model.dropout:g}, weight decay {train.weight_decay:g}, grad clip {clip}"
    begun = [] if train.start is None else [("from", run_path(train.start), ("start",))]
    if train.lora:
        begun.append(("trained", f"a low-rank update, of rank {train.lora}", ("lora",)))
    if train.freeze:
        begun.append(("frozen", visible(train.freeze), ("freeze",)))
    device = f"{start.device}, {start.dtype}, {start.engine} engine"
    if train.recompute:
        device += ", blocks computed again on the way back"
    if train.shard:
        device += f", parameters shared out over {train.processes:,} processes"
    return [
        ("corpus", corpus, ("corpus",)),
        _holdout(start.config.data),
        ("tokenizer", f"{tokenizer.kind}, {model.vocab_size:,} ids", ("kind", "vocab_size")),
        ("model", _shape(model), _MODEL_KEYS),
        *begun,
        ("parameters", count(start.n_parameters), ("n_parameters", "tie_embeddings")),
        ("context", f"{model.context_length:,} tokens", ("context_length",)),
        ("batch", batch, ("batch_size", "accumulation", "micro_batch_size")),
        ("steps", steps, ("steps",)),
        *budget,
        ("optimizer", optimizer, _OPTIMIZER_KEYS),
        ("learning rate", _rates(train), _RATE_KEYS),
        ("regularization", against, ("dropout", "weight_decay", "grad_clip")),
        ("evaluation", _evaluation(train), _EVALUATION_KEYS),
        ("device", device, ("device", "dtype", "engine", "threads", "recompute", "shard")),
    ]


_MODEL_KEYS = ("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff", "head_dim")
_OPTIMIZER_KEYS = ("optimizer", "optimizer_options", "beta1", "beta2", "momentum")
_RATE_KEYS = ("learning_rate", "muon_learning_rate", "warmup_steps", "decay", "decay_fraction",
              "final_rate_fraction")  # fmt: skip
_EVALUATION_KEYS = ("evaluate_every", "evaluation_tokens", "closing_tokens", "early_stopping")


def split_told(data: DataConfig) -> str:
    """What is held out, in a few words."""
    if data.held_file is not None:
        return _corpus_name((data.held_file,))
    if not data.holdout_fraction:
        return "none"
    return "by hash" if data.split == "hash" else "the end"


def _holdout(data: DataConfig) -> _Row:
    told = split_told(data)
    if data.leaked is not None:
        told += f", {amount_text(data.leaked)} in the train part"
    return ("holdout", told, ("split", "holdout", "holdout_fraction", "leaked"))


def _corpus_name(sources: tuple[str, ...]) -> str:
    if not sources:
        return "embedded default"
    first = "standard input" if sources[0] == "-" else Path(sources[0]).name or sources[0]
    return first + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def _shape(model: ModelConfig) -> str:
    if model.code_file is not None:  # Its widths are its own.
        return f"{model.code_file}, {model.n_layers} layers, {model.n_heads} heads"
    groups = f" ({model.n_kv_heads} kv)" if model.n_kv_heads != model.n_heads else ""
    return (
        f"{model.architecture}, {model.n_layers} layers, {model.n_heads} heads{groups}, "
        f"d_model {model.d_model:,}, d_ff {model.d_ff:,}"
    )


def _rates(train: TrainConfig) -> str:
    rates = OPTIMIZERS.get(train.optimizer).peak_rates(train)
    peak = ", ".join(f"{name} {rate:g}".lstrip() for name, rate in rates.items())
    decay = f"{train.decay} decay over the last {train.decay_fraction:.0%}"
    if train.decay == "constant":
        decay = "no decay"
    return f"{peak}; warmup {train.warmup_steps:,} steps, {decay}"


def _evaluation(train: TrainConfig) -> str:
    text = f"holdout loss every {train.evaluate_every:,} steps"
    if train.evaluation_tokens:
        text += f" on {count(train.evaluation_tokens)} tokens"
    if train.closing_tokens:
        text += f", at the end on {count(train.closing_tokens)}"
    if train.early_stopping:
        text += f"; stop after {train.early_stopping} without improvement"
    return text


def _value(start: RunStart, key: str) -> str:
    tables = (getattr(start.config, part.name) for part in dataclasses.fields(start.config))
    return next((str(getattr(table, key)) for table in tables if hasattr(table, key)), "")
