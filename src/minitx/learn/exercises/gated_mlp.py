"""The MLP

Attention moves information between positions; the MLP works on each position alone, and holds most
of a model's parameters. It widens the vector, bends it, and narrows it again. In SwiGLU one half of
the hidden units is a gate, which says how much of the other half passes:

    down( silu(gate(x)) * up(x) )           silu(z) = z * sigmoid(z)

gate and up are the first and the second half of one matrix.

Paper: Shazeer 2020 (GLU variants), section 2, equation 6.
In minitx: model/transformer.py: SwiGLU
"""

from __future__ import annotations

from torch import Tensor, nn


class SwiGLU(nn.Module):
    """A gated MLP without biases."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(gate * gate.sigmoid() * up)
        return out


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal, with_weights
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "self.gate_up(x) has both halves along its last axis; .chunk(2, dim=-1) parts them.",
    "torch.nn.functional.silu, or gate * gate.sigmoid(). Multiply by up, then self.down.",
)
SLIPS = """
Gate and up are swapped: the first half of the matrix is the gate.
    gate, up = -> up, gate =
The sigmoid stands alone: silu(z) is z * sigmoid(z).
    gate * gate.sigmoid() -> gate.sigmoid()
The activation is a GELU, which looks alike: this MLP takes silu.
    gate * gate.sigmoid() -> nn.functional.gelu(gate)
The activation is a ReLU: this MLP takes silu.
    gate * gate.sigmoid() -> gate.relu()
There is no activation: without one, gate and up are a plain product.
    gate * gate.sigmoid() * up -> gate * up
The gate is added: it has to multiply, so that it can close.
    gate.sigmoid() * up -> gate.sigmoid() + up
The activation comes after the product: it belongs to the gate alone.
    gate * gate.sigmoid() * up -> nn.functional.silu(gate * up)
"""
REFERENCE = Code(SwiGLU=transformer.SwiGLU)


def trials(answer: Code) -> Calls:
    """Two sizes."""
    for d_model, d_ff in ((4, 6), (8, 5)):
        mlp = with_weights(answer.SwiGLU(d_model, d_ff))
        about = f"SwiGLU({d_model}, {d_ff})(x), x (2, 3, {d_model})"
        yield Trial(about, mlp, (2 * normal(2, 3, d_model),))
