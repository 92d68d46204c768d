"""One block: attention, then the MLP, each reading the residual stream and adding to it."""

from __future__ import annotations

from torch import Tensor, nn

from minitx.config import ModelConfig
from minitx.model.attention import Attention, AttentionContext
from minitx.model.fast import dropout
from minitx.model.mlp import GELUMLP, SwiGLU
from minitx.model.norms import LayerNorm, RMSNorm


class Block(nn.Module):
    """Pre-norm residual block (Xiong et al. 2020, section 3): x + f(norm(x)), twice.

    What a layer writes is added, never overwritten, so that gradients and early features pass
    through unhindered.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm = LayerNorm if config.architecture == "gpt2" else RMSNorm
        mlp = GELUMLP if config.architecture == "gpt2" else SwiGLU
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config.d_model, config.norm_eps)
        self.mlp = mlp(config.d_model, config.d_ff)
        self.dropout = config.dropout

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """`(batch, seq, d_model)` to `(batch, seq, d_model)`."""
        x = x + self._drop(self.attention(self.attention_norm(x), context))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.training and self.dropout else x
