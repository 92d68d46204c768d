"""The MLP: what each position works out by itself, after attention has brought things together."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from minitx.model.fast import swiglu, use_fast


class SwiGLU(nn.Module):
    """A gated MLP: down(silu(gate(x)) * up(x)) (Shazeer 2020, section 2).

    Gate and up are the two halves of one matrix, so that one product computes both.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, seq, d_model)` to `(batch, seq, d_model)`."""
        gate_up = self.gate_up(x)
        if use_fast(gate_up):
            hidden = swiglu(gate_up)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        out: Tensor = self.down(hidden)
        return out


class GELUMLP(nn.Module):
    """The MLP of GPT-2: down(gelu(up(x))), with biases and the tanh form of GELU.

    Hendrycks and Gimpel 2016, section 2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, seq, d_model)` to `(batch, seq, d_model)`."""
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out
