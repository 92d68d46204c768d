"""What a run would take and reach, before it: `minitx plan` as a library call.

The text is read, as a training would. Then the cost model says what the run takes; nothing of it
is allotted. Its loss is predicted from short runs of small models, and from what is in the runs'
directory.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from minitx.checkpoint.rundir import RUNS, RunDirectory
from minitx.compute import Compute, choose_compute
from minitx.config import DataConfig, PlanSettings, RunConfig
from minitx.config.toml import build
from minitx.corpus import read_corpus
from minitx.corpus.documents import Reading
from minitx.corpus.encoded import DESCRIPTION
from minitx.errors import MinitxError
from minitx.files import read_json
from minitx.training.cost import Memory, StepCost, Workload, memory, step_cost
from minitx.training.devices import EFFICIENCY, Device, device_named
from minitx.training.history import read_history
from minitx.training.logging.metrics_file import read_metrics
from minitx.training.loss_law import Forecast, LossLaw, LossPoint
from minitx.training.machine_speed import kept_speed, measure_speed
from minitx.training.memory import free_memory, resident_bytes
from minitx.training.observer import Observers, Phase, TrainingObserver
from minitx.training.planning import (
    Shape,
)
from minitx.workflows.pilots import (
    SCORED,
    Pilot,
    holdout_loss,
    in_small_steps,
    like,
    on_this_machine,
    pilot_run,
    short_runs,
    step_tokens,
)
from minitx.workflows.prepare import Prepared, TrainRequest, prepare
from minitx.workflows.run_session import sample_tokens
from minitx.workflows.start import open_start, starting_model

SIZES = (
    Shape(12, 12, 768), Shape(24, 16, 1024), Shape(36, 20, 1280), Shape(48, 25, 1600),
    Shape(32, 32, 4096),
)  # fmt: skip
"""Of GPT-2's four sizes (Radford et al. 2019) and of 7 B."""

TRIED, TRIED_SCORES = 5, 8_192
"""Steps of a model that no pilot is as large as, and tokens that it is scored on, to see how long
both take; or fewer, at least two steps and a window, for which there is time."""

LOOKS = 60_000_000
"""Bytes that a run's samples, film and probes take beside, and no pilot has: 40 to 120 MB
were measured."""

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
        return step_tokens(self.config)

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
        loss = holdout_loss(prepared, made, compute, SCORED)
        return replace(forecast, loss_now=loss)


class _Phases(TrainingObserver):
    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress

    def on_phase(self, phase: Phase) -> None:
        if phase.name:
            self._progress(phase.name)


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
        accumulation=train.accumulation,
    )  # fmt: skip
    available = free_memory() if device is None else device.memory
    program = resident_bytes() if device is None else 0
    rate = prepared.rate
    pilots: list[Pilot] = []
    if settings.pilots and n_holdout > 1 and train.start is None:
        speed = kept_speed(compute, "auto") or measure_speed(compute, "auto")
        epochs = train.steps * step_tokens(config) / len(ids)
        small = in_small_steps(prepared, speed.rate)
        pilots = list(short_runs(small, compute, settings.pilots, epochs, progress))
        if device is None:
            rate = speed.rate
    # Those of the model itself, in steps as large.
    own = [p for p in pilots if (p.model, p.step_tokens) == (model, step_tokens(config))]
    here = Device("here", float(available or 0), 0.0, math.inf)
    if device is None:
        measured = max(pilots, key=lambda p: p.operations / p.step_seconds, default=None)
        if measured is not None:
            rate = measured.operations / measured.step_seconds
        here = replace(here, rate=rate / EFFICIENCY)
    cost, parts = step_cost(model, work, device or here), memory(model, work)
    scoring, sample = _scoring(config, cost), 0.0
    if pilots and device is None:
        if not own and _may_be_tried(settings, cost, parts, program, available):
            # No pilot is of its size, and small models say little of the rate of large ones.
            progress("some steps of the model itself")
            whole = replace(prepared, config=replace(config, train=on_this_machine(train)))
            scored = round(settings.pilots / 4 / _scoring(config, cost))
            scored = max(model.context_length, min(scored, TRIED_SCORES))
            n_tokens, most = TRIED * step_tokens(config), settings.pilots / 2
            own = [pilot_run(whole, model, ids, n_tokens, compute, scored, most)]
        # It also showed what scoring takes, and libraries that load late. Those after the first one
        # find what that freed in pieces, unless they are far larger.
        shown = (own or pilots)[0]
        program = max(program, shown.resident - shown.peak) + LOOKS
        if own and settings.gpus == 1:
            cost = replace(cost, seconds=min(pilot.step_seconds for pilot in own))
            scoring = min(pilot.scoring for pilot in own)
            sample = sample_tokens(compute.device.type) * min(pilot.writing for pilot in own)
    config, seconds = _timed(config, cost, n_holdout, scoring, sample)
    earlier = list(_earlier_runs(prepared))
    points = [pilot.point for pilot in pilots] + earlier
    law = LossLaw(points, len(ids)) if len(points) > 1 and train.start is None else None
    tokens = config.train.steps * step_tokens(config)
    others = [like(model, shape) for shape in SIZES]
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


def _may_be_tried(
    settings: PlanSettings, cost: StepCost, parts: Memory, program: int, available: float | None
) -> bool:
    """Whether some steps of a model are worth their time, and surely fit the memory."""
    is_short = settings.gpus == 1 and 2 * cost.seconds < settings.pilots
    return is_short and available is not None and 2 * (parts.peak + program) < available


def _scoring(config: RunConfig, cost: StepCost) -> float:
    """Seconds to score a token, at the rate of a step."""
    pass_seconds = cost.seconds * cost.operations / cost.all_operations
    return SCORING * pass_seconds / step_tokens(config)


def _timed(
    config: RunConfig, cost: StepCost, n_holdout: int, scoring: float, sample: float
) -> tuple[RunConfig, float]:
    # The config with as many steps as fit its budget, and the seconds of the run, of which scoring
    # takes so many a token, and a sample so many.
    train = config.train
    looks = scoring * min(train.evaluation_tokens or n_holdout, n_holdout) + sample
    closing = scoring * min(train.closing_tokens or n_holdout, n_holdout)
    if train.budget_seconds is not None:
        every = cost.seconds + looks / train.evaluate_every
        steps = max(1, int((train.budget_seconds - closing) / every))
        steps = min(steps, train.max_steps or steps)
        train = replace(train, steps=steps)
    n_looks = -(-train.steps // train.evaluate_every)
    seconds = train.steps * cost.seconds + n_looks * looks + closing
    return replace(config, train=train), seconds


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
