"""One token of one text through the model, in as few operations as there can be.

The arithmetic of `Transformer.forward`, for a single vector: read that first. A small model's
token takes so little time that what surrounds an operation costs as much as the operation. So
everything is a vector in a buffer that stays, products add to the residual stream themselves, and
a norm's scale goes into the product after it: W (s x) = s (W x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from minitx.generation.slot_cache import SlotCache
from minitx.model import Transformer
from minitx.model.attention import Attention
from minitx.model.block import Block
from minitx.model.matrices import DenseMatrix, Matrix
from minitx.model.mlp import GELUMLP, SwiGLU
from minitx.model.norms import LayerNorm, RMSNorm
from minitx.model.rotary import rotary_table


def fits_one_row(model: Transformer) -> bool:
    """Whether `OneRow` can run a model: on a CPU, in float32 or float64, with all its heads."""
    weight = model.embedding.weight
    precise = weight.dtype in (torch.float32, torch.float64)
    return weight.device.type == "cpu" and precise and not model.ablated_heads


@dataclass(frozen=True)
class _Layer:
    attention_norm: RMSNorm | LayerNorm
    qkv: Matrix
    qkv_bias: Tensor | None
    head_gains: Tensor | None
    output: Matrix
    output_bias: Tensor | None
    mlp_norm: RMSNorm | LayerNorm
    up: Matrix
    up_bias: Tensor | None
    down: Matrix
    down_bias: Tensor | None


class OneRow:
    """A model made ready to read one token at a time. To be used without gradients.

    Args:
        model: in eval mode; its weights must not change from now on.

    Attributes:
        n_bytes: of weights that a token reads.
    """

    def __init__(self, model: Transformer) -> None:
        config = self._config = model.config
        self._model = model
        self._layers = [_prepare(model, at) for at in range(config.n_layers)]
        self._head = _matrix(model, "head.weight", model.head.weight)
        matrices = [(layer.qkv, layer.output, layer.up, layer.down) for layer in self._layers]
        self.n_bytes = self._head.n_bytes + sum(m.n_bytes for four in matrices for m in four)
        weight = model.embedding.weight
        width, heads, kv = config.head_dim, config.n_heads, config.n_kv_heads
        self._x = weight.new_empty(config.d_model)
        self._normed = torch.empty_like(self._x)
        self._qkv = weight.new_empty((heads + 2 * kv) * width)
        self._hidden = weight.new_empty(config.d_ff * (2 if config.architecture == "qwen3" else 1))
        self._logits = weight.new_empty(1, config.vocab_size)
        turned = heads + kv
        self._both = self._qkv[: turned * width].view(turned, width)
        self._new_values = self._qkv[turned * width :].view(kv, width)
        # Query heads that share keys are queries of one head to the attention kernel.
        self._shape = (1, kv, heads // kv, width)
        self._squares, self._turned = torch.empty_like(self._both), torch.empty_like(self._both)
        self._mean = weight.new_full((width,), 1.0 / width)
        self._eps = weight.new_full((turned,), config.norm_eps)
        self._scales = weight.new_empty(turned)
        if config.architecture == "qwen3":
            self._cosine, self._sine = rotary_table(
                width, config.context_length, config.rope_theta, weight.dtype
            )
            # (a, b) to (a cos - b sin, b cos + a sin): the sign goes into the table.
            self._sine[:, : width // 2].neg_()

    def feed(self, token: int, cache: SlotCache) -> Tensor:
        """Append a token to the only row of a cache.

        Args:
            token: the id.
            cache: has room for it, and one row.

        Returns:
            Logits of what follows, `(1, vocab_size)`; overwritten by the next call.
        """
        position = cache.longest
        x = self._x
        x.copy_(self._model.embedding.weight[token])
        if self._model.positions is not None:
            x.add_(self._model.positions.weight[position])
        else:
            cosine, sine = self._cosine[position], self._sine[position]
        new_keys, new_values, all_keys, all_values = cache.row_views(position)
        for at, layer in enumerate(self._layers):
            self._project(layer.attention_norm, layer.qkv, layer.qkv_bias, self._qkv)
            both = self._both
            if layer.head_gains is not None:
                both = self._norm_and_rotate(layer.head_gains, cosine, sine)
            new_keys[at].copy_(both[self._config.n_heads :])
            new_values[at].copy_(self._new_values)
            heads = F.scaled_dot_product_attention(
                both[: self._config.n_heads].view(self._shape), all_keys[at], all_values[at]
            )
            layer.output.accumulate(heads.flatten(), x)
            if layer.output_bias is not None:
                x.add_(layer.output_bias)
            self._project(layer.mlp_norm, layer.up, layer.up_bias, self._hidden)
            layer.down.accumulate(self._activate(), x)
            if layer.down_bias is not None:
                x.add_(layer.down_bias)
        self._project(self._model.norm, self._head, None, self._logits[0])
        cache.advance(1)
        return self._logits

    def _project(
        self, norm: RMSNorm | LayerNorm, matrix: Matrix, bias: Tensor | None, out: Tensor
    ) -> None:
        # out = matrix @ norm(x) + bias
        x = self._x
        if isinstance(norm, LayerNorm):
            matrix.product(F.layer_norm(x, x.shape, norm.gain, norm.bias, norm.eps), out)
        else:
            scale = 1.0 / math.sqrt(torch.dot(x, x).item() / len(x) + norm.eps)
            matrix.product(torch.mul(x, norm.gain, out=self._normed), out, scale)
        if bias is not None:
            out.add_(bias)

    def _norm_and_rotate(self, gains: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        # As `Attention` does with queries and keys, (n_heads + n_kv_heads, head_dim).
        both, turned = self._both, self._turned
        torch.mul(both, both, out=self._squares)
        torch.addmv(self._eps, self._squares, self._mean, out=self._scales)
        both.mul_(self._scales.rsqrt_().unsqueeze(1)).mul_(gains)
        half = both.size(1) // 2
        torch.mul(both, cosine, out=turned)
        turned[:, :half].addcmul_(both[:, half:], sine[:half])
        turned[:, half:].addcmul_(both[:, :half], sine[half:])
        return turned

    def _activate(self) -> Tensor:
        if self._config.architecture == "gpt2":
            return F.gelu(self._hidden, approximate="tanh")
        gate, up = self._hidden.chunk(2)
        return F.silu(gate, inplace=True).mul_(up)


def _matrix(model: Transformer, name: str, weight: Tensor) -> Matrix:
    return model.stored_matrices.get(name) or DenseMatrix(weight)


def _prepare(model: Transformer, at: int) -> _Layer:
    block, config = model.blocks[at], model.config
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, Attention)
    gains = None
    if attention.query_norm is not None and attention.key_norm is not None:
        query, key = attention.query_norm.gain.detach(), attention.key_norm.gain.detach()
        gains = torch.cat((query.repeat(config.n_heads, 1), key.repeat(config.n_kv_heads, 1)))
    assert isinstance(mlp, (SwiGLU, GELUMLP))
    gated = isinstance(mlp, SwiGLU)
    up = mlp.gate_up if isinstance(mlp, SwiGLU) else mlp.up
    path = f"blocks.{at}"
    return _Layer(
        attention_norm=block.attention_norm,
        qkv=_matrix(model, f"{path}.attention.qkv.weight", attention.qkv.weight),
        qkv_bias=attention.qkv.bias,
        head_gains=gains,
        output=_matrix(model, f"{path}.attention.output.weight", attention.output.weight),
        output_bias=attention.output.bias,
        mlp_norm=block.mlp_norm,
        up=_matrix(model, f"{path}.mlp.{'gate_up' if gated else 'up'}.weight", up.weight),
        up_bias=up.bias,
        down=_matrix(model, f"{path}.mlp.down.weight", mlp.down.weight),
        down_bias=mlp.down.bias,
    )
