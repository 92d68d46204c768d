"""One token of one text through the model, in as few operations as there can be.

The arithmetic of `Transformer.forward`, for a single vector: read that first. A small model's
token takes so little time that what surrounds an operation costs as much as the operation. So
everything is a vector in a buffer that stays, every matrix product is made ready beforehand, and
what is not a large product is NumPy's, whose small operations take less than half of torch's time.
Where the kernels were compiled, `native_row` does the same in one call; this is for everywhere
else, and for float64.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minitx.fast.quantized import Array, DenseMatrix, Matrix
from minitx.model import Transformer
from minitx.model.attention import Attention
from minitx.model.block import Block
from minitx.model.mlp import SwiGLU
from minitx.model.norms import LayerNorm, RMSNorm
from minitx.model.rotary import rotary_table

if TYPE_CHECKING:
    from minitx.generation.slot_cache import SlotCache

Step = Callable[[], object]

# A product with fewer weights is not worth a thread to OpenBLAS (interface/gemv.c), and so to
# NumPy. Larger ones are torch's: the threads of both would get in each other's way.
_FEW = 9216


def fits_one_row(model: Transformer) -> bool:
    """Whether `OneRow` can run a model: on a CPU, in float32 or float64, with all its heads."""
    weight = model.embedding.weight
    precise = weight.dtype in (torch.float32, torch.float64)
    return weight.device.type == "cpu" and precise and not model.ablated_heads


class OneRow:
    """A model made ready to read one token at a time. To be used without gradients.

    Args:
        model: in eval mode; its weights must not change from now on.

    Attributes:
        products: with the weights, in the order in which `feed` computes them.
        n_bytes: of weights that a token reads.
    """

    def __init__(self, model: Transformer) -> None:
        config = model.config
        weights = _weights_of(model)
        self.n_bytes = weights.head.n_bytes + sum(
            matrix.n_bytes
            for layer in weights.layers
            for matrix in (layer.qkv, layer.output, layer.up, layer.down)
        )
        self._weights = weights
        dtype = weights.embedding.dtype
        self._x = np.empty(config.d_model, dtype)
        self._logits = torch.empty(1, config.vocab_size, dtype=model.embedding.weight.dtype)
        self._attend = _Attention(config.n_heads, config.n_kv_heads, config.head_dim, weights)
        normed, added = np.empty_like(self._x), np.empty_like(self._x)
        hidden = np.empty(weights.n_hidden, dtype)
        active, activate = _activation(hidden, gated=config.architecture == "qwen3")
        self.products: list[Step] = []

        def bound(matrix: Matrix, x: Array, out: Array) -> Step:
            self.products.append(matrix.bind(x, out))
            return self.products[-1]

        self._layers: list[tuple[Step, Callable[[Array, Array, int], None], Step]] = []
        for layer in weights.layers:
            before = _chain(
                _norm(layer.attention_norm, self._x, normed),
                bound(layer.qkv, normed, self._attend.qkv),
                _add(layer.qkv_bias, self._attend.qkv),
            )
            after = _chain(
                bound(layer.output, self._attend.heads, added),
                _add(layer.output_bias, added),
                _add(added, self._x),
                _norm(layer.mlp_norm, self._x, normed),
                bound(layer.up, normed, hidden),
                _add(layer.up_bias, hidden),
                activate,
                bound(layer.down, active, added),
                _add(layer.down_bias, added),
                _add(added, self._x),
            )
            self._layers.append((before, self._attend.step(layer.head_gains), after))
        self._unembed = _chain(
            _norm(weights.norm, self._x, normed),
            bound(weights.head, normed, self._logits[0].numpy()),
        )

    def feed(self, token: int, cache: SlotCache) -> Tensor:
        """Append a token to the only row of a cache.

        Args:
            token: the id.
            cache: has room for it, and one row.

        Returns:
            Logits of what follows, `(1, vocab_size)`; overwritten by the next call.
        """
        position, weights = cache.longest, self._weights
        np.copyto(self._x, weights.embedding[token])
        if weights.positions is not None:
            self._x += weights.positions[position]
        else:
            self._attend.turn_to(position)
        # As in torch, a model that has diverged computes infinities without a word.
        with np.errstate(all="ignore"):
            for (before, attend, after), (keys, values) in zip(
                self._layers, cache.first_row, strict=True
            ):
                before()
                attend(keys, values, position)
                after()
            self._unembed()
        cache.advance(1)
        return self._logits


@dataclass(frozen=True)
class _Layer:
    attention_norm: RMSNorm | LayerNorm
    qkv: Matrix
    qkv_bias: Array | None
    head_gains: Array | None
    output: Matrix
    output_bias: Array | None
    mlp_norm: RMSNorm | LayerNorm
    up: Matrix
    up_bias: Array | None
    down: Matrix
    down_bias: Array | None


@dataclass(frozen=True)
class _Weights:
    # Of a model, as they are read; the same for all who read it.
    embedding: Array
    positions: Array | None
    cosine: Array | None
    sine: Array | None
    layers: list[_Layer]
    norm: RMSNorm | LayerNorm
    head: Matrix
    n_hidden: int
    eps: float


_KNOWN: weakref.WeakKeyDictionary[Transformer, tuple[Hashable, _Weights]] = (
    weakref.WeakKeyDictionary()
)


def _weights_of(model: Transformer) -> _Weights:
    # Put in order once for a model, and again if its weights were written to since.
    state = (
        tuple((one.data_ptr(), one._version) for one in model.parameters()),
        tuple(map(id, model.stored_matrices.values())),
    )
    known = _KNOWN.get(model)
    if known is None or known[0] != state:
        known = _KNOWN[model] = (state, _prepare(model))
    return known[1]


def _prepare(model: Transformer) -> _Weights:
    config = model.config
    names = [name for name, _, _ in model.matrix_parameters()] + ["head.weight"]
    matrices: dict[str, Matrix] = dict(model.stored_matrices)
    for name in names:
        if name not in matrices:
            matrices[name] = DenseMatrix(model.get_parameter(name))
    cosine = sine = None
    if model.positions is None:
        tables = rotary_table(
            config.head_dim, config.context_length, config.rope_theta, model.embedding.weight.dtype
        )
        cosine, sine = (table.numpy() for table in tables)
    gated = config.architecture == "qwen3"
    return _Weights(
        embedding=_array(model.embedding.weight),
        positions=None if model.positions is None else _array(model.positions.weight),
        cosine=cosine,
        sine=sine,
        layers=[_layer(model, at, matrices) for at in range(config.n_layers)],
        norm=model.norm,
        head=matrices["head.weight"],
        n_hidden=config.d_ff * (2 if gated else 1),
        eps=config.norm_eps,
    )


def _layer(model: Transformer, at: int, matrices: dict[str, Matrix]) -> _Layer:
    block = cast(Block, model.blocks[at])
    attention, mlp = block.attention, block.mlp
    up = "gate_up" if isinstance(mlp, SwiGLU) else "up"
    path = f"blocks.{at}"
    return _Layer(
        attention_norm=block.attention_norm,
        qkv=matrices[f"{path}.attention.qkv.weight"],
        qkv_bias=_optional(attention.qkv.bias),
        head_gains=_head_gains(attention),
        output=matrices[f"{path}.attention.output.weight"],
        output_bias=_optional(attention.output.bias),
        mlp_norm=block.mlp_norm,
        up=matrices[f"{path}.mlp.{up}.weight"],
        up_bias=_optional(getattr(mlp, up).bias),
        down=matrices[f"{path}.mlp.down.weight"],
        down_bias=_optional(mlp.down.bias),
    )


def _head_gains(attention: Attention) -> Array | None:
    # Of query heads, then of key heads, (n_heads + n_kv_heads, head_dim).
    if attention.query_norm is None or attention.key_norm is None:
        return None
    query, key = _array(attention.query_norm.gain), _array(attention.key_norm.gain)
    return np.concatenate(
        (np.tile(query, (attention.n_heads, 1)), np.tile(key, (attention.n_kv_heads, 1)))
    )


class _Attention:
    # What a layer does between the products: the same buffers for all layers.
    #
    # qkv: queries, keys and values of the token, (n_heads + 2 n_kv_heads) * head_dim.
    # heads: what the query heads gather, n_heads * head_dim.

    def __init__(self, n_heads: int, n_kv_heads: int, width: int, weights: _Weights) -> None:
        self._weights = weights
        dtype = weights.embedding.dtype
        turned = n_heads + n_kv_heads
        self.qkv = np.empty((turned + n_kv_heads) * width, dtype)
        self.heads = np.empty(n_heads * width, dtype)
        self._both = self.qkv[: turned * width].reshape(turned, width)
        self._new_values = self.qkv[turned * width :].reshape(n_kv_heads, width)
        self._scales = np.empty(turned, dtype)
        self._turned = np.empty_like(self._both) if weights.cosine is not None else self._both
        # Query heads that share keys are queries of one head.
        shape = (n_kv_heads, n_heads // n_kv_heads, width)
        self._queries = self._turned[:n_heads].reshape(shape)
        self._new_keys = self._turned[n_heads:]
        self._gathered = self.heads.reshape(shape)
        self._factor = 1.0 / math.sqrt(width)
        # To turn all pairs by their angles is to multiply by a matrix with four diagonals.
        self._turn = np.zeros((width, width), dtype)
        flat, half, stride = self._turn.reshape(-1), width // 2, width + 1
        self._main = flat[::stride]
        self._above = flat[half : half * width : stride]
        self._below = flat[half * width :: stride]
        self._torch_queries = torch.from_numpy(self._queries)[None]
        self._torch_gathered = torch.from_numpy(self._gathered)[None]

    def turn_to(self, position: int) -> None:
        # Queries and keys are at this position from now on.
        assert self._weights.cosine is not None
        assert self._weights.sine is not None
        sine = self._weights.sine[position]
        half = len(sine) // 2
        self._main[:] = self._weights.cosine[position]
        self._above[:] = sine[half:]
        np.negative(sine[:half], out=self._below)

    def step(self, gains: Array | None) -> Callable[[Array, Array, int], None]:
        # Attention of one layer, given its keys and values (n_kv_heads, capacity, head_dim).
        both, turned, scales = self._both, self._turned, self._scales
        column, width, eps = scales[:, None], both.shape[1], self._weights.eps

        def attend(keys: Array, values: Array, position: int) -> None:
            if gains is not None:
                np.vecdot(both, both, out=scales)
                np.divide(scales, width, out=scales)
                np.add(scales, eps, out=scales)
                np.sqrt(scales, out=scales)
                np.divide(both, column, out=both)
                np.multiply(both, gains, out=both)
                np.matmul(both, self._turn, out=turned)
            keys[:, position] = self._new_keys
            values[:, position] = self._new_values
            end = position + 1
            if end * width < _FEW:
                self._look_by_numpy(keys[:, :end], values[:, :end])
            else:
                self._look_by_torch(keys[:, :end], values[:, :end])

        return attend

    def _look_by_numpy(self, keys: Array, values: Array) -> None:
        np.multiply(self._queries, self._factor, out=self._queries)
        scores = np.matmul(self._queries, keys.transpose(0, 2, 1))
        np.subtract(scores, np.maximum.reduce(scores, axis=2, keepdims=True), out=scores)
        np.exp(scores, out=scores)
        np.matmul(scores, values, out=self._gathered)
        np.divide(self._gathered, np.add.reduce(scores, axis=2, keepdims=True), self._gathered)

    def _look_by_torch(self, keys: Array, values: Array) -> None:
        self._torch_gathered.copy_(
            F.scaled_dot_product_attention(
                self._torch_queries, torch.from_numpy(keys)[None], torch.from_numpy(values)[None]
            )
        )


def _norm(norm: RMSNorm | LayerNorm, x: Array, out: Array) -> Step:
    # out = norm(x), vectors.
    gain, eps, size = _array(norm.gain), norm.eps, len(x)
    if isinstance(norm, LayerNorm):
        bias = _array(norm.bias)

        def layer_norm() -> None:
            np.subtract(x, np.add.reduce(x) / size, out=out)
            np.multiply(out, 1.0 / math.sqrt(np.dot(out, out) / size + eps), out=out)
            np.multiply(out, gain, out=out)
            np.add(out, bias, out=out)

        return layer_norm

    def rms_norm() -> None:
        np.multiply(x, 1.0 / math.sqrt(np.dot(x, x) / size + eps), out=out)
        np.multiply(out, gain, out=out)

    return rms_norm


def _activation(hidden: Array, gated: bool) -> tuple[Array, Step]:
    # Where the active values will be, and what puts them there.
    whole = torch.from_numpy(hidden)
    if gated:
        half = len(hidden) // 2
        gate, up = whole[:half], whole[half:]
        return hidden[:half], lambda: F.silu(gate, inplace=True).mul_(up)
    return hidden, lambda: torch.ops.aten.gelu_(whole, approximate="tanh")


def _add(what: Array | None, into: Array) -> Step | None:
    return None if what is None else lambda: np.add(into, what, into)


def _chain(*steps: Step | None) -> Step:
    there = tuple(step for step in steps if step is not None)

    def run() -> None:
        for step in there:
            step()

    return run


def _array(weight: Tensor) -> Array:
    array: Array = weight.detach().numpy()
    return array


def _optional(weight: Tensor | None) -> Array | None:
    return None if weight is None else _array(weight)
