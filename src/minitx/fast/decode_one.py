"""One token of one text through the model in a single call of a kernel, `kernels/decode.c`.

Weights in float32 are read where the model has them, without a copy; those that `quantize` rounded,
in their small format.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref

import torch
from torch import Tensor, nn

from minitx.fast.decode_weights import (
    CachePointer,
    DecodingCache,
    DecodingWeights,
    MatrixPointer,
    weights_of,
)
from minitx.fast.library import loaded_kernels, pointers
from minitx.fast.quantized import quantized_matrices
from minitx.model import Transformer

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}

# With fewer bytes of weights for each thread, they would wait for each other most of the time.
_BYTES_FOR_A_THREAD = 2**18


class _Workspace(ctypes.Structure):
    _fields_ = pointers("residual", "qkv", "heads", "hidden", "normed", "scores")


class OneTextWeights(DecodingWeights):
    """Weights of a model for the kernel that reads one text; a token reads `n_bytes` of them."""

    def __init__(self, model: Transformer) -> None:
        self.n_bytes = 0
        self._quantized = quantized_matrices(model)
        super().__init__(model)

    def matrix(self, name: str, linear: nn.Linear) -> MatrixPointer:
        """See `DecodingWeights`."""
        weights: Tensor = linear.weight
        scale = None
        if name in self._quantized:
            weights, scale = self._quantized[name].weights, self._quantized[name].scale
        self.n_bytes += weights.numel() * weights.element_size()
        rows, columns = weights.shape
        return MatrixPointer(
            self.keep(weights), self.keep(scale), self.keep(linear.bias), rows, columns, columns,
            _FORMATS[weights.dtype],
        )  # fmt: skip


class OneTextDecoder:
    """Reads one token at a time of one text; the weights must stay as they are.

    However many threads share the work, the result is the same; None takes as many as pay.
    """

    def __init__(self, model: Transformer, threads: int | None = None) -> None:
        self._decode = loaded_kernels().minitx_decode_token
        self._weights = weights_of(model, OneTextWeights)
        config = model.config
        self._threads = threads or max(
            1, min(torch.get_num_threads(), self._weights.n_bytes // _BYTES_FOR_A_THREAD)
        )
        sizes = {
            "residual": config.d_model,
            "qkv": (config.n_heads + 2 * config.n_kv_heads) * config.head_dim,
            "heads": config.n_heads * config.head_dim,
            "hidden": 2 * config.d_ff,
            "normed": self._threads * config.d_model,
            "scores": self._threads * config.context_length,
        }
        self._buffers = {name: torch.empty(size) for name, size in sizes.items()}
        self._workspace = _Workspace(
            **{name: buffer.data_ptr() for name, buffer in self._buffers.items()}
        )
        self._logits = torch.empty(1, config.vocab_size)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`: one token, and a cache of one row."""
        self._decode(
            byref(self._weights.pointer), byref(CachePointer.of(cache)), byref(self._workspace),
            tokens[0], cache.longest, self._logits.data_ptr(), self._threads,
        )  # fmt: skip
        cache.advance(1)
        return self._logits
