"""One token of each of several texts through the model in a single call, `kernels/batch.c`.

Some thirty rows are too few for a general product, which first brings the weights into an order
that suits it; here they are kept in that order.
"""

from __future__ import annotations

import ctypes
import functools
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
from minitx.fast.library import library
from minitx.model import Transformer
from minitx.model.transformer import SwiGLU


class _Kernels:
    # The functions of kernels/batch.c.
    def __init__(self, library: ctypes.CDLL) -> None:
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        model = ctypes.POINTER(ModelPointer)
        self.stride = library.minitx_batch_stride
        self.packed_size = library.minitx_batch_packed_size
        self.pack = library.minitx_batch_pack
        self.room = library.minitx_batch_room
        self.step = library.minitx_batch_step
        self.stride.restype = self.packed_size.restype = self.room.restype = integer
        self.pack.restype = self.step.restype = None
        self.stride.argtypes = [integer]
        self.packed_size.argtypes = [integer, integer, integer]
        self.pack.argtypes = [pointer, pointer, integer, integer, integer, pointer]
        self.room.argtypes = [model, integer, ctypes.c_int]
        self.step.argtypes = [
            model, ctypes.POINTER(CachePointer), pointer, pointer, integer, pointer, pointer,
            ctypes.c_int,
        ]  # fmt: skip


_kernels_of = functools.cache(_Kernels)


def _kernels() -> _Kernels:
    kernels = library()
    assert kernels is not None
    return _kernels_of(kernels)


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
        self._kernels.pack(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), rows, columns,
            linear in self._gated, packed.data_ptr(),
        )  # fmt: skip
        return MatrixPointer(packed.data_ptr(), None, None, rows, columns)

    def _size(self, linear: nn.Linear) -> int:
        size: int = self._kernels.packed_size(*linear.weight.shape, linear in self._gated)
        return size


class BatchDecoder:
    """Reads one token at a time of each of several texts.

    Args:
        model: whose weights must stay as they are from now on.
    """

    def __init__(self, model: Transformer) -> None:
        self._kernels = _kernels()
        self._weights = weights_of(model, PackedWeights)
        self._vocab_size = model.config.vocab_size
        self._room = torch.empty(0)
        self._logits = torch.empty(0, 0)

    def feed(self, tokens: Sequence[int], cache: DecodingCache) -> Tensor:
        """See `Decoder.feed`."""
        rows, model, threads = len(tokens), self._weights.pointer, torch.get_num_threads()
        room = self._kernels.room(model, rows, threads)
        if len(self._room) < room or len(self._logits) < rows:
            self._room = aligned_zeros(room)
            self._logits = torch.empty(rows, self._kernels.stride(self._vocab_size))
        ids = np.array(tokens, np.int64)
        self._kernels.step(
            model,
            CachePointer.of(cache),
            ids.ctypes.data,
            cache.lengths.data_ptr(),
            rows,
            self._room.data_ptr(),
            self._logits.data_ptr(),
            threads,
        )
        cache.advance(1)
        return self._logits[:rows, : self._vocab_size]
