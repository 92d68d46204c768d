"""Where a training step's time goes: what `minitx profile` does, as a library call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory, use_checkpoint
from minitx.compute import choose_compute, keep_freed_memory, matmul_rate
from minitx.config import RunConfig
from minitx.config.checks import require_range
from minitx.corpus import load_encoded
from minitx.training.batches import Batches
from minitx.training.optimizers import make_optimizer
from minitx.training.step_profile import StepProfile, profile_steps


@dataclass(frozen=True)
class RunProfile:
    """A profile of a run's steps, and where it was measured."""

    run: Path
    checkpoint: Path
    config: RunConfig
    device: str
    dtype: str
    profile: StepProfile


def profile_run(
    path: Path | None, steps: int = 20, device: str = "auto", dtype: str | None = None
) -> RunProfile:
    """Train a copy of a run's last checkpoint for a few steps; the run itself is not changed.

    Without a path it is the newest run, and without a dtype the run's.

    Raises:
        BadInputError: there is no such run, or the device or the format is not there.
    """
    require_range("steps", steps, 1, 10_000)
    run = RunDirectory.open(path)
    config = run.read_config()
    train = config.train
    compute = choose_compute(device, dtype or train.dtype, train.threads)
    keep_freed_memory()
    loaded = use_checkpoint(
        lambda: run.usable_checkpoint("last"),
        lambda checkpoint: load_model(checkpoint, device=compute.device),
    )
    model = loaded.model
    ids, context_length = load_encoded(run.data).train_ids, config.model.context_length
    batches = Batches(
        ids, context_length, train.batch_size, train.seed, compute.device, train.data_order
    )
    optimizer = make_optimizer(model, train, compute.dtype)
    rate = matmul_rate(compute.device, compute.dtype, seconds=0.5)
    profile = profile_steps(model, optimizer, batches, compute, rate, steps, engine=train.engine)
    return RunProfile(
        run.path, loaded.directory, config, compute.description, compute.dtype_name, profile
    )
