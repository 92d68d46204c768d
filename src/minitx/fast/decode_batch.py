"""Tokens of several texts through the model in a single call, `kernels/batch.c`: one of each, or
prompts.

Some thirty rows are too few for a general product, which first brings the weights into an order
that suits it; here they are kept in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref

import numpy as np
import numpy.typing as npt
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
from minitx.model import Transformer
from minitx.model.transformer import SwiGLU

_TOKENS_AT_ONCE = 256
"""Of prompts in one call: enough for the products to run at full speed, in little memory."""

_Integers = npt.NDArray[np.int64]


class PackedWeights(DecodingWeights):
    """Weights of a model in the order in which the kernel reads them, side by side."""

    def __init__(self, model: Transformer) -> None:
        self._kernels = loaded_kernels()
        parts = list(model.modules())
        self._gated = {part.gate_up for part in parts if isinstance(part, SwiGLU)}
        size = sum(self._size(part) for part in parts if isinstance(part, nn.Linear))
        self._packed = self._free = aligned_zeros(4 * size).view(torch.float32)
        super().__init__(model)

    def matrix(self, name: str, linear: nn.Linear) -> MatrixPointer:
        """See `DecodingWeights`."""
        rows, columns = linear.weight.shape
        size = self._size(linear)
        packed, self._free = self._free[:size], self._free[size:]
        weight = linear.weight.detach().contiguous()
        bias = None if linear.bias is None else linear.bias.detach().contiguous()
        self._kernels.minitx_batch_pack(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), rows, columns,
            linear in self._gated, packed.data_ptr(),
        )  # fmt: skip
        return MatrixPointer(packed.data_ptr(), None, None, rows, columns)

    def _size(self, linear: nn.Linear) -> int:
        is_gated = linear in self._gated
        size: int = self._kernels.minitx_batch_packed_size(*linear.weight.shape, is_gated)
        return size


class BatchDecoder:
    """Reads tokens of several texts; the weights must stay as they are."""

    def __init__(self, model: Transformer) -> None:
        self._kernels = loaded_kernels()
        self._weights = weights_of(model, PackedWeights)
        self._vocab_size = model.config.vocab_size
        self._room = torch.empty(0)
        self._logits = torch.empty(0, 0)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`."""
        rows = np.arange(len(tokens))
        logits = self._step(np.array(tokens, np.int64), cache.lengths.numpy(), rows, rows, cache)
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
            logits[torch.from_numpy(ends)] = self._step(
                tokens[part], positions[part], rows[part], last[ends] - start, cache
            )
        cache.advance(torch.from_numpy(lengths))
        return logits

    def _step(
        self,
        tokens: _Integers,
        positions: _Integers,
        rows: _Integers,
        wanted: _Integers,
        cache: DecodingCache,
    ) -> Tensor:
        # Logits after the tokens whose numbers are `wanted`, overwritten by the next call.
        count, model, threads = len(tokens), byref(self._weights.pointer), torch.get_num_threads()
        room = self._kernels.minitx_batch_room(model, count, threads)
        if len(self._room) < room or len(self._logits) < len(wanted):
            stride = self._kernels.minitx_batch_stride(self._vocab_size)
            self._room = aligned_zeros(room)
            self._logits = torch.empty(len(wanted), stride)
        self._kernels.minitx_batch_step(
            model, byref(CachePointer.of(cache)), tokens.ctypes.data, positions.ctypes.data,
            rows.ctypes.data, count, wanted.ctypes.data, len(wanted), self._room.data_ptr(),
            self._logits.data_ptr(), threads,
        )  # fmt: skip
        return self._logits[: len(wanted), : self._vocab_size]
