"""How a model is trained."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar, Literal

from minitx.config.checks import require
from minitx.config.flag_values import parse_duration, parse_setting
from minitx.config.options import LEARNING, LENGTH, MACHINE, WATCHING, Config, OlderKeys, option

DecayName = Literal["linear", "cosine", "constant"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DTypeName = Literal["auto", "float32", "bfloat16"]
AttentionForm = Literal["auto", "explicit", "fused", "compiled"]
SpikePolicy = Literal["warn", "rollback", "stop"]
OptimizerSetting = int | float | str | bool

MOST_STEPS = 10**9
MOST_THREADS = 512
"""Of a CPU; to start more can fail under a limit on memory."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """Everything that decides how training goes, given a model and a corpus."""

    older_keys: ClassVar[OlderKeys] = {"settlements": lambda pairs: {"step_decisions": pairs}}

    steps: int = option(
        MISSING,
        "Optimizer steps of the whole run.",
        LENGTH,
        low=1,
        high=MOST_STEPS,
        is_resumable=True,
    )
    batch_size: int = option(
        MISSING, "Sequences in one forward and backward pass.", LEARNING, low=1, high=2**20
    )
    learning_rate: float = option(
        MISSING, "Peak learning rate of AdamW.", LEARNING, low=0.0, high=1e3, is_resumable=True
    )
    budget_seconds: float | None = option(
        None,
        "Time to plan for, like 90s, 3m or 1h.",
        LENGTH,
        details="The number of steps follows from the measured speed. None when `steps` was given.",
        low=1.0,
        high=1e9,
        flag="budget",
        parse=parse_duration,
    )
    step_decisions: tuple[tuple[int, int], ...] = option(
        (),
        "What the clock decided in a run with a time budget: pairs of a step, at which it "
        "did, and the number of steps of the whole run from there on.",
        details="Empty if `steps` was given.",
        flag=None,
    )
    max_steps: int = option(
        0,
        "End after this many steps even if time is left; 0 is no limit.",
        LENGTH,
        low=0,
        high=MOST_STEPS,
    )
    accumulation: int = option(
        1,
        "Gradient accumulation: passes averaged into one optimizer step.",
        LEARNING,
        low=1,
        high=2**16,
    )
    seed: int = option(
        1337, "Random seed of weights, data order and dropout.", LENGTH, low=0, high=2**63 - 1
    )
    # Any name that an optimizer registered, so it is checked where the optimizer is looked up.
    optimizer: str = option(
        "muon",
        "Optimizer: muon, adamw, or one that an installed package adds.",
        LEARNING,
        details="`muon` orthogonalizes the momentum of the blocks' matrices and leaves the rest "
        "to AdamW.",
        metavar="NAME",
    )
    optimizer_options: dict[str, OptimizerSetting] = option(
        {},
        "A setting of an optimizer that has some of its own.",
        LEARNING,
        flag="optimizer-option",
        metavar="KEY=VALUE",
        parse=parse_setting,
    )
    muon_learning_rate: float = option(
        0.02, "Peak learning rate of Muon.", LEARNING, low=0.0, high=1e3, is_resumable=True
    )
    weight_decay: float = option(
        0.1,
        "Decoupled weight decay, on matrices only.",
        LEARNING,
        details="Loshchilov and Hutter 2019.",
        low=0.0,
        high=1e3,
    )
    beta1: float = option(
        0.9, "AdamW's decay of the first moment.", LEARNING, low=0.0, high=0.9999999
    )
    beta2: float = option(
        0.95, "AdamW's decay of the second moment.", LEARNING, low=0.0, high=0.9999999
    )
    momentum: float = option(0.95, "Muon's momentum.", LEARNING, low=0.0, high=0.9999999)
    warmup_steps: int = option(
        20,
        "Steps over which the learning rate rises from 0 to its peak.",
        LEARNING,
        low=0,
        high=MOST_STEPS,
    )
    decay: DecayName = option(
        "linear", "How the learning rate falls at the end; constant is not at all.", LEARNING
    )
    decay_fraction: float = option(
        0.6, "Last part of the run, in which the learning rate falls.", LEARNING, low=0.0, high=1.0
    )
    final_rate_fraction: float = option(
        0.0,
        "Learning rate at the last step, as a fraction of the peak.",
        LEARNING,
        low=0.0,
        high=1.0,
    )
    grad_clip: float = option(
        1.0,
        "Largest gradient norm, above which gradients are scaled down; 0 is off.",
        LEARNING,
        low=0.0,
        high=1e9,
        is_resumable=True,
    )
    evaluate_every: int = option(
        250, "Steps between holdout losses.", WATCHING, low=1, high=MOST_STEPS
    )
    evaluation_tokens: int = option(
        0, "Holdout tokens scored each time; 0 is all.", WATCHING, low=0, high=10**12
    )
    closing_tokens: int = option(
        0, "Holdout tokens scored after the last step; 0 is all.", WATCHING, low=0, high=10**12
    )
    checkpoint_every: int = option(
        250, "Steps between checkpoints.", WATCHING, low=1, high=MOST_STEPS
    )
    keep_checkpoints: int = option(
        2,
        "How many of the newest checkpoints are kept, beside the best.",
        WATCHING,
        low=1,
        high=10**6,
        is_resumable=True,
    )
    early_stopping: int = option(
        0,
        "Stop after this many evaluations without a better holdout loss; 0 is off.",
        LENGTH,
        low=0,
        high=10**6,
        is_resumable=True,
    )
    on_spike: SpikePolicy = option(
        "warn",
        "After a loss spike or divergence: go on, go back and skip, or stop.",
        WATCHING,
        details="`rollback` returns to the last good state, skips the batches since, and lowers "
        "the learning rate. `warn` stops, too, where the loss is NaN.",
        is_resumable=True,
    )
    max_rollbacks: int = option(
        5,
        "Rollbacks after which the next one stops the run.",
        WATCHING,
        low=0,
        high=10**6,
        is_resumable=True,
    )
    log_every: int = option(
        10, "Steps between lines of metrics.jsonl.", WATCHING, low=1, high=MOST_STEPS
    )
    device: DeviceName = option(
        "auto",
        "Where to compute.",
        MACHINE,
        details="`auto` takes cuda, then mps, then cpu.",
        is_resumable=True,
    )
    dtype: DTypeName = option(
        "auto",
        "Number format of the matrix products; auto is measured.",
        MACHINE,
        details="Weights are kept in float32 regardless.",
    )
    compile: bool = option(False, "Use torch.compile.", MACHINE)
    cuda_graph: bool = option(True, "Record a pass on a GPU once and replay it.", MACHINE)
    attention: AttentionForm = option(
        "auto",
        "Which of three equal forms; auto is the fastest.",
        MACHINE,
        details="`compiled` computes in training on a CPU where there are compiled kernels (with "
        "dropout, where whole blocks are compiled); elsewhere the faster of the other two does.",
    )
    threads: int = option(
        0,
        "CPU threads; 0 leaves the number to torch.",
        MACHINE,
        low=0,
        high=MOST_THREADS,
        is_resumable=True,
    )

    def check(self) -> None:
        """Refuse decisions that no clock can have made, and settings that TOML can't hold."""
        require(
            _are_decisions(self.step_decisions),
            f"step_decisions is {[list(pair) for pair in self.step_decisions]}",
            "Give pairs of a step and a larger number of steps, each made before the end that the "
            "one before it set",
        )
        for key, value in self.optimizer_options.items():
            require(
                isinstance(value, (int, float, str)),
                f"optimizer_options has {value!r} for {key}",
                "Give a number, a text, true or false",
            )


def _are_decisions(pairs: tuple[tuple[int, ...], ...]) -> bool:
    last, end = -1, MOST_STEPS
    for number, pair in enumerate(pairs):
        # Only the first may end the run on the spot.
        if len(pair) != 2 or not last < pair[0] < end or not pair[0] < pair[1] + (number == 0):
            return False
        last, end = pair
    return end <= MOST_STEPS
