"""Train a model on a text: what `minitx train` does, as a library call.

request = TrainRequest(data={"corpus": ("shakespeare.txt",)}, train={"budget_seconds": 180.0})
run = train(request, [])
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from minitx.checkpoint.new_run import create_run, require_name
from minitx.checkpoint.rundir import RUNS
from minitx.compute import Compute, EngineChoice, choose_compute
from minitx.config import DataConfig, RunConfig
from minitx.config.checks import require_range
from minitx.config.toml import build, dump_toml
from minitx.config.train_config import MOST_THREADS
from minitx.corpus import SplitCorpus, read_corpus
from minitx.corpus.audit import audit, read_audit
from minitx.corpus.documents import Reading
from minitx.engine import choose_engine, kernel_build
from minitx.errors import BadInputError, InstabilityError
from minitx.training.cost import Workload, reason_to_recompute
from minitx.training.logging import required_loggers
from minitx.training.memory import Workload as LeastWorkload
from minitx.training.memory import free_memory, require_memory
from minitx.training.observer import Observers, Phase, RunEnd, TrainingObserver
from minitx.training.optimizers import OPTIMIZERS
from minitx.training.sharding import require_shardable
from minitx.training.signals import StopRequest, interrupted_before_steps
from minitx.training.state import TrainingState
from minitx.training.team import Team, joined_team
from minitx.workflows.follow import follow
from minitx.workflows.prepare import TrainRequest, prepare, progress_told
from minitx.workflows.run_session import run_session
from minitx.workflows.session import Session, made_on
from minitx.workflows.start import keep_old_holdout, open_start, starting_model
from minitx.workflows.tried_model import SHAPE, own_code, tried

__all__ = ["FinishedRun", "TrainRequest", "audited", "train"]


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end: its directory, and how it ended."""

    run: Path
    end: RunEnd


def train(
    request: TrainRequest, observers: Sequence[TrainingObserver], stdin: BinaryIO | None = None
) -> FinishedRun:
    """Plan a run, train it to its end, and leave everything in its directory.

    Raises:
        BadInputError: something given can't be used; no run directory is left behind.
        InstabilityError: the loss became NaN or diverged.
        InterruptedRunError: a signal stopped it; the run is saved, or has not begun.
        KeyboardInterrupt: a second Ctrl-C; what was saved before is whole.
    """
    fix = "No run was begun; give the same command again"
    told = Observers(observers)
    if request.measure and "steps" in request.train:
        raise BadInputError(
            "--measure says how fast this machine is, and with --steps nothing depends on that",
            "Give --budget instead of --steps, or leave out --measure",
        )
    device = request.train.get("device", "auto")
    with (
        StopRequest() as stop,
        interrupted_before_steps(stop, fix),
        joined_team(device, _asked(request)) as team,
        interrupted_before_steps(stop, fix),
    ):
        if not team.is_first:
            follow(team, stop)
        request = _for_team(request, team)
        required_loggers(request.loggers)
        require_shardable(request.train, request.model_file is not None)
        threads = request.train.get("threads", 0)
        require_range("threads", threads, 0, MOST_THREADS)
        compute = choose_compute(device, request.train.get("dtype", "auto"), threads)
        start = open_start(request.train)
        if start is not None:
            request = start.planned(request)
        code = own_code(request.model_file, request.model)
        kernel_build()  # A MINITX_KERNELS that names none is refused before time is spent on it.
        told.observe(Phase("reading the corpus"))
        data = build(DataConfig, request.data, "data")
        # What can't be noted is refused before time is spent on it.
        dump_toml({"data": data})
        if request.out is not None:
            require_name(request.out)
        corpus = read_corpus(data.corpus, stdin, reading=Reading.of(data))
        new_directories = _missing(request.out or RUNS)
        run = create_run(request.out, corpus.name)
        with run.lock():
            try:
                tokenizer = start.saved.tokenizer if start else None
                prepared = prepare(request, corpus, data, run, compute, told, None, tokenizer)
                split, encoded = prepared.split, prepared.encoded
                config, planned = prepared.config, prepared.reasons
                state_bytes = OPTIMIZERS.get(config.train.optimizer).state_bytes
                size = config.train.batch_size
                rows = min(config.train.micro_batch_size or size, size)
                free = _free_memory(compute.device)
                parts = config.train.processes if config.train.shard else 1
                require_memory(config.model, LeastWorkload(rows, state_bytes, parts), free)
                # Last, so that a refusal is all that is said.
                data, sample = audited(config.data, split, told)
                config, reasons = replace(config, data=data), sample
                if code is not None:
                    told.observe(Phase(f"trying {code.file}"))
                    own = tried(config.model, code, compute, config.train.seed, request.check)
                    config = replace(config, model=own)
                    planned = {key: why for key, why in planned.items() if key not in SHAPE}
                torch.manual_seed(config.train.seed)
                model = starting_model(config, code, start).to(made_on(config.train, compute))
                if start is not None:
                    planned = planned | keep_old_holdout(start, run, model, config, compute)
                # What blocks one's own model has, nobody knows.
                may_recompute = code is None and "recompute" not in request.train
                engine, why = _engine(config, model, compute, rows, free if may_recompute else None)
                train = replace(
                    config.train,
                    engine=engine.engine,
                    recompute=config.train.recompute or bool(why),
                )
                config, planned = replace(config, train=train), planned | why
                settled = config.train.budget_seconds is None or "steps" in request.train
                session = Session(
                    run=run,
                    config=config,
                    reasons=reasons | planned,
                    corpus=encoded,
                    tokenizer=prepared.tokenizer,
                    model=model,
                    compute=compute,
                    engine=engine,
                    state=TrainingState(steps=config.train.steps, steps_decided=settled),
                    loggers=request.loggers,
                )
                told.observe(Phase(""))
                end = run_session(session, observers, stop, team)
            except BaseException as error:
                # A run that never began is not worth a directory; one with a checkpoint is kept,
                # and one that went wrong has something to look at. Under the lock: nobody else can
                # have begun one there.
                if not run.steps() and not isinstance(error, InstabilityError):
                    shutil.rmtree(run.path, ignore_errors=True)
                    for directory in new_directories:
                        with contextlib.suppress(OSError):
                            directory.rmdir()
                raise
    return FinishedRun(run.path, end)


def _engine(
    config: RunConfig, model: Any, compute: Compute, rows: int, free: int | None
) -> tuple[EngineChoice, dict[str, str]]:
    """What computes the model, and why it computes blocks again, if it does as `free` bytes ask."""
    train, on_cpu = config.train, compute.device.type == "cpu"
    engine = choose_engine(model, compute, train.engine, train.recompute, train.shard)
    work = Workload(
        batch_size=rows, optimizer=train.optimizer, passes=train.accumulation,
        dtype=compute.dtype_name, native=on_cpu and engine.engine == "native", on_cpu=on_cpu,
        processes=train.processes, shard=train.shard,
    )  # fmt: skip
    reason = "" if free is None else reason_to_recompute(config.model, work, free)
    if not reason:
        return engine, {}
    again = choose_engine(model, compute, train.engine, True, train.shard)
    return again, {"recompute": reason}


def _missing(path: Path) -> list[Path]:
    """The directory and those around it that are to be made, the innermost first."""
    with contextlib.suppress(OSError, ValueError):
        return [directory for directory in (path, *path.parents) if not directory.exists()]
    return []


def _asked(request: TrainRequest) -> dict[str, object]:
    tables = (request.data, request.tokenizer, request.model, request.train)
    asked = {key: value for table in tables for key, value in table.items()}
    return {**asked, "out": request.out, "tokenizer": request.tokenizer_directory}


def _for_team(request: TrainRequest, team: Team) -> TrainRequest:
    wanted = request.train.get("processes", team.size)
    if wanted != team.size:
        raise BadInputError(
            f"{wanted} processes can't be started from within one",
            "Use minitx train --processes on the command line, or start this with torchrun",
        )
    return replace(request, train={**request.train, "processes": team.size})


def audited(
    data: DataConfig, split: SplitCorpus, told: Observers
) -> tuple[DataConfig, dict[str, str]]:
    """The settings with what the parts have in common, which is kept beside the corpus; and what
    was compared, if not all."""
    found = read_audit(split.directory) if split.known_digest else None
    if found is None:
        phase = "comparing the holdout with the train part"
        told.observe(Phase(phase))
        found = audit(split, progress=progress_told(told, phase))
        if found is None:
            return replace(data, leaked=None, leaks=()), {}
        found.save(split.directory)
    leaks = tuple(map(str, found.pairs))
    sample = {"leaked": found.sample} if found.sample else {}
    return replace(data, leaked=found.share, leaks=leaks), sample


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory() if device.type == "cpu" else None
