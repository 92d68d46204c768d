"""How a model is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, Literal

from minitx.config.checks import coerced, parse_duration, parse_setting, require
from minitx.config.options import (
    COUNT,
    COUNT_OR_NONE,
    FRACTION,
    LEARNING,
    LENGTH,
    MACHINE,
    RATE,
    WATCHING,
    Config,
    OlderKeys,
    option,
)  # fmt: skip

DecayName = Literal["linear", "cosine", "constant"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DTypeName = Literal["auto", "float32", "bfloat16"]
TrainDTypeName = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "plain", "native", "torch-compile"]
SpikePolicy = Literal["warn", "rollback", "stop"]
OptimizerSetting = int | float | str | bool

_BELOW_ONE = (0.0, 0.9999999)
MOST_THREADS = 512
"""Of a CPU; to start more can fail under a limit on memory."""

RESUMABLE = (
    "steps", "learning_rate", "muon_learning_rate", "grad_clip", "on_spike", "max_rollbacks",
    "early_stopping", "keep_checkpoints", "device", "engine", "threads", "processes",
    "micro_batch_size", "recompute", "shard",
)  # fmt: skip
"""Options that a resumed run may change; all but `steps` change its numbers from there on."""


def _older(
    key: str, kind: type, today: Callable[[Any], dict[str, Any]] = lambda _: {}
) -> Callable[[Any], dict[str, Any]]:
    # Reads a key of earlier versions, whose values were of a kind.
    return lambda value: today(coerced(kind, value, key, "[train]"))


@dataclass(frozen=True)
class TrainConfig(Config):
    """Everything that decides how training goes, given a model and a corpus."""

    older_keys: ClassVar[OlderKeys] = {
        "settlements": lambda pairs: {"step_decisions": pairs},
        "compile": _older(
            "compile", bool, lambda used: {"engine": "torch-compile"} if used else {}
        ),
        # Forms of one computation, of which the engine now takes the fastest.
        "attention": _older("attention", str),
        "cuda_graph": _older("cuda_graph", bool),
    }

    # fmt: off
    steps: int = option(MISSING, "Optimizer steps of the whole run.", LENGTH, COUNT)
    batch_size: int = option(
        MISSING, "Sequences in one forward and backward pass.", LEARNING, (1, 2**20)
    )
    learning_rate: float = option(MISSING, "Peak learning rate of AdamW.", LEARNING, RATE)
    start: str | None = option(
        None, "Begin with this model: a run, a checkpoint, or a directory of transformers.",
        LENGTH, flag="from", metavar="DIR",
        details="Its sizes and tokenizer are kept; rates, warm-up and passes over the text are "
        "planned for a model that is trained already.",
    )
    start_digest: str | None = option(
        None, "SHA-256 of the weights that it began with.", flag=None
    )
    lora: int = option(
        0, "Learn a low-rank update of the matrices, of this rank, in place of the weights; 0 is "
        "off.", LEARNING, (0, 1024), metavar="RANK",
        details="Hu et al. 2022. Needs --from. Checkpoints have it added to the weights, and "
        "beside them.",
    )
    freeze: str = option(
        "", "Parts that stay as they are, like embedding,blocks.0-3 or all-but-head.", LEARNING,
        metavar="PARTS",
    )
    budget_seconds: float | None = option(
        None, "Time to plan for, like 90s, 3m or 1h.", LENGTH, (1.0, 1e9),
        details="The number of steps follows from the measured speed. None when `steps` was given.",
        flag="budget", parse=parse_duration,
    )
    step_decisions: tuple[tuple[int, int], ...] = option(
        (), "What the clock decided in a run with a time budget: pairs of a step, at which it "
        "did, and the number of steps of the whole run from there on.",
        details="Empty if `steps` was given.", flag=None,
    )
    max_steps: int = option(
        0, "End after this many steps even if time is left; 0 is no limit.", LENGTH, COUNT_OR_NONE
    )
    accumulation: int = option(
        1, "Gradient accumulation: passes averaged into one optimizer step.", LEARNING, (1, 2**16)
    )
    micro_batch_size: int = option(
        0, "Sequences of a pass that are in memory at once; 0 is all.", MACHINE, (0, 2**20),
        flag="micro-batch",
        details="Halved where memory runs out. It changes rounding and dropout's masks alone.",
    )
    recompute: bool = option(
        False, "Keep only what enters each block, and compute its inside again on the way back.",
        MACHINE,
        details="Activation checkpointing (Chen et al. 2016), by the model's own code: far less "
        "memory, about a third more work, the same numbers to the bit. Planned where a step would "
        "not fit otherwise.",
    )
    seed: int = option(
        1337, "Random seed of weights, data order and dropout.", LENGTH, (0, 2**63 - 1)
    )
    data_order: int = option(
        1, "Version of the function from the seed to the order of the text.", within=(1, 3),
        details="New runs have 3: each token of the text is a target once an epoch.", flag=None,
    )
    # Any name that an optimizer registered, so it is checked where the optimizer is looked up.
    optimizer: str = option(
        "muon", "Optimizer: muon, adamw, or one that an installed package adds.", LEARNING,
        details="`muon` orthogonalizes the momentum of the blocks' matrices and leaves the rest "
        "to AdamW.", metavar="NAME",
    )
    optimizer_options: dict[str, OptimizerSetting] = option(
        {}, "A setting of an optimizer that has some of its own.", LEARNING,
        flag="optimizer-option", metavar="KEY=VALUE", parse=parse_setting,
    )
    muon_learning_rate: float = option(0.02, "Peak learning rate of Muon.", LEARNING, RATE)
    weight_decay: float = option(
        0.1, "Decoupled weight decay, on matrices only.", LEARNING, RATE,
        details="Loshchilov and Hutter 2019.",
    )
    beta1: float = option(0.9, "AdamW's decay of the first moment.", LEARNING, _BELOW_ONE)
    beta2: float = option(0.95, "AdamW's decay of the second moment.", LEARNING, _BELOW_ONE)
    momentum: float = option(0.95, "Muon's momentum.", LEARNING, _BELOW_ONE)
    warmup_steps: int = option(
        20, "Steps over which the learning rate rises from 0 to its peak.", LEARNING, COUNT_OR_NONE
    )
    decay: DecayName = option(
        "linear", "How the learning rate falls at the end; constant is not at all.", LEARNING
    )
    decay_fraction: float = option(
        0.6, "Last part of the run, in which the learning rate falls.", LEARNING, FRACTION
    )
    final_rate_fraction: float = option(
        0.0, "Learning rate at the last step, as a fraction of the peak.", LEARNING, FRACTION
    )
    grad_clip: float = option(
        1.0, "Largest gradient norm, above which gradients are scaled down; 0 is off.", LEARNING,
        (0.0, 1e9),
    )
    evaluate_every: int = option(250, "Steps between holdout losses.", WATCHING, COUNT)
    evaluation_tokens: int = option(
        0, "Holdout tokens scored each time; 0 is all.", WATCHING, (0, 10**12)
    )
    closing_tokens: int = option(
        0, "Holdout tokens scored after the last step; 0 is all.", WATCHING, (0, 10**12)
    )
    checkpoint_every: int = option(250, "Steps between checkpoints.", WATCHING, COUNT)
    keep_checkpoints: int = option(
        2, "How many of the newest checkpoints are kept, beside the best.", WATCHING, (1, 10**6)
    )
    early_stopping: int = option(
        0, "Stop after this many evaluations without a better holdout loss; 0 is off.", LENGTH,
        (0, 10**6), details="Needs a holdout.",
    )
    on_spike: SpikePolicy = option(
        "warn", "After a loss spike or divergence: go on, go back and skip, or stop.", WATCHING,
        details="`rollback` returns to the last good state, skips the batches since, and lowers "
        "the learning rate. `warn` stops, too, where the loss is NaN.",
    )
    max_rollbacks: int = option(
        5, "Rollbacks after which the next one stops the run.", WATCHING, (0, 10**6)
    )
    film: bool = option(
        True, "Keep how heads, maps and samples change, for minitx attn --film.", WATCHING,
        details="At some moments of the run, in at most about 1 % of its time. It changes no "
        "number of the run.",
    )
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", WATCHING, COUNT)
    device: DeviceName = option(
        "auto", "Where to compute.", MACHINE, details="`auto` takes cuda, then mps, then cpu."
    )
    dtype: TrainDTypeName = option(
        "auto", "Number format of the matrix products; auto follows from the processor.", MACHINE,
        details="Weights are kept in float32 regardless. float16, with a scaled loss, is for GPUs "
        "that have no bfloat16, where auto takes it.",
    )
    engine: EngineName = option(
        "auto",
        "What computes in training: plain, native, torch-compile, or auto, the fastest that knows "
        "the model.",
        MACHINE, metavar="ENGINE",
        details="`plain` is the model's own code. `native` stands for kernels compiled when "
        "minitx was installed, and on a GPU for a CUDA graph. All equal `plain` to rounding.",
    )
    threads: int = option(
        0, "CPU threads; 0 leaves the number to torch.", MACHINE, (0, MOST_THREADS)
    )
    processes: int = option(
        1, "Processes on this machine that train together.", MACHINE, (1, 4096),
        details="Under torchrun, as many as it started. A step learns from the same text for any "
        "number of them.",
    )
    shard: bool = option(
        False, "Share weights, gradients and moments out over the processes (FSDP).", MACHINE,
        details="For models that do not fit one device, by the model's own code. Blocks are "
        "gathered in the number format of products.",
    )
    # fmt: on

    def check(self) -> None:
        """Refuse decisions that no clock can have made, and settings that TOML can't hold."""
        require(
            _are_decisions(self.step_decisions),
            f"step_decisions is {[list(pair) for pair in self.step_decisions]}",
            "Give pairs of a step and a larger number of steps, each made before the end that the "
            "one before it set",
        )
        whole = bool(self.freeze) + bool(self.lora)
        require(whole < 2, "--lora freezes all weights, and --freeze some", "Give one of them")
        require(
            not (whole and self.shard),
            "--shard shares out all weights, and --lora and --freeze train some",
            "Leave out --shard",
        )
        for key, value in self.optimizer_options.items():
            require(
                isinstance(value, (int, float, str)),
                f"optimizer_options has {value!r} for {key}",
                "Give a number, a text, true or false",
            )


def _are_decisions(pairs: tuple[tuple[int, ...], ...]) -> bool:
    last, end = -1, COUNT[1]
    for number, pair in enumerate(pairs):
        # Only the first may end the run on the spot.
        if len(pair) != 2 or not last < pair[0] < end or not pair[0] < pair[1] + (number == 0):
            return False
        last, end = pair
    return end <= COUNT[1]
