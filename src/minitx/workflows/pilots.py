"""Pilots: short runs of small models, from which `minitx plan` tells the loss of a long one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from minitx.compute import Compute, keep_freed_memory
from minitx.config import ModelConfig, RunConfig, SamplingConfig, TrainConfig
from minitx.corpus.answer_targets import answers_in
from minitx.corpus.shards import IdArray
from minitx.evaluation.scoring import score, windows_for
from minitx.generation.generate_text import continue_ids
from minitx.model import Transformer
from minitx.training.batches import Batches
from minitx.training.cost import Workload, memory, step_cost
from minitx.training.devices import Device
from minitx.training.gradients import StepGradients
from minitx.training.loss_law import LossPoint
from minitx.training.memory import resident_bytes
from minitx.training.optimizers import make_optimizer
from minitx.training.planning import (
    BATCH_TOKENS,
    FAST_BATCH_TOKENS,
    LADDER,
    Shape,
    planned_d_ff,
)
from minitx.training.schedule import rate_factor
from minitx.workflows.prepare import Prepared

FEWEST_STEPS = 50
"""Of a pilot: shorter ones tell little."""

SCORED = 40_000
"""Tokens of the holdout that a pilot is scored on, or as many as it learns from, if more."""

PILOTS = (("own", 1 / 2), ("small", 1 / 2), ("small", 1.0), ("small", 2.0))
"""The model itself, and one of a sixth of its work, each on so many parts of some number of
tokens: the small one tells what more tokens are worth, both together what the size is worth."""

REPEATING = (("own", 1.0), ("small", 1.0), ("small", 2.0), ("part", 1.0))
"""Those for a run that reads its text more than once: `part` is the small model on a part of the
text, which it reads as often. It tells what a model that memorizes loses."""

_WRITTEN = 16


@dataclass(frozen=True)
class Pilot:
    """A pilot that was run.

    Attributes:
        step_tokens: tokens of a step.
        operations: of a step, with those of the optimizer.
        step_seconds: of one in the middle.
        scoring, writing: seconds for each token of the holdout, and of a sample.
        peak, resident: bytes that its cost model has, and of the whole process, at most so far.
    """

    model: ModelConfig
    step_tokens: int
    point: LossPoint
    operations: float
    step_seconds: float
    scoring: float
    writing: float
    peak: int
    resident: int


def on_this_machine(train: TrainConfig) -> TrainConfig:
    """The same training in one process here, whatever it is planned for."""
    return replace(train, processes=1, engine="auto", device="auto")


def in_small_steps(prepared: Prepared, rate: float) -> Prepared:
    """The same at the rate of this machine, and in steps of which it can do many."""
    train = on_this_machine(prepared.config.train)
    if step_tokens(prepared.config) > FAST_BATCH_TOKENS:
        context = prepared.config.model.context_length
        train = replace(train, batch_size=max(1, BATCH_TOKENS // context), accumulation=1)
    return replace(prepared, config=replace(prepared.config, train=train), rate=rate)


def step_tokens(config: RunConfig) -> int:
    """Of a step, on all devices."""
    train = config.train
    return train.batch_size * train.accumulation * config.model.context_length


def short_runs(
    prepared: Prepared,
    compute: Compute,
    seconds: float,
    epochs: float,
    progress: Callable[[str], None],
) -> Iterator[Pilot]:
    """Short runs of the model, or the largest of the ladder for which there is time, and of one of
    a sixth of its work, for a run of so many epochs."""
    model, ids = prepared.config.model, prepared.encoded.train_ids
    planned = REPEATING if epochs > 1 else PILOTS
    fewest = FEWEST_STEPS * step_tokens(prepared.config)
    rungs = [like(model, shape) for shape in reversed(LADDER)]
    smaller = [rung for rung in rungs if rung.flops_per_token < 0.9 * model.flops_per_token]
    for number, own in enumerate([model, *smaller]):
        third = own.flops_per_token / 3
        small = next((rung for rung in smaller[number:] if rung.flops_per_token < third), own)
        runs = dict.fromkeys(
            (own if which == "own" else small, of_unit, which == "part")
            for which, of_unit in planned
        )
        work = sum(shape.flops_per_token * of_unit for shape, of_unit, _ in runs)
        unit = seconds * prepared.rate / work
        if unit * planned[0][1] >= fewest or own is rungs[-1]:
            break
    if unit < 2 * step_tokens(prepared.config):
        return
    keep_freed_memory()
    for done, (shape, of_unit, of_part) in enumerate(runs, 1):
        progress(f"pilot {done} of {len(runs)}: {shape.n_layers} layers of {shape.d_model}")
        tokens = of_unit * unit
        text = _part(ids, tokens / epochs, model.context_length) if of_part else ids
        yield pilot_run(prepared, shape, text, tokens, compute, max(SCORED, round(unit)))


def _part(ids: IdArray, tokens: float, context: int) -> IdArray:
    # About so many tokens of a text, in pieces from all over it.
    row = min(8 * context, len(ids))
    n_rows = len(ids) // row
    kept = max(1, min(n_rows, round(tokens / row)))
    rows = np.arange(kept) * n_rows // kept
    return np.asarray(ids[: n_rows * row]).reshape(n_rows, row)[rows].reshape(-1)


def like(model: ModelConfig, shape: Shape) -> ModelConfig:
    """A model of another shape."""
    return replace(
        model, n_layers=shape.n_layers, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
        d_model=shape.d_model, head_dim=shape.d_model // shape.n_heads,
        d_ff=planned_d_ff(shape.d_model, model.architecture),
    )  # fmt: skip


def pilot_run(
    prepared: Prepared,
    model: ModelConfig,
    ids: IdArray,
    tokens: float,
    compute: Compute,
    scored: int,
    most_seconds: float = math.inf,
) -> Pilot:
    """Train a model on about so many tokens of a text, and score it on so many of the holdout.

    Where only its speed is asked for, it ends after two steps and `most_seconds`.
    """
    steps = max(2, round(tokens / step_tokens(prepared.config)))
    warmup = min(prepared.config.train.warmup_steps, max(1, steps // 20))
    train = replace(prepared.config.train, steps=steps, warmup_steps=warmup, step_decisions=())
    torch.manual_seed(train.seed)
    made = Transformer(model).to(compute.device).train()
    batches = Batches(
        ids, model.context_length, train.batch_size, train.seed, compute.device, train.data_order,
        answers_in(ids, prepared.tokenizer),
    )  # fmt: skip
    gradients = StepGradients(made, batches, train, compute)
    optimizer = make_optimizer(made, train, compute.dtype)
    times = []
    for step in range(steps):
        began = time.perf_counter()
        float(gradients(step))
        optimizer.step(rate_factor(train, step, steps))
        times.append(time.perf_counter() - began)
        if len(times) > 1 and sum(times) > most_seconds:
            break
    began = time.perf_counter()
    loss = holdout_loss(prepared, made, compute, scored)
    scoring = (time.perf_counter() - began) / min(scored, len(prepared.encoded.holdout_ids))
    began = time.perf_counter()
    sampling = SamplingConfig(max_new_tokens=_WRITTEN, ignore_eos=True)
    continue_ids(made, prepared.tokenizer, ids[:1].tolist(), sampling)
    writing = (time.perf_counter() - began) / _WRITTEN
    of_step = step_tokens(prepared.config)
    point = LossPoint(model.n_parameters, len(times) * of_step, loss, len(ids))
    work = Workload(
        train.batch_size, train.optimizer, train.accumulation, compute.dtype_name, on_cpu=False
    )
    operations = step_cost(model, work, Device("here", 0.0, 1.0, math.inf)).all_operations
    # The first step also prepares.
    median, peak = sorted(times[1:])[len(times) // 2 - 1], memory(model, work).peak
    return Pilot(
        model, of_step, point, operations, median, scoring, writing, peak, resident_bytes(peak=True)
    )


def holdout_loss(prepared: Prepared, model: Transformer, compute: Compute, scored: int) -> float:
    """Of a model on about so many tokens of the holdout, in nats per token."""
    holdout = prepared.encoded.holdout_ids
    answers = answers_in(holdout, prepared.tokenizer)
    windows = windows_for(model, None, None, scored, compute.dtype, answers)
    return score(model, holdout, windows).loss
