"""One block: attention, then the MLP, each reading the residual stream and adding to it."""

from __future__ import annotations

import functools

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

    @functools.cached_property
    def shape(self) -> tuple[int, int, int, int, float] | None:
        """For `native_block`: heads, heads of keys, head_dim, d_ff, and the eps of the norms; None
        for a block of another kind.
        """
        attention, mlp = self.attention, self.mlp
        sizes = (attention.n_heads, attention.n_kv_heads, attention.head_dim)
        norms = (self.attention_norm, self.mlp_norm, attention.query_norm, attention.key_norm)
        if not isinstance(mlp, SwiGLU) or not all(isinstance(norm, RMSNorm) for norm in norms):
            return None
        d_ff = mlp.down.in_features
        return None if d_ff % 2 or mlp.down.out_features % 2 else (*sizes, d_ff, norms[0].eps)

    @functools.cached_property
    def parts(self) -> tuple[nn.Module, ...]:
        """This module and all inside."""
        return tuple(self.modules())

    def weights(self) -> tuple[Tensor, ...]:
        """What `native_block` reads, in its order."""
        attention, mlp = self.attention, self.mlp
        assert isinstance(mlp, SwiGLU)
        assert attention.query_norm is not None
        assert attention.key_norm is not None
        return (
            self.attention_norm.gain, attention.query_norm.gain, attention.key_norm.gain,
            self.mlp_norm.gain, attention.qkv.weight, attention.output.weight,
            mlp.gate_up.weight, mlp.down.weight,
        )  # fmt: skip

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.training and self.dropout else x
