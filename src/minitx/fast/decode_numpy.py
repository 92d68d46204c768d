"""One token of one text through the model in NumPy, for where no kernels were compiled.

A small model's token takes so little time that what surrounds an operation costs as much as the
operation, and NumPy's small operations take less than half of torch's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from minitx.fast.decode_weights import DecodingCache
from minitx.model import Transformer
from minitx.model.transformer import GELUMLP, Block, LayerNorm, RMSNorm, SwiGLU, rotary_table

Array = npt.NDArray[Any]
Function = Callable[[Array], Array]


class NumpyDecoder:
    """Reads one token at a time of one text; the weights must stay as they are from now on."""

    def __init__(self, model: Transformer) -> None:
        config = model.config
        self._embedding = _array(model.embedding.weight)
        self._positions = None if model.positions is None else _array(model.positions.weight)
        self._cosine, self._sine = (
            _array(table)
            for table in rotary_table(
                torch.arange(config.context_length), config.head_dim, config.rope_theta
            )
        )
        self._layers = [_Layer(cast(Block, block)) for block in model.blocks]
        self._norm, self._head = _norm(model.norm), _linear(model.head)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`: one token, and a cache of one row."""
        position = cache.longest
        x = self._embedding[tokens[0]]
        if self._positions is not None:
            x = x + self._positions[position]
        cosine, sine = self._cosine[position], self._sine[position]
        # As in torch, a model that has diverged computes infinities without a word.
        with np.errstate(all="ignore"):
            for layer, (keys, values) in zip(
                self._layers, cache.store[:, :, 0].numpy(), strict=True
            ):
                x = x + layer.attend(x, keys, values, position, cosine, sine)
                x = x + layer.mlp(x)
            logits = self._head(self._norm(x))
        cache.advance(1)
        return torch.from_numpy(logits)[None]


class _Layer:
    def __init__(self, block: Block) -> None:
        attention = block.attention
        self._n_heads, self._n_kv_heads = attention.n_heads, attention.n_kv_heads
        self._width = attention.head_dim
        self._norm = _norm(block.attention_norm)
        self._qkv, self._output = _linear(attention.qkv), _linear(attention.output)
        query_norm, key_norm = attention.query_norm, attention.key_norm
        self._head_norms = None
        if query_norm is not None and key_norm is not None:
            self._head_norms = (_norm(query_norm), _norm(key_norm))
        self.mlp = _mlp(block.mlp, _norm(block.mlp_norm))

    def attend(
        self, x: Array, keys: Array, values: Array, position: int, cosine: Array, sine: Array
    ) -> Array:
        # x: (d_model,); keys, values: (n_kv_heads, capacity, head_dim); cosine, sine: (head_dim,).
        end, kv, width = position + 1, self._n_kv_heads, self._width
        heads = self._qkv(self._norm(x)).reshape(-1, width)
        queries, new_keys = heads[: self._n_heads], heads[self._n_heads : -kv]
        if self._head_norms is not None:
            query_norm, key_norm = self._head_norms
            queries = _rotate(query_norm(queries), cosine, sine)
            new_keys = _rotate(key_norm(new_keys), cosine, sine)
        keys[:, position], values[:, position] = new_keys, heads[-kv:]
        # Query heads that share keys are queries of one head.
        grouped = queries.reshape(kv, -1, width) * (1.0 / math.sqrt(width))
        scores = grouped @ keys[:, :end].transpose(0, 2, 1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        gathered = weights @ values[:, :end] / weights.sum(axis=-1, keepdims=True)
        return self._output(gathered.reshape(-1))


def _mlp(mlp: SwiGLU | GELUMLP, norm: Function) -> Function:
    down = _linear(mlp.down)
    if isinstance(mlp, SwiGLU):
        gate_up = _linear(mlp.gate_up)

        def swiglu(x: Array) -> Array:
            gate, up = gate_up(norm(x)).reshape(2, -1)
            return down(gate / (1.0 + np.exp(-gate)) * up)

        return swiglu
    expand = _linear(mlp.up)

    def gelu(x: Array) -> Array:
        hidden = expand(norm(x))
        cubed = hidden * hidden * hidden
        return down(
            0.5 * hidden * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * cubed)))
        )

    return gelu


def _linear(linear: nn.Linear) -> Function:
    weight = _array(linear.weight)
    if linear.bias is None:
        return lambda x: weight @ x
    bias = _array(linear.bias)
    return lambda x: weight @ x + bias


def _norm(norm: RMSNorm | LayerNorm) -> Function:
    # Of the last dimension.
    gain, eps = _array(norm.gain), norm.eps

    def rms_norm(x: Array) -> Array:
        mean_square = np.vecdot(x, x)[..., None] / x.shape[-1]
        normed: Array = x / np.sqrt(mean_square + eps) * gain
        return normed

    if isinstance(norm, RMSNorm):
        return rms_norm
    bias = _array(norm.bias)
    return lambda x: rms_norm(x - x.mean()) + bias


def _rotate(x: Array, cosine: Array, sine: Array) -> Array:
    # (a, b) to (a cos - b sin, b cos + a sin), for each pair.
    half = x.shape[-1] // 2
    rotated: Array = x * cosine + np.concatenate((-x[:, half:], x[:, :half]), axis=1) * sine
    return rotated


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array
