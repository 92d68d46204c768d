"""Where a training step's time goes: what `minitx profile` does, as a library call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute, choose_device, choose_dtype, keep_freed_memory, matmul_rate
from minitx.config import RunConfig
from minitx.config.checks import require_range
from minitx.corpus import load_encoded
from minitx.training.batches import Batches
from minitx.training.optimizers import make_optimizer
from minitx.training.profile import StepProfile, profile_steps


@dataclass(frozen=True)
class RunProfile:
    """A profile, and what was profiled.

    Attributes:
        run: its directory.
        config: of the run.
        device, dtype: in use.
        profile: of its steps.
    """

    run: Path
    config: RunConfig
    device: str
    dtype: str
    profile: StepProfile


def profile_run(
    path: Path | None, steps: int = 20, device: str = "auto", dtype: str | None = None
) -> RunProfile:
    """Train a copy of a run's last checkpoint for a few steps; the run itself is not changed.

    Args:
        path: a run, or one of its checkpoints; None for the newest run.
        steps: to measure.
        device: where.
        dtype: number format of the matrix products; None for the run's.

    Raises:
        BadInputError: there is no such run, or the device or the format is not there.
    """
    require_range("steps", steps, 1, 10_000)
    run = RunDirectory.open(path)
    config = run.read_config()
    train = config.train
    where = choose_device(device)
    if train.threads and where.type == "cpu":
        torch.set_num_threads(train.threads)
    compute = Compute(where, choose_dtype(dtype or train.dtype, where))
    keep_freed_memory()
    model = load_model(run.usable_checkpoint("last")).model.to(where)
    corpus = load_encoded(run.data)
    batches = Batches(
        corpus.train_ids, config.model.context_length, train.batch_size, train.seed, where
    )
    profile = profile_steps(
        model,
        make_optimizer(model, train, compute.dtype),
        batches,
        compute,
        matmul_rate(where, compute.dtype, seconds=0.5),
        steps,
        engine=train.engine,
    )
    return RunProfile(run.path, config, compute.description, compute.dtype_name, profile)
