"""Tokens of one text or several through the model in a single call, `kernels/decode.c`: one of
each, or prompts.

Weights are kept in the order in which the kernel reads them, those that `quantize` rounded in their
small format.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import byref, c_int64
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minitx.compute import aligned_zeros
from minitx.fast.decode_weights import (
    CachePointer,
    DecodingCache,
    DecodingWeights,
    MatrixPointer,
    weights_of,
)
from minitx.fast.library import loaded_kernels
from minitx.fast.quantized import QuantizedMatrix, quantized_matrices
from minitx.model import Transformer
from minitx.model.transformer import SwiGLU

_TOKENS_AT_ONCE = 256
"""Of prompts in one call: enough for the products to run at full speed, in little memory."""

_BYTES_FOR_A_THREAD = 2**18
"""Of weights, once for each token: with fewer, threads would mostly wait for each other."""

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


class PackedWeights(DecodingWeights):
    """Weights of a model in the order in which the kernel reads them, side by side; a token reads
    `n_bytes` of them.
    """

    def __init__(self, model: Transformer) -> None:
        self._kernels = loaded_kernels()
        self._gated = {part.gate_up for part in model.modules() if isinstance(part, SwiGLU)}
        small = quantized_matrices(model)
        linears = {
            f"{path}.weight": part
            for path, part in model.named_modules()
            if isinstance(part, nn.Linear)
        }
        self._matrices = {
            name: small.get(name) or QuantizedMatrix(part.weight.detach().contiguous())
            for name, part in linears.items()
        }
        self.n_bytes = sum(self._size(name, part) for name, part in linears.items())
        self._free = aligned_zeros(self.n_bytes)
        super().__init__(model)
        del self._matrices

    def matrix(self, name: str, linear: nn.Linear) -> MatrixPointer:
        """See `DecodingWeights`."""
        matrix, size = self._matrices[name], self._size(name, linear)
        weights, scale = matrix.weights, matrix.scale
        packed, self._free = self._free[:size], self._free[size:]
        (rows, columns), number_format = weights.shape, _FORMATS[weights.dtype]
        self._kernels.minitx_decode_pack(
            weights.data_ptr(), None if scale is None else scale.data_ptr(),
            self.keep(linear.bias), rows, columns, number_format, linear in self._gated,
            packed.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return MatrixPointer(self.keep(packed), rows, columns, number_format)

    def _size(self, name: str, linear: nn.Linear) -> int:
        weights = self._matrices[name].weights
        size: int = self._kernels.minitx_decode_packed_size(
            *weights.shape, _FORMATS[weights.dtype], linear in self._gated
        )
        return size


class NativeDecoder:
    """Reads tokens of one text or several; the weights must stay as they are.

    A text has the same numbers whichever texts are beside it, and however many threads share the
    work; None takes as many as pay.
    """

    def __init__(self, model: Transformer, threads: int | None = None) -> None:
        self._kernels = loaded_kernels()
        self._weights = weights_of(model, PackedWeights)
        self._model = byref(self._weights.pointer)
        self._vocab_size, self._threads = model.config.vocab_size, threads
        self._sizes = (0, 0, 0)
        self._room = self._logits = torch.empty(0, 0)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`."""
        count = len(tokens)
        rows = _numbers_up_to(count)
        # Their lengths are the places that the tokens take.
        logits = self._step(
            (c_int64 * count)(*tokens), cache.lengths.data_ptr(), rows, count, rows, count, cache
        )
        cache.advance(1)
        return logits

    def read(self, texts: Sequence[Sequence[int]], cache: DecodingCache) -> Tensor:
        """See `Decoder.read`."""
        lengths = np.array([len(text) for text in texts])
        starts = np.cumsum(lengths) - lengths
        tokens = np.concatenate([np.array(text, np.int64) for text in texts])
        rows = np.repeat(np.arange(len(texts)), lengths)
        positions = np.arange(len(tokens)) + (cache.lengths.numpy() - starts)[rows]
        last = starts + lengths - 1
        logits = torch.empty(len(texts), self._vocab_size)
        for start in range(0, len(tokens), _TOKENS_AT_ONCE):
            part = slice(start, start + _TOKENS_AT_ONCE)
            ends = (last >= part.start) & (last < part.stop)
            asked = last[ends] - start
            logits[torch.from_numpy(ends)] = self._step(
                tokens[part].ctypes.data, positions[part].ctypes.data, rows[part].ctypes.data,
                len(tokens[part]), asked.ctypes.data, len(asked), cache,
            )  # fmt: skip
        cache.advance(torch.from_numpy(lengths))
        return logits

    def _step(
        self, tokens: Any, positions: Any, rows: Any, count: int, wanted: Any, n_wanted: int,
        cache: DecodingCache,
    ) -> Tensor:  # fmt: skip
        # Logits after the tokens whose numbers are `wanted`, overwritten by the next call. What is
        # looked up here is looked up for each token, so it is little.
        most = self._threads or torch.get_num_threads()
        if self._sizes != (count, n_wanted, most):
            self._make_room(count, n_wanted, most)
        self._kernels.minitx_decode_step(
            self._model, byref(CachePointer.of(cache)), tokens, positions, rows, count, wanted,
            n_wanted, *self._pointers, self._working,
        )  # fmt: skip
        return self._shown

    def _make_room(self, count: int, n_wanted: int, most_threads: int) -> None:
        pay = count * self._weights.n_bytes // _BYTES_FOR_A_THREAD
        self._working = self._threads or max(1, min(most_threads, pay))
        room = self._kernels.minitx_decode_room(self._model, count, self._working)
        if len(self._room) < room or len(self._logits) < n_wanted:
            stride = self._kernels.minitx_decode_stride(self._vocab_size)
            self._room, self._logits = aligned_zeros(room), torch.empty(n_wanted, stride)
        self._pointers = self._room.data_ptr(), self._logits.data_ptr()
        self._shown = self._logits[:n_wanted, : self._vocab_size]
        self._sizes = (count, n_wanted, most_threads)


@functools.cache
def _numbers_up_to(count: int) -> Any:
    return (c_int64 * count)(*range(count))
