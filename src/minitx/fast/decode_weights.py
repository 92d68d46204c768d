"""A model's weights and a cache as the decoding kernels read them.

The structures are those of `kernels/decode_model.h`, which says what each field means.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Hashable
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from minitx.fast.library import pointers
from minitx.fast.quantized import weight_state
from minitx.model import Transformer
from minitx.model.transformer import Block, LayerNorm, RMSNorm, SwiGLU, rotary_table


class DecodingCache(Protocol):
    """What a decoder needs of a key/value cache."""

    store: Tensor
    """`(n_layers, 2, rows, n_kv_heads, capacity, head_dim)`; maybe more rows than texts."""

    lengths: Tensor
    """Positions held by each row, `(rows,)` int64 on the CPU."""

    @property
    def longest(self) -> int:
        """Positions held by the row that holds the most."""

    def advance(self, tokens: int | Tensor) -> None:
        """Count positions just written: a number for all rows, or one for each `(rows,)`."""


def _integers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_int64) for name in names]


class MatrixPointer(ctypes.Structure):
    """`Matrix` in C."""

    _fields_ = [*pointers("packed"), *_integers("rows", "columns", "format")]


class _NormPointer(ctypes.Structure):
    _fields_ = pointers("gain", "bias")


class _LayerPointer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _NormPointer),
        ("mlp_norm", _NormPointer),
        *pointers("query_gain", "key_gain"),
        *((name, MatrixPointer) for name in ("qkv", "output", "gate_up", "down")),
    ]


class ModelPointer(ctypes.Structure):
    """`Model` in C."""

    _fields_ = [
        *_integers("n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "context"),
        ("eps", ctypes.c_double),
        *pointers("embedding", "positions", "cosine", "sine"),
        ("layers", ctypes.POINTER(_LayerPointer)),
        ("norm", _NormPointer),
        ("head", MatrixPointer),
    ]


class CachePointer(ctypes.Structure):
    """`Cache` in C."""

    _fields_ = [*pointers("start"), *_integers("layer", "kind", "row", "head")]

    @classmethod
    def of(cls, cache: DecodingCache) -> CachePointer:
        """Where a cache is now; growing moves it."""
        return cls(cache.store.data_ptr(), *cache.store.stride()[:4])


class DecodingWeights:
    """Where a kernel finds the weights of a model, which must stay there as long as this lives.

    The model is on the CPU, in float32; kernels are given `pointer`.
    """

    def __init__(self, model: Transformer) -> None:
        self._kept: list[Tensor] = []
        config = model.config
        cosine = sine = None
        if model.positions is None:
            cosine, sine = rotary_table(
                torch.arange(config.context_length), config.head_dim, config.rope_theta
            )
        layers = (_LayerPointer * config.n_layers)(
            *(
                self._layer(f"blocks.{layer}", cast(Block, block))
                for layer, block in enumerate(model.blocks)
            )
        )
        self.pointer = ModelPointer(
            config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.d_model,
            config.d_ff, config.context_length, config.norm_eps,
            self.keep(model.embedding.weight),
            self.keep(None if model.positions is None else model.positions.weight),
            self.keep(cosine), self.keep(sine), layers, self._norm(model.norm),
            self.matrix("head.weight", model.head),
        )  # fmt: skip

    def matrix(self, name: str, linear: nn.Linear) -> MatrixPointer:
        """A matrix as the kernel wants it; `name` is that of its weight."""
        raise NotImplementedError

    def keep(self, tensor: Tensor | None) -> int | None:
        """The address of a tensor of the model, or of a copy whose rows lie side by side."""
        if tensor is None:
            return None
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()

    def _layer(self, path: str, block: Block) -> _LayerPointer:
        attention, mlp = block.attention, block.mlp
        query_norm, key_norm = attention.query_norm, attention.key_norm
        up = "gate_up" if isinstance(mlp, SwiGLU) else "up"
        return _LayerPointer(
            self._norm(block.attention_norm),
            self._norm(block.mlp_norm),
            self.keep(None if query_norm is None else query_norm.gain),
            self.keep(None if key_norm is None else key_norm.gain),
            self.matrix(f"{path}.attention.qkv.weight", attention.qkv),
            self.matrix(f"{path}.attention.output.weight", attention.output),
            self.matrix(f"{path}.mlp.{up}.weight", getattr(mlp, up)),
            self.matrix(f"{path}.mlp.down.weight", mlp.down),
        )

    def _norm(self, norm: RMSNorm | LayerNorm) -> _NormPointer:
        bias = norm.bias if isinstance(norm, LayerNorm) else None
        return _NormPointer(self.keep(norm.gain), self.keep(bias))


Weights = TypeVar("Weights", bound=DecodingWeights)

_KNOWN: weakref.WeakKeyDictionary[
    Transformer, dict[type[DecodingWeights], tuple[Hashable, DecodingWeights]]
] = weakref.WeakKeyDictionary()


def weights_of(model: Transformer, form: type[Weights]) -> Weights:
    """Weights of a model in a form: made once, and again if they were written to since."""
    state = tuple(weight_state(parameter) for parameter in model.parameters())
    forms = _KNOWN.setdefault(model, {})
    known_state, weights = forms.get(form, (None, None))
    if known_state != state or not isinstance(weights, form):
        weights = form(model)
        forms[form] = (state, weights)
    return weights
