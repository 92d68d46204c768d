"""What a run would take and reach, before it: `minitx plan` as a library call.

The text is read, as a training would. Then the cost model says what the run takes; nothing of it
is allotted. Its loss is predicted from short runs of small models, and from what is in the runs'
directory.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from minitx.checkpoint.rundir import RUNS, RunDirectory
from minitx.compute import Compute, choose_compute, keep_freed_memory
from minitx.config import DataConfig, ModelConfig, PlanSettings, RunConfig
from minitx.config.toml import build
from minitx.corpus import read_corpus
from minitx.corpus.answer_targets import answers_in
from minitx.corpus.documents import Reading
from minitx.corpus.encoded import DESCRIPTION
from minitx.corpus.shards import IdArray
from minitx.errors import MinitxError
from minitx.evaluation.scoring import score, windows_for
from minitx.files import read_json
from minitx.model import Transformer
from minitx.training.batches import Batches
from minitx.training.cost import Memory, StepCost, Workload, memory, step_cost
from minitx.training.devices import EFFICIENCY, Device, device_named
from minitx.training.gradients import StepGradients
from minitx.training.history import read_history
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.loss_law import Forecast, LossLaw, LossPoint
from minitx.training.machine_speed import kept_speed, measure_speed
from minitx.training.memory import free_memory, resident_bytes
from minitx.training.observer import Observers, Phase, TrainingObserver
from minitx.training.optimizers import make_optimizer
from minitx.training.planning import (
    BATCH_TOKENS,
    FAST_BATCH_TOKENS,
    LADDER,
    Shape,
    planned_d_ff,
)
from minitx.training.schedule import rate_factor
from minitx.workflows.prepare import Prepared, TrainRequest, prepare
from minitx.workflows.start import open_start, starting_model

FEWEST_STEPS = 50
"""Of a pilot: shorter ones tell little."""

SCORED = 40_000
"""Tokens of the holdout that a pilot is scored on, or as many as it learns from, if more."""

SIZES = (
    Shape(12, 12, 768), Shape(24, 16, 1024), Shape(36, 20, 1280), Shape(48, 25, 1600),
    Shape(32, 32, 4096),
)  # fmt: skip
"""Of GPT-2's four sizes (Radford et al. 2019) and of 7 B."""

PILOTS = (("own", 1 / 2), ("small", 1 / 2), ("small", 1.0), ("small", 2.0))
"""The model itself, and one of a sixth of its work, each on so many parts of some number of
tokens: the small one tells what more tokens are worth, both together what the size is worth."""

REPEATING = (("own", 1.0), ("small", 1.0), ("small", 2.0), ("part", 1.0))
"""Those for a run that reads its text more than once: `part` is the small model on a part of the
text, which it reads as often. It tells what a model that memorizes loses."""

LOOKS = 20_000_000
"""Bytes that a run's samples, film and probes take beside, and no pilot has: measured at the first
ones of 4 layers of 128."""

SCORING = 1 / 3
"""Of the work of training on a token: scoring one."""


@dataclass(frozen=True)
class RunForecast:
    """What a run takes and reaches.

    Attributes:
        available: bytes that a device has free; None if unknown.
        program: bytes of the process before a model is there; 0 on another machine.
        seconds: of the whole run, with what is scored.
        loss: in nats per token; None if there were too few runs to tell.
        loss_now: that of the model that it begins with, on the holdout; None for a new model, of
            which alone a loss is predicted.
        pilots, earlier: runs that tell it: done now, and those on this machine.
        best_size: parameters with which the loss is lowest in the same work.
        sizes: parameters of well-known shapes, and their peak of memory in passes of that size.
    """

    config: RunConfig
    reasons: dict[str, str]
    train_tokens: int
    holdout_tokens: int
    device: Device | None
    work: Workload
    memory: Memory
    available: float | None
    program: int
    step: StepCost
    seconds: float
    loss: Forecast | None
    pilots: int
    earlier: int
    best_size: float | None
    sizes: tuple[tuple[int, int], ...]
    loss_now: float | None = None

    @property
    def tokens(self) -> int:
        """That the run learns from."""
        return self.config.train.steps * self.step_tokens

    @property
    def step_tokens(self) -> int:
        """Of a step, on all devices."""
        return _step_tokens(self.config)

    @property
    def fits(self) -> bool | None:
        """Whether memory suffices; None if it is not known how much there is."""
        if self.available is None:
            return None
        return self.memory.peak + self.program <= self.available


def plan(
    settings: PlanSettings,
    request: TrainRequest,
    stdin: BinaryIO | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> RunForecast:
    """Plan a run as `train` would, and say what it takes.

    Raises:
        BadInputError: something given can't be used.
    """
    device = None
    if settings.device != "here" or settings.memory or settings.tflops:
        device = device_named(settings.device, settings.memory, settings.tflops)
    train = {**request.train, "processes": settings.gpus}
    if device is not None:
        train = {"engine": "plain", **train}
    request = replace(request, train=train)
    start = open_start(train)
    if start is not None:
        request = start.planned(request)
    compute = choose_compute("auto", train.get("dtype", "auto"), train.get("threads", 0))
    data = build(DataConfig, request.data, "data")
    progress("reading the corpus")
    corpus = read_corpus(data.corpus, stdin, reading=Reading.of(data))
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(Path(directory, "run"))
        run.path.mkdir()
        rate = device.trains_at * settings.gpus if device else None
        told = Observers([_Phases(progress)])
        tokenizer = start.saved.tokenizer if start else None
        prepared = prepare(request, corpus, data, run, compute, told, rate, tokenizer)
        forecast = _forecast(settings, prepared, device, compute, progress)
        if start is None or forecast.holdout_tokens < 2:
            return forecast
        progress("scoring the model to begin with")
        made = starting_model(prepared.config, None, start).eval()
        loss = _holdout_loss(prepared, made, compute, SCORED)
        return replace(forecast, loss_now=loss)


class _Phases(TrainingObserver):
    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress

    def on_phase(self, phase: Phase) -> None:
        if phase.name:
            self._progress(phase.name)


@dataclass(frozen=True)
class _Pilot:
    point: LossPoint
    operations: float
    step_seconds: float
    peak: int
    resident: int


def _forecast(
    settings: PlanSettings,
    prepared: Prepared,
    device: Device | None,
    compute: Compute,
    progress: Callable[[str], None],
) -> RunForecast:
    config, ids = prepared.config, prepared.encoded.train_ids
    n_holdout = len(prepared.encoded.holdout_ids)
    model, train = config.model, config.train
    dtype = compute.dtype_name if device is None else "bfloat16"
    work = Workload(
        batch_size=max(1, train.batch_size // -(-settings.gpus // train.accumulation)),
        optimizer=train.optimizer, passes=max(1, train.accumulation // settings.gpus), dtype=dtype,
        native=train.engine != "plain" and not train.recompute, on_cpu=device is None,
        processes=settings.gpus, shard=settings.shard, recompute=train.recompute,
    )  # fmt: skip
    available = free_memory() if device is None else device.memory
    program = resident_bytes() if device is None else 0
    rate = prepared.rate
    pilots: list[_Pilot] = []
    if settings.pilots and n_holdout > 1 and train.start is None:
        speed = kept_speed(compute, "auto") or measure_speed(compute, "auto")
        epochs = train.steps * _step_tokens(config) / len(ids)
        small = _small_steps(prepared, speed.rate)
        pilots = list(_pilots(small, compute, settings.pilots, epochs, progress))
        if device is None:
            rate = speed.rate
    # Those of the model itself, in steps as large.
    own = [
        pilot for pilot in pilots
        if pilot.operations == model.flops_per_token * _step_tokens(config)
    ]  # fmt: skip
    here = Device("here", float(available or 0), 0.0, math.inf)
    if device is None:
        measured = max(pilots, key=lambda p: p.operations / p.step_seconds, default=None)
        if measured is not None:
            rate = measured.operations / measured.step_seconds
        here = replace(here, rate=rate / EFFICIENCY)
    cost, parts = step_cost(model, work, device or here), memory(model, work)
    if pilots and device is None:
        # The first one also showed what scoring takes, and libraries that load late. Those after it
        # had other shapes, and find what it freed in pieces.
        program = max(program, pilots[0].resident - pilots[0].peak) + LOOKS
    if own and device is None:
        cost = replace(cost, seconds=min(pilot.step_seconds for pilot in own))
    config, seconds = _timed(config, cost, n_holdout)
    earlier = list(_earlier_runs(prepared))
    points = [pilot.point for pilot in pilots] + earlier
    law = LossLaw(points, len(ids)) if len(points) > 1 and train.start is None else None
    tokens = config.train.steps * _step_tokens(config)
    others = [_like(model, shape) for shape in SIZES]
    sizes = [(other.n_parameters, memory(other, work).peak + program) for other in others]
    return RunForecast(
        config=config,
        reasons=prepared.reasons,
        train_tokens=len(ids),
        holdout_tokens=n_holdout,
        device=device,
        work=work,
        memory=parts,
        available=available,
        program=program,
        step=cost,
        seconds=seconds,
        loss=law.at(model.n_parameters, tokens) if law else None,
        pilots=len(pilots),
        earlier=len(earlier),
        best_size=law.best_size(tokens * model.flops_per_token) if law else None,
        sizes=tuple(sizes),
    )


def _small_steps(prepared: Prepared, rate: float) -> Prepared:
    # At the rate of this machine, in one process, and in steps that it can do in numbers.
    train = prepared.config.train
    train = replace(train, processes=1, engine="auto", device="auto")
    if _step_tokens(prepared.config) > FAST_BATCH_TOKENS:
        context = prepared.config.model.context_length
        train = replace(train, batch_size=max(1, BATCH_TOKENS // context), accumulation=1)
    return replace(prepared, config=replace(prepared.config, train=train), rate=rate)


def _step_tokens(config: RunConfig) -> int:
    train = config.train
    return train.batch_size * train.accumulation * config.model.context_length


def _timed(config: RunConfig, cost: StepCost, n_holdout: int) -> tuple[RunConfig, float]:
    # The config with as many steps as fit its budget, and the seconds of the run.
    train, per_token = config.train, SCORING * cost.seconds / _step_tokens(config)
    looks = per_token * min(train.evaluation_tokens or n_holdout, n_holdout)
    closing = per_token * min(train.closing_tokens or n_holdout, n_holdout)
    every = cost.seconds + looks / train.evaluate_every
    if train.budget_seconds is not None:
        steps = max(1, int((train.budget_seconds - closing) / every))
        steps = min(steps, train.max_steps or steps)
        config = replace(config, train=replace(train, steps=steps))
    return config, config.train.steps * every + closing


def _pilots(
    prepared: Prepared,
    compute: Compute,
    seconds: float,
    epochs: float,
    progress: Callable[[str], None],
) -> Iterator[_Pilot]:
    """Short runs of the model, or the largest of the ladder for which there is time, and of one of
    a sixth of its work, for a run of so many epochs."""
    model, ids = prepared.config.model, prepared.encoded.train_ids
    planned = REPEATING if epochs > 1 else PILOTS
    fewest = FEWEST_STEPS * _step_tokens(prepared.config)
    rungs = [_like(model, shape) for shape in reversed(LADDER)]
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
    if unit < 2 * _step_tokens(prepared.config):
        return
    keep_freed_memory()
    for done, (shape, of_unit, of_part) in enumerate(runs, 1):
        progress(f"pilot {done} of {len(runs)}: {shape.n_layers} layers of {shape.d_model}")
        tokens = of_unit * unit
        text = _part(ids, tokens / epochs, model.context_length) if of_part else ids
        yield _pilot(prepared, shape, text, tokens, compute, max(SCORED, round(unit)))


def _part(ids: IdArray, tokens: float, context: int) -> IdArray:
    # About so many tokens of a text, in pieces from all over it.
    row = min(8 * context, len(ids))
    n_rows = len(ids) // row
    kept = max(1, min(n_rows, round(tokens / row)))
    rows = np.arange(kept) * n_rows // kept
    return np.asarray(ids[: n_rows * row]).reshape(n_rows, row)[rows].reshape(-1)


def _like(model: ModelConfig, shape: Shape) -> ModelConfig:
    return replace(
        model, n_layers=shape.n_layers, n_heads=shape.n_heads, n_kv_heads=shape.n_heads,
        d_model=shape.d_model, head_dim=shape.d_model // shape.n_heads,
        d_ff=planned_d_ff(shape.d_model, model.architecture),
    )  # fmt: skip


def _pilot(
    prepared: Prepared,
    model: ModelConfig,
    ids: IdArray,
    tokens: float,
    compute: Compute,
    scored: int,
) -> _Pilot:
    steps = max(2, round(tokens / _step_tokens(prepared.config)))
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
    loss = _holdout_loss(prepared, made, compute, scored)
    n_tokens = steps * _step_tokens(prepared.config)
    point = LossPoint(model.n_parameters, n_tokens, loss, len(ids))
    flops = model.flops_per_token * _step_tokens(prepared.config)
    work = Workload(train.batch_size, train.optimizer, dtype=compute.dtype_name, on_cpu=False)
    median, peak = sorted(times)[len(times) // 2], memory(model, work).peak
    return _Pilot(point, flops, median, peak, resident_bytes(peak=True))


def _holdout_loss(prepared: Prepared, model: Transformer, compute: Compute, scored: int) -> float:
    holdout = prepared.encoded.holdout_ids
    answers = answers_in(holdout, prepared.tokenizer)
    windows = windows_for(model, None, None, scored, compute.dtype, answers)
    return score(model, holdout, windows).loss


def _earlier_runs(prepared: Prepared) -> Iterator[LossPoint]:
    """Finished runs in the runs' directory on the same text in the same tokens."""
    wanted = prepared.split.digest, prepared.tokenizer.digest
    for path in RUNS.glob("*/data"):
        with contextlib.suppress(MinitxError, OSError, ValueError, KeyError):
            noted = read_json(path / DESCRIPTION)
            if (noted["digest"], noted["tokenizer_digest"]) != wanted:
                continue
            run = RunDirectory(path.parent)
            config, history = run.read_config(), read_history(read_metrics(run.metrics_file))
            if history.ending == "finished" and history.evaluations:
                last = history.evaluations[-1]
                tokens = history.at("tokens", last.step)
                is_new = config.train.start is None
                if is_new and config.train.optimizer == prepared.config.train.optimizer:
                    unique = len(prepared.encoded.train_ids)
                    loss = last.holdout_loss
                    yield LossPoint(config.model.n_parameters, tokens, loss, unique)
