"""Attention collapse, dead activations and a leaky mask, from what a probe saw inside."""

from __future__ import annotations

from dataclasses import dataclass, field

from minitx.diagnosis.findings import Kind, look
from minitx.training.observer import Event, ProbeReport

# A head has collapsed if its entropy is below this part of the uniform one (Zhai et al. 2023 see
# attention at such entropies stop learning), and its layer's scores have grown to this size, at
# which a softmax has one answer. One such head may be what the text asks for; half of all are not.
COLLAPSED = 0.03
LARGE_SCORE = 30.0
COLLAPSED_PART = 0.5

DEAD_PART = 0.5
"""Part of a layer's units that must be dead."""


@dataclass
class InsideDetector:
    """Told each probe, in order. Its state are the names of what holds and was `told`."""

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
    if len(collapsed) < COLLAPSED_PART * n_heads:
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
    parts = report.dead_activations
    layer = max(range(len(parts)), key=parts.__getitem__)
    if parts[layer] < DEAD_PART:
        return None
    return f"{parts[layer]:.0%} of the MLP units of layer {layer} answer to no token of the text"
