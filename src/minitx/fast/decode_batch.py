"""One token of each of several texts through the model in a single call, `kernels/batch.c`.

Some thirty rows are too few for a general product, which first brings the weights into an order
that suits it; here they are kept in that order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from minitx.compute import aligned_zeros
from minitx.fast.decode_weights import (
    CachePointer,
    DecodingCache,
    DecodingWeights,
    MatrixPointer,
    ModelPointer,
    weights_of,
)
from minitx.fast.library import Arguments, declare, library
from minitx.model import Transformer
from minitx.model.transformer import SwiGLU

_INTEGER, _POINTER, _MODEL = ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ModelPointer)
_ARGUMENTS: Arguments = {
    "batch_stride": [_INTEGER],
    "batch_packed_size": [_INTEGER] * 3,
    "batch_pack": [*[_POINTER] * 2, *[_INTEGER] * 3, _POINTER],
    "batch_room": [_MODEL, _INTEGER, ctypes.c_int],
    "batch_step": [
        _MODEL, ctypes.POINTER(CachePointer), *[_POINTER] * 2, _INTEGER, *[_POINTER] * 2,
        ctypes.c_int,
    ],
}  # fmt: skip


def _kernels() -> ctypes.CDLL:
    sizes = dict.fromkeys(("batch_stride", "batch_packed_size", "batch_room"), _INTEGER)
    return declare(library(), _ARGUMENTS, **sizes)


class PackedWeights(DecodingWeights):
    """Weights of a model in the order in which the kernel reads them, side by side."""

    def __init__(self, model: Transformer) -> None:
        self._kernels = _kernels()
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
    """Reads one token at a time of each of several texts; the weights must stay as they are."""

    def __init__(self, model: Transformer) -> None:
        self._kernels = _kernels()
        self._weights = weights_of(model, PackedWeights)
        self._vocab_size = model.config.vocab_size
        self._room = torch.empty(0)
        self._logits = torch.empty(0, 0)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`."""
        rows, model, threads = len(tokens), self._weights.pointer, torch.get_num_threads()
        room = self._kernels.minitx_batch_room(model, rows, threads)
        if len(self._room) < room or len(self._logits) < rows:
            stride = self._kernels.minitx_batch_stride(self._vocab_size)
            self._room = aligned_zeros(room)
            self._logits = torch.empty(rows, stride)
        ids = np.array(tokens, np.int64)
        self._kernels.minitx_batch_step(
            model, CachePointer.of(cache), ids.ctypes.data, cache.lengths.data_ptr(), rows,
            self._room.data_ptr(), self._logits.data_ptr(), threads,
        )  # fmt: skip
        cache.advance(1)
        return self._logits[:rows, : self._vocab_size]
