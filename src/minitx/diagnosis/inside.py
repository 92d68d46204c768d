"""Look inside a model on a few windows of text: attention, logits, dead units, leaks.

One pass with a trace, and a few for leaks: through the model, through what trains it and through
what generates with it. It is done with each evaluation, never in between.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minitx.checkpoint.own_model import OwnModel
from minitx.compute import Compute
from minitx.diagnosis.findings import Kind, look
from minitx.evaluation.arrays import IdArray
from minitx.inspection.mask_check import CutTexts, check_generating, check_training, moved_bits
from minitx.inspection.probe_texts import text_windows
from minitx.model import Trace, Transformer, evaluating
from minitx.training.observer import Event, ProbeReport

LENGTH = 128
"""Most tokens in a window."""

TOKENS = 512
"""Tokens looked at in all, about."""

DEAD = 0.01
"""A unit is dead if its largest magnitude is below this part of its layer's mean largest one."""

# A head has collapsed if its entropy is below this part of the uniform one (Zhai et al. 2023 see
# attention at such entropies stop learning), and its layer's scores have grown to this size, at
# which a softmax has one answer. One such head may be what the text asks for; half of all are not.
COLLAPSED = 0.03
LARGE_SCORE = 30.0
COLLAPSED_PART = 0.5

DEAD_PART = 0.5
"""Part of a layer's units that must be dead."""


def probe_windows(ids: IdArray, context_length: int) -> Tensor | None:
    """Windows to look at, `(batch, seq)`, the same each time; None if the text has fewer than
    two tokens."""
    length = min(LENGTH, context_length, len(ids))
    if length < 2:
        return None
    return torch.from_numpy(text_windows(ids, length, max(1, TOKENS // length)))


def probe(
    model: Transformer, windows: Tensor, step: int, compute: Compute, engine: str
) -> ProbeReport:
    """Look inside a model, which is left as it was.

    Args:
        windows: `(batch, seq)` ids.
        compute, engine: device, number format and engine that it is trained with.
    """
    ids = windows.to(model.embedding.weight.device)
    trace = Trace()
    hidden: list[Tensor] = []  # What each MLP hands to its last matrix, (batch, seq, d_ff).
    with torch.inference_mode(), evaluating(model), ExitStack() as hooks:
        for block in model.blocks:
            last = block.get_submodule("mlp.down")
            note = last.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
            hooks.enter_context(note)
        # Of a model of one's own, half of it would be seen.
        logits = model(ids, trace=None if isinstance(model, OwnModel) else trace)
    positions = torch.arange(1, ids.size(1) + 1, device=ids.device).log()
    return ProbeReport(
        step=step,
        attention_entropy=tuple(_entropies(weights) for weights in trace.attention),
        uniform_entropy=float(positions.mean()),
        attention_score=tuple(map(_largest_score, trace.queries, trace.keys)),
        output_logit=float(logits.abs().max()),
        dead_activations=tuple(dead_part(units) for units in hidden),
        leaks=_leaks(model, ids, compute, engine),
    )


def dead_part(hidden: Tensor) -> float:
    """Part of the units `(..., units)` that no token moves."""
    largest = hidden.abs().flatten(0, -2).amax(dim=0).float()
    # A layer without any answer is dead as a whole.
    return float((largest <= DEAD * largest.mean()).float().mean())


def _entropies(weights: Tensor) -> tuple[float, ...]:
    # (batch, heads, seq, seq) to the mean over positions for each head, nats.
    entropies: Tensor = torch.special.entr(weights.float()).sum(-1).mean(dim=(0, 2))
    return tuple(entropies.tolist())


def _largest_score(queries: Tensor, keys: Tensor) -> float:
    scores = (queries.float() @ keys.float().transpose(-2, -1)) * queries.size(-1) ** -0.5
    return float(scores.tril().abs().max())


def _leaks(model: Transformer, ids: Tensor, compute: Compute, engine: str) -> bool:
    # Other tokens in the second half must leave what follows from the first as it is, to the bit
    # (`inspection.mask_check` does this for every position and every way through the model).
    half = (ids.size(1) + 1) // 2
    changed = ids.clone()
    changed[:, half:] = (changed[:, half:] + 1) % model.config.vocab_size
    with torch.inference_mode(), evaluating(model):
        if moved_bits(model(ids)[:, :half], model(changed)[:, :half]).any():
            return True
    texts = CutTexts(ids[:1], changed[:1], torch.tensor([half - 1], device=ids.device))
    trained = check_training(model, texts, compute, engine)
    return trained.leak is not None or check_generating(model, texts).leak is not None


@dataclass
class InsideDetector:
    """Told each probe, in order. Its state: names of the findings that hold and were `told`."""

    told: list[str] = field(default_factory=list)

    def on_probe(self, report: ProbeReport) -> list[Event]:
        """Look at one more probe."""
        return look("probes", self.told, report.step, report)


@Kind(
    "leaky-mask",
    "error",
    "the attention mask lets positions see later tokens, so the model copies its targets",
    "Repair the model's mask and train again; minitx attn --check-mask says where it leaks",
    looks_at="probes",
)
def _leak(report: ProbeReport) -> str | None:
    if not report.leaks:
        return None
    return "logits of the first half of a window change when only the tokens after it are replaced"


@Kind(
    "attention-collapse",
    "warning",
    "queries and keys have grown until each softmax picks a single position and no longer "
    "learns: the learning rate is too high for attention without query/key norm",
    "Lower --learning-rate, clip gradients (--grad-clip 1), or use --architecture qwen3, "
    "which bounds queries and keys",
    looks_at="probes",
)
def _collapse(report: ProbeReport) -> str | None:
    collapsed = [
        (layer, head)
        for layer, heads in enumerate(report.attention_entropy)
        for head, entropy in enumerate(heads)
        if entropy < COLLAPSED * report.uniform_entropy
        and report.attention_score[layer] > LARGE_SCORE
    ]
    n_heads = sum(map(len, report.attention_entropy))
    if not n_heads or len(collapsed) < COLLAPSED_PART * n_heads:
        return None
    lowest = min(report.attention_entropy[layer][head] for layer, head in collapsed)
    return (
        f"{len(collapsed)} of {n_heads} heads look at one position each: entropy down to "
        f"{lowest:.2g} nats, where looking everywhere alike has {report.uniform_entropy:.2g}; "
        f"scores up to {max(report.attention_score):.3g}"
    )


@Kind(
    "dead-activations",
    "warning",
    "too large a step has pushed MLP units to where their output and gradient are zero",
    "Lower --learning-rate or lengthen --warmup-steps; train again, since dead units rarely "
    "recover",
    looks_at="probes",
)
def _dead(report: ProbeReport) -> str | None:
    parts = report.dead_activations or (0.0,)
    layer = max(range(len(parts)), key=parts.__getitem__)
    if parts[layer] < DEAD_PART:
        return None
    return f"{parts[layer]:.0%} of the MLP units of layer {layer} answer to no token of the text"
