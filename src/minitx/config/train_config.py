"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minitx.config.checks import require, require_one_of, require_range

OptimizerName = Literal["muon", "adamw"]
DecayName = Literal["linear", "cosine", "constant"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DTypeName = Literal["auto", "float32", "bfloat16"]
AttentionForm = Literal["auto", "explicit", "fused", "compiled"]
SpikePolicy = Literal["warn", "rollback", "stop"]

OPTIMIZERS: tuple[OptimizerName, ...] = ("muon", "adamw")
DECAYS: tuple[DecayName, ...] = ("linear", "cosine", "constant")
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda", "mps")
DTYPES: tuple[DTypeName, ...] = ("auto", "float32", "bfloat16")
SPIKE_POLICIES: tuple[SpikePolicy, ...] = ("warn", "rollback", "stop")
ATTENTION_FORMS: tuple[AttentionForm, ...] = ("auto", "explicit", "fused", "compiled")

MOST_THREADS = 512
"""Of a CPU; to start more can fail under a limit on memory."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how training goes, given a model and a corpus.

    Attributes:
        steps: optimizer steps of the whole run.
        budget_seconds: wall-clock time to plan for; the number of steps follows from the
            measured rate. None when `steps` was given.
        settlements: what the clock decided in a run with a time budget: pairs of a step, at which
            it did, and the number of steps of the whole run from there on. Empty if `steps` was
            given.
        max_steps: steps after which a run with a time budget ends even if time is left; 0 is no
            limit.
        batch_size: sequences in one forward and backward pass.
        accumulation: passes whose gradients are averaged into one optimizer step.
        seed: of weights, data order and dropout.
        optimizer: `muon` (orthogonalized momentum for the blocks' matrices, AdamW for the rest)
            or `adamw` for everything.
        learning_rate: peak rate of AdamW.
        muon_learning_rate: peak rate of Muon's matrices.
        weight_decay: decoupled, on matrices only (Loshchilov and Hutter 2019).
        beta1: AdamW's decay of the first moment.
        beta2: AdamW's decay of the second moment.
        momentum: Muon's momentum.
        warmup_steps: steps of linear rise from 0 to the peak rate.
        decay: shape of the fall after the plateau: `linear`, `cosine`, or `constant` for none.
        decay_fraction: part of all steps, counted from the end, over which the rate falls.
        final_rate_fraction: rate at the last step, as a fraction of the peak.
        grad_clip: global gradient norm above which gradients are scaled down; 0 is off.
        evaluate_every: steps between holdout losses.
        evaluation_tokens: holdout tokens scored at each of them; 0 is the whole holdout.
        closing_tokens: holdout tokens scored after the last step; 0 is the whole holdout.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints stay on disk, beside the best.
        early_stopping: evaluations without a better holdout loss before stopping; 0 is off.
        on_spike: what follows a loss spike or a divergence: `warn` goes on; `rollback` returns to
            the last good state, skips the batches since, and lowers the rate; `stop` ends the run.
            A loss that is no number is never gone on from: `warn` stops there too.
        max_rollbacks: after so many, the next one stops the run.
        log_every: steps between lines of `metrics.jsonl`.
        device: where to compute; `auto` takes cuda, then mps, then cpu.
        dtype: number format of the matrix products; weights are kept in float32 regardless.
        compile: run the blocks and the loss through torch.compile.
        cuda_graph: on a GPU of that kind, record a forward and backward pass once and start it
            with one call from then on; elsewhere it changes nothing.
        attention: which of the equal forms of attention computes; `auto` is measured. `compiled`
            computes in training on a CPU where there are compiled kernels (with dropout, where
            whole blocks are compiled); elsewhere the faster of the other two does.
        threads: CPU threads; 0 leaves torch's choice.
    """

    steps: int
    batch_size: int
    learning_rate: float
    budget_seconds: float | None = None
    settlements: tuple[tuple[int, int], ...] = ()
    max_steps: int = 0
    accumulation: int = 1
    seed: int = 1337
    optimizer: OptimizerName = "muon"
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    warmup_steps: int = 20
    decay: DecayName = "linear"
    decay_fraction: float = 0.6
    final_rate_fraction: float = 0.0
    grad_clip: float = 1.0
    evaluate_every: int = 250
    evaluation_tokens: int = 0
    closing_tokens: int = 0
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    early_stopping: int = 0
    on_spike: SpikePolicy = "warn"
    max_rollbacks: int = 5
    log_every: int = 10
    device: DeviceName = "auto"
    dtype: DTypeName = "auto"
    compile: bool = False
    cuda_graph: bool = True
    attention: AttentionForm = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        require_range("steps", self.steps, 1, 10**9)
        require_range("max_steps", self.max_steps, 0, 10**9)
        require_range("batch_size", self.batch_size, 1, 2**20)
        require_range("accumulation", self.accumulation, 1, 2**16)
        require_range("seed", self.seed, 0, 2**63 - 1)
        require_one_of("optimizer", self.optimizer, OPTIMIZERS)
        require_range("learning_rate", self.learning_rate, 0.0, 1e3)
        require_range("muon_learning_rate", self.muon_learning_rate, 0.0, 1e3)
        require_range("weight_decay", self.weight_decay, 0.0, 1e3)
        require_range("beta1", self.beta1, 0.0, 0.9999999)
        require_range("beta2", self.beta2, 0.0, 0.9999999)
        require_range("momentum", self.momentum, 0.0, 0.9999999)
        require_range("warmup_steps", self.warmup_steps, 0, 10**9)
        require_one_of("decay", self.decay, DECAYS)
        require_range("decay_fraction", self.decay_fraction, 0.0, 1.0)
        require_range("final_rate_fraction", self.final_rate_fraction, 0.0, 1.0)
        require_range("grad_clip", self.grad_clip, 0.0, 1e9)
        require_range("evaluate_every", self.evaluate_every, 1, 10**9)
        require_range("evaluation_tokens", self.evaluation_tokens, 0, 10**12)
        require_range("closing_tokens", self.closing_tokens, 0, 10**12)
        require_range("checkpoint_every", self.checkpoint_every, 1, 10**9)
        require_range("keep_checkpoints", self.keep_checkpoints, 1, 10**6)
        require_range("early_stopping", self.early_stopping, 0, 10**6)
        require_one_of("on_spike", self.on_spike, SPIKE_POLICIES)
        require_range("max_rollbacks", self.max_rollbacks, 0, 10**6)
        require_range("log_every", self.log_every, 1, 10**9)
        require_one_of("device", self.device, DEVICES)
        require_one_of("dtype", self.dtype, DTYPES)
        require_one_of("attention", self.attention, ATTENTION_FORMS)
        require_range("threads", self.threads, 0, MOST_THREADS)
        require(
            _are_settlements(self.settlements),
            f"settlements is {[list(pair) for pair in self.settlements]}",
            "Give pairs of a step and a larger number of steps, each made before the end that the "
            "one before it set",
        )
        if self.budget_seconds is not None:
            require_range("budget_seconds", self.budget_seconds, 1.0, 10**9)
        for name in ("compile", "cuda_graph"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} is {value!r}", "Choose true or false")


def _are_settlements(pairs: tuple[tuple[int, ...], ...]) -> bool:
    last, end = -1, 10**9
    for number, pair in enumerate(pairs):
        # Only the first may end the run on the spot.
        if len(pair) != 2 or not last < pair[0] < end or not pair[0] < pair[1] + (number == 0):
            return False
        last, end = pair
    return end <= 10**9
