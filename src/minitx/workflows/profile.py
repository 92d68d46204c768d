"""Where the time of a training step goes, in the model's own terms: `minitx profile`.

A clock is stopped at each border between two parts: on the way forward where a module is entered
and left, on the way back where its output's gradient is there and its input's is. Whatever stands
between two borders belongs to the part that was entered last, so the parts add up to the step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from minitx.checkpoint import load_model
from minitx.checkpoint.own_model import refuse_own
from minitx.checkpoint.rundir import RunDirectory, use_checkpoint
from minitx.compute import (
    Compute,
    LossFunction,
    choose_compute,
    keep_freed_memory,
    matmul_rate,
    synchronize,
)
from minitx.config import ModelConfig, RunConfig
from minitx.config.checks import require_range
from minitx.corpus import load_encoded
from minitx.engine import choose_engine, fast_room, loss_function
from minitx.model import Transformer
from minitx.model.transformer import Block
from minitx.training.batches import Batches
from minitx.training.optimizers import make_optimizer
from minitx.training.optimizers.optimizer_base import Optimizer

Part = Literal[
    "data", "embedding", "attention", "mlp", "norm", "residual", "head and loss", "optimizer"
]
PARTS: tuple[Part, ...] = get_args(Part)
Direction = Literal["forward", "backward", "step"]
_WARMUP_STEPS = 3


@dataclass(frozen=True)
class PartTime:
    """One part of a step: its seconds in the model and outside of it, and `flops`, the
    floating-point operations of its matrix products in all passes.
    """

    part: Part
    forward_seconds: float
    backward_seconds: float
    step_seconds: float
    flops: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.forward_seconds + self.backward_seconds + self.step_seconds


@dataclass(frozen=True)
class StepProfile:
    """The average of so many steps; its parts in the order of `PARTS`.

    Attributes:
        plain_seconds: of a step in which the clock is not stopped at borders.
        overhead_seconds: of forward and backward over a few tokens, whose arithmetic costs next to
            nothing: what Python and dispatching the operators take in every step.
        peak_rate: of matrix products on this device in this format, in operations a second.
        engine: that computed, `plain` or `native`; others are measured as `plain`.
        whole_blocks: each block is one call, whose parts were measured inside.
    """

    parts: tuple[PartTime, ...]
    plain_seconds: float
    overhead_seconds: float
    tokens: int
    peak_rate: float
    steps: int
    engine: str
    whole_blocks: bool

    @property
    def seconds(self) -> float:
        """Of a step with the clock stopped at every border."""
        return sum(part.seconds for part in self.parts)

    @property
    def flops(self) -> float:
        """Floating-point operations of a step's matrix products, the optimizer's included."""
        return sum(part.flops for part in self.parts)


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
    refuse_own(model, "a profile", "Profile a run without --model")
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


class _Timeline:
    """Gives each stretch of time to the part that was entered last."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._current: tuple[Part, Direction] = ("data", "step")
        self._since = time.perf_counter()
        self.seconds: dict[tuple[Part, Direction], float] = defaultdict(float)

    def enter(self, part: Part, direction: Direction) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._current] += now - self._since
        self._current, self._since = (part, direction), now

    def divide(self, parts: Sequence[Part], clock: Any) -> None:
        """Give the parts of whole blocks the time that stood where they were called from."""
        for part, forward, backward in zip(parts, clock.forward, clock.backward, strict=True):
            self.seconds["residual", "forward"] -= forward
            self.seconds[part, "forward"] += forward
            self.seconds["head and loss", "backward"] -= backward
            self.seconds[part, "backward"] += backward
        self.seconds["residual", "forward"] -= clock.head
        self.seconds["head and loss", "forward"] += clock.head


def profile_steps(
    model: Transformer,
    optimizer: Optimizer,
    batches: Batches,
    compute: Compute,
    peak_rate: float,
    steps: int = 20,
    engine: str = "auto",
) -> StepProfile:
    """Train for a few steps, in place and at the peak learning rate, and measure them.

    After a warmup, `steps` are measured with the clock stopped at borders, and as many without.
    `peak_rate` of matrix products there is for the record.
    """
    model.train()
    timeline = _Timeline(compute.device)
    chosen = choose_engine(model, compute, engine).engine
    # What is recorded or compiled as a whole has no borders.
    native = chosen == "native" and compute.device.type == "cpu"
    loss = loss_function(model, compute, "native" if native else "plain")
    for number in range(_WARMUP_STEPS):
        _step(loss, optimizer, batches, number)
    began = time.perf_counter()
    for number in range(steps):
        _step(loss, optimizer, batches, number)
    plain = (time.perf_counter() - began) / steps
    with _borders(model, timeline, native) as clock:
        timeline.enter("data", "step")
        timeline.seconds.clear()
        for number in range(steps):
            _step(loss, optimizer, batches, number, timeline.enter)
        timeline.enter("data", "step")
    whole_blocks = clock is not None and clock.blocks
    if whole_blocks:
        timeline.divide(fast_room().profiling.BLOCK_PARTS, clock)
    inputs, _ = batches[0]
    # As few tokens as take the same way through the model.
    few = inputs[: torch.get_num_threads(), :2]
    flops = part_flops(model.config, inputs.numel(), optimizer.product_flops())
    parts = tuple(
        PartTime(
            part,
            timeline.seconds[part, "forward"] / steps,
            timeline.seconds[part, "backward"] / steps,
            timeline.seconds[part, "step"] / steps,
            flops.get(part, 0.0),
        )
        for part in PARTS
    )
    return StepProfile(
        parts=parts,
        plain_seconds=plain,
        overhead_seconds=_overhead(loss, optimizer, few, steps),
        tokens=inputs.numel(),
        peak_rate=peak_rate,
        steps=steps,
        engine="native" if native else "plain",
        whole_blocks=whole_blocks,
    )


def _step(
    loss_of: LossFunction,
    optimizer: Optimizer,
    batches: Batches,
    number: int,
    enter: Callable[[Part, Direction], None] = lambda part, direction: None,
) -> None:
    # One step of `Trainer`, with borders.
    enter("data", "step")
    inputs, targets = batches[number]
    enter("embedding", "forward")
    loss = loss_of(inputs, targets)
    enter("head and loss", "backward")
    loss.backward()  # type: ignore[no-untyped-call]
    enter("optimizer", "step")
    optimizer.step(1.0)
    float(loss.detach())


@contextmanager
def _borders(model: Transformer, timeline: _Timeline, native: bool) -> Iterator[Any]:
    # Gives the clock of the compiled calls; None where the plain model computes.
    if native:
        with fast_room().profiling.profiled(timeline.enter) as clock:
            yield clock
        return
    places: list[tuple[nn.Module, Part, Part]] = [
        (model.embedding, "embedding", "residual"),
        (model.norm, "norm", "head and loss"),
    ]
    for block in model.blocks:
        assert isinstance(block, Block)
        places += [
            (block.attention_norm, "norm", "residual"),
            (block.attention, "attention", "residual"),
            (block.mlp_norm, "norm", "residual"),
            (block.mlp, "mlp", "residual"),
        ]

    def entering(part: Part, direction: Direction) -> Callable[..., None]:
        return lambda *_: timeline.enter(part, direction)

    def leaving(part: Part, after: Part) -> Callable[..., None]:
        def behind(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            output.register_hook(entering(part, "backward"))  # type: ignore[no-untyped-call]
            timeline.enter(after, "forward")

        return behind

    handles = []
    for module, part, after in places:
        handles.append(module.register_forward_pre_hook(entering(part, "forward")))
        handles.append(module.register_forward_hook(leaving(part, after)))
        if module is not model.embedding:  # whose input has no gradient
            handles.append(module.register_full_backward_hook(entering("residual", "backward")))
    try:
        yield None
    finally:
        for handle in handles:
            handle.remove()


def _overhead(loss_of: LossFunction, optimizer: Optimizer, ids: Tensor, steps: int) -> float:
    times = []
    for _ in range(max(5, steps)):
        began = time.perf_counter()
        loss = loss_of(ids, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        times.append(time.perf_counter() - began)
        optimizer.clear_gradients()
    return sorted(times)[len(times) // 2]


def part_flops(config: ModelConfig, tokens: int, update_flops: float = 0.0) -> dict[Part, float]:
    """Floating-point operations of the matrix products of a step of so many tokens.

    Counted as in `ModelConfig.flops_per_token`; `update_flops` are the optimizer's.
    """
    d, heads = config.d_model, config.n_heads * config.head_dim
    qkv = heads + 2 * config.n_kv_heads * config.head_dim
    projections = config.n_layers * (d * qkv + heads * d)
    products = config.n_layers * heads * config.context_length
    mlp = config.n_layers * (2 if config.architecture == "gpt2" else 3) * d * config.d_ff
    return {
        "attention": 6.0 * tokens * (projections + products),
        "mlp": 6.0 * tokens * mlp,
        "head and loss": 6.0 * tokens * d * config.vocab_size,
        "optimizer": update_flops,
    }
