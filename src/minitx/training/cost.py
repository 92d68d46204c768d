"""What a training step costs: memory by part, floating-point operations, and time.

One model of the cost, for `minitx train`, which refuses what can't fit, and for `minitx plan`. It
is exact where sizes decide: weights, gradients and moments are counted on a model without memory,
what the kernels need they say themselves, and what autograd keeps in the plain model is counted
tensor by tensor (in the manner of Korthikanti et al. 2022, section 4; with attention that stores no
weights). `docs/scaling.md` has the assumptions.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace

import torch

from minitx.config import ModelConfig, TrainConfig
from minitx.engine import native_bytes
from minitx.model import without_memory
from minitx.training.devices import IN_A_MACHINE, NETWORK, Device
from minitx.training.optimizers import OPTIMIZERS

BACKWARD = 2 / 3
"""Part of a pass that goes backward."""

LOGITS = 12
"""Bytes of each logit in the plain model: its log-probability and two gradients, in float32."""


ENOUGH_AT_ONCE = 4096
"""Tokens that keep a device busy."""


@dataclass(frozen=True)
class Workload:
    """How a step is done.

    Attributes:
        batch_size: sequences in a pass, on each device.
        passes: of a step, one after another, on each device.
        accumulation: passes of a step on all devices; 0 for `passes` on one.
        dtype: of products: `float32`, `bfloat16` or `float16`.
        native: whether the compiled kernels for a CPU compute, where they know the model.
        on_cpu: whether a checkpoint that is being written lies in the same memory.
        processes: devices that share the batch.
        shard: whether they share weights, gradients and moments, too (FSDP).
        recompute: whether a block keeps its input alone, and is computed again on the way back.
    """

    batch_size: int = 1
    optimizer: str = TrainConfig.optimizer
    passes: int = 1
    dtype: str = "float32"
    native: bool = True
    on_cpu: bool = True
    processes: int = 1
    shard: bool = False
    recompute: bool = False
    accumulation: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, by part.

    Attributes:
        activations: what is kept for the way back.
        logits: what the head needs.
        caches: weights in the format of products, or gathered from other devices, and the room that
            kernels work in.
        snapshot: weights and moments as they are written to a checkpoint while training goes on.
        peak: at the most of all that at once: not every part is there all the time.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int
    caches: int
    snapshot: int
    peak: int

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


def memory(config: ModelConfig, work: Workload) -> Memory:
    """The memory of a step."""
    parts = work.processes if work.shard else 1
    one, _ = _of_optimizer(replace(config, n_layers=1), work.optimizer)
    of_two, _ = _of_optimizer(replace(config, n_layers=2), work.optimizer)
    moments = one + (config.n_layers - 1) * (of_two - one)
    weights = 4 * config.n_parameters
    table = config.vocab_size * config.d_model
    matrices = config.n_layers * config.block_matrices + table
    low = 2 * matrices if work.dtype != "float32" else 0
    # A sharded model has one block whole at a time, with the next on its way, and the embedding;
    # and the gradients of a block, once more in float32 as they are sent.
    size = 2 if low else 4
    gathered = (3 * size + 4) * config.block_matrices + 4 * table if parts > 1 else 0
    several = work.passes > 1 or work.processes > 1
    # In float32, passes are added up in float64.
    in_float64 = max(work.passes, work.accumulation) > 1 and work.dtype == "float32"
    sums = 2 * weights if in_float64 and parts == 1 else 0
    fixed = (weights + moments) // parts + gathered + sums
    dtype = torch.bfloat16 if low else torch.float32
    found = native_bytes(config, work.batch_size, dtype) if work.native else None
    if found is not None:
        kept, room, logits = found
        # Of a batch in pieces, gradients are added up.
        pieces = 2 if dtype == torch.float32 else 1
        during = kept + max(logits + 4 * table, room + pieces * weights)
        # What a look at the run takes in between breaks up what was freed: the room for a block is
        # allotted once more.
        during += kept // config.n_layers
        caches = room
    else:
        rows = work.batch_size * config.context_length
        kept = rows * _kept(config, 2 if low else 4, work.recompute)
        logits = rows * config.vocab_size * LOGITS
        caches = low if parts == 1 else low and 2 * table
        during = caches + max(kept + logits, weights // parts)
        if several:
            # Gradients stay from pass to pass, or lie in the buffers that are sent.
            during = caches + kept + logits + weights // parts
    if parts > 1:  # The first one gathers the weights to score the holdout.
        during = max(during, weights)
    snapshot = weights + moments if work.on_cpu else 0
    return Memory(
        weights // parts, weights // parts + sums, moments // parts, kept, logits,
        caches + gathered, snapshot, fixed + during + snapshot,
    )  # fmt: skip


def reason_to_recompute(config: ModelConfig, work: Workload, free: int) -> str:
    """Why a step in `free` bytes needs blocks computed again on the way back; empty if it does not.

    Fewer sequences at once come first: that costs no work as long as a device is busy with them.
    """
    rows = min(work.batch_size, max(1, ENOUGH_AT_ONCE // config.context_length))
    work = replace(work, batch_size=rows)
    needed = memory(config, work).peak
    # The kernels of a CPU may need less.
    if needed <= free or memory(config, replace(work, native=False, recompute=True)).peak >= needed:
        return ""
    return (
        f"{rows:,} x {config.context_length:,} tokens at once would take about "
        f"{needed / 1e9:,.3g} GB, and {free / 1e9:,.3g} GB are free"
    )


def _kept(config: ModelConfig, size: int, recompute: bool) -> int:
    # Bytes that autograd keeps for a token; those of `size` bytes are in the format of products.
    d, ff, heads, kv_heads = config.d_model, config.d_ff, config.n_heads, config.n_kv_heads
    wide, keys = heads * config.head_dim, kv_heads * config.head_dim
    qkv, is_low = wide + 2 * keys, size < 4
    block = 4 * heads + (2 * d if config.dropout else 0)
    if config.architecture == "gpt2":
        norm = 4 * d + 8 + size * d
        block += 2 * norm + size * (qkv + wide + 2 * ff)
    else:
        norm = 8 * d + 4 + size * d
        # Keys and values are repeated for the query heads that share them.
        values = (0 if heads > kv_heads and is_low else qkv) + (wide if heads > kv_heads else 0)
        # The norm of queries and keys, where there is one, reads them in float32.
        normed = (size + 4 * is_low) * (wide + keys) + 4 * (heads + kv_heads)
        normed *= config.query_key_norm
        block += 2 * norm + normed + size * (3 * wide + values + 4 * ff)
    if recompute:
        return config.n_layers * 4 * d + block + norm
    return config.n_layers * block + norm


@functools.lru_cache(maxsize=64)
def _of_optimizer(config: ModelConfig, name: str) -> tuple[int, float]:
    # Bytes that it remembers of a model, and operations of its products in an update.
    kind = OPTIMIZERS.get(name)
    made = kind(without_memory(config), TrainConfig(steps=1, batch_size=1, learning_rate=1.0))
    return sum(tensor.nbytes for tensor in made.state_tensors().values()), made.product_flops()


@dataclass(frozen=True)
class StepCost:
    """Of one step, on each device: operations, and seconds of arithmetic and of what is sent."""

    operations: float
    update_operations: float
    compute_seconds: float
    sent_seconds: float
    seconds: float

    @property
    def all_operations(self) -> float:
        """With those of the optimizer."""
        return self.operations + self.update_operations


def step_cost(config: ModelConfig, work: Workload, device: Device) -> StepCost:
    """Operations and time of a step on devices of a kind."""
    n, tokens = work.processes, work.passes * work.batch_size * config.context_length
    again = config.flops_per_token / 3 - 2 * config.vocab_size * config.d_model
    operations = tokens * (config.flops_per_token + (again if work.recompute else 0.0))
    # Matrices are shared out over the processes.
    update = config.n_layers * _of_optimizer(replace(config, n_layers=1), work.optimizer)[1] / n
    compute = (operations + update) / device.trains_at
    link = device.link if n <= IN_A_MACHINE else min(device.link, NETWORK)
    # In a ring each gradient is sent twice; of a sharded model, in each pass, weights twice in the
    # format of products, and gradients once (Rajbhandari et al. 2020, section 7).
    of_pass = 12 if work.dtype == "float32" else 8
    sent = (of_pass * work.passes if work.shard else 8) * config.n_parameters * (n - 1) / n
    if update:
        sent += 4 * config.n_layers * config.block_matrices * (n - 1) / n
    hidden = compute if work.shard else BACKWARD * compute
    seconds = compute + max(0.0, sent / link - hidden)
    return StepCost(operations, update, compute, sent / link, seconds)
