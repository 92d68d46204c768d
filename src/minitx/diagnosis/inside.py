"""Attention collapse, dead activations and a leaky mask, from what a probe saw inside."""

from __future__ import annotations

from dataclasses import dataclass, field

from minitx.diagnosis.findings import Finding, finding
from minitx.training.observer import ProbeReport

COLLAPSED = 0.03
"""A head has collapsed if its entropy is below this part of the uniform one (Zhai et al. 2023 see
attention at such entropies stop learning), ..."""

LARGE_SCORE = 30.0
"""... and its layer's scores have grown to this size, at which a softmax has one answer."""

COLLAPSED_PART = 0.5
"""One such head may be what the text asks for; half of all are not."""

DEAD_PART = 0.5
"""Part of a layer's units that must be dead."""

_LEAK = "logits of the first half of a window change when only the tokens after it are replaced"


@dataclass
class InsideDetector:
    """Told each probe, in order. Its state is what was `told`; each finding is told once."""

    told: list[str] = field(default_factory=list)

    def on_probe(self, report: ProbeReport) -> list[Finding]:
        """Look at one more probe."""
        seen = {
            "leaky-mask": _LEAK if report.leaks else None,
            "attention-collapse": _collapse(report),
            "dead-activations": _dead(report),
        }
        new = [name for name, evidence in seen.items() if evidence and name not in self.told]
        self.told += new
        return [finding(name, report.step, seen[name] or "") for name in new]


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


def _dead(report: ProbeReport) -> str | None:
    parts = report.dead_activations
    layer = max(range(len(parts)), key=parts.__getitem__)
    if parts[layer] < DEAD_PART:
        return None
    return f"{parts[layer]:.0%} of the MLP units of layer {layer} answer to no token of the text"
