"""Random draws by number: the draw of a sample at a position is the same in any batch.

A generator with a state would give a sample other numbers when another sample is drawn beside it.
Here the number is a hash of seed, sample and position.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minitx.fast.library import library
from minitx.model.matrices import Array

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def source(seed: int, sample: int) -> int:
    """What all numbers of a continuation follow from.

    Args:
        seed: of the whole.
        sample: which continuation.
    """
    return _mix(_mix(seed + _GOLDEN) ^ (sample * _GOLDEN + 1) & _MASK)


def number(of: int, position: int) -> float:
    """A number from [0, 1), with 53 random bits.

    Args:
        of: the continuation's `source`.
        position: which new token of it.
    """
    return (_mix(of ^ (position * _GOLDEN + 2) & _MASK) >> 11) / 2**53


def draw(logits: Tensor, numbers: Sequence[float]) -> list[int]:
    """Draw a token in each row.

    The distribution is laid out along a line in the order of ids, in double precision, and the
    row's number points at a token.

    Args:
        logits: `(rows, vocab_size)`; minus infinity rules a token out.
        numbers: one from [0, 1) for each row.

    Returns:
        An id for each row.
    """
    if logits.is_cpu:
        return draw_from_array(logits.numpy(), numbers)
    # How long the line is does not matter: numbers are taken as parts of it.
    wide = logits.double()
    cumulative = (wide - wide.amax(dim=-1, keepdim=True)).exp_().cumsum(dim=-1)
    points = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    points = points * cumulative[:, -1:]
    chosen: list[int] = torch.searchsorted(cumulative, points, right=True)[:, 0].tolist()
    return chosen


def draw_from_array(logits: Array, numbers: Sequence[float]) -> list[int]:
    """`draw`, of an array: NumPy's small operations take less time than torch's."""
    lines = logits.astype(np.float64)
    np.subtract(lines, np.maximum.reduce(lines, axis=1, keepdims=True), out=lines)
    np.exp(lines, out=lines)
    np.add.accumulate(lines, axis=1, out=lines)
    return [
        int(line.searchsorted(one * line[-1], side="right"))
        for line, one in zip(lines, numbers, strict=True)
    ]


class PlainDraw:
    """Draws where temperature and top-k are all that shapes the distribution.

    The tokens that `reshape` and `draw` choose, in less time: by a compiled kernel, or NumPy.

    Args:
        silent: ids that are never drawn.
        vocab_size: of the logits.
    """

    def __init__(self, silent: Sequence[int], vocab_size: int) -> None:
        self._silent = np.array(silent, np.int64)
        self._size = vocab_size
        self._kernel = _kernel()
        self._room = np.empty(2 * vocab_size)
        # Read once: a pointer is looked up as slowly as a small product is computed.
        self._silent_at, self._room_at = self._silent.ctypes.data, self._room.ctypes.data

    def __call__(
        self, logits: Tensor, temperature: float, top_k: int | None, numbers: Sequence[float]
    ) -> list[int]:
        """Draw a token in each row.

        Args:
            logits: `(rows, vocab_size)` on the CPU, in float32 or float64.
            temperature: 0 takes the likeliest.
            top_k: None for no such cut.
            numbers: one from [0, 1) for each row; not read at temperature 0.
        """
        if self._kernel is None or logits.dtype != torch.float32 or logits.stride(1) != 1:
            return self._by_array(logits.numpy().copy(), temperature, top_k, numbers)
        rows = logits.size(0)
        chosen = (ctypes.c_int64 * rows)()
        self._kernel(
            logits.data_ptr(), rows, logits.stride(0), self._size, self._silent_at,
            len(self._silent), temperature, top_k or 0, (ctypes.c_double * rows)(*numbers),
            self._room_at, chosen,
        )  # fmt: skip
        return chosen[:]

    def _by_array(
        self, logits: Array, temperature: float, top_k: int | None, numbers: Sequence[float]
    ) -> list[int]:
        logits[:, self._silent] = -np.inf
        if temperature == 0.0:
            greedy: list[int] = logits.argmax(axis=1).tolist()
            return greedy
        if temperature != 1.0:
            logits /= temperature
        if top_k is not None and top_k < self._size:
            at = self._size - top_k
            logits[logits < np.partition(logits, at, axis=1)[:, at, None]] = -np.inf
        return draw_from_array(logits, numbers)


def _kernel() -> Callable[..., None] | None:
    compiled = library()
    if compiled is None:
        return None
    kernel = compiled.minitx_draw
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    kernel.argtypes = [
        pointer, integer, integer, integer, pointer, integer, ctypes.c_float, integer, pointer,
        pointer, pointer,
    ]  # fmt: skip
    kernel.restype = None
    return kernel


def _mix(z: int) -> int:
    # The finalizer of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
    z &= _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
