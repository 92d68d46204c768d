"""A draw for each row of logits in one call of a kernel, `kernels/draw.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from minitx.fast.library import library


class DrawKernel:
    """Draws where temperature and top-k are all that shapes a distribution; never `silent` ids."""

    def __init__(self, kernels: ctypes.CDLL, silent: Sequence[int], vocab_size: int) -> None:
        self._draw = kernels.minitx_draw
        self._size = vocab_size
        self._silent, self._room = np.array(silent, np.int64), np.empty(2 * vocab_size)
        # Read once: a pointer is looked up as slowly as a small product is computed.
        self._silent_pointer, self._room_pointer = self._silent.ctypes.data, self._room.ctypes.data

    def __call__(
        self, logits: Tensor, temperature: float, top_k: int | None, numbers: Sequence[float]
    ) -> list[int]:
        """Draw a token in each row: those that `filters.reshape` and `draws.draw` choose.

        Args:
            logits: `(rows, vocab_size)` on the CPU, in float32.
            temperature: 0 takes the likeliest.
            top_k: None for no such cut.
            numbers: one from [0, 1) for each row; not read at temperature 0.
        """
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        rows = logits.size(0)
        chosen = (ctypes.c_int64 * rows)()
        self._draw(
            logits.data_ptr(), rows, logits.stride(0), self._size, self._silent_pointer,
            len(self._silent), temperature, top_k or 0, (ctypes.c_double * rows)(*numbers),
            self._room_pointer, chosen,
        )  # fmt: skip
        return chosen[:]


def draw_kernel(silent: Sequence[int], vocab_size: int) -> DrawKernel | None:
    """What draws in one call; None if no kernels were compiled."""
    kernels = library()
    return None if kernels is None else DrawKernel(kernels, silent, vocab_size)
