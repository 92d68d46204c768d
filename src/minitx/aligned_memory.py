"""Memory on the CPU that vectors read well: it begins with a cache line, in large pages."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

_CACHE_LINE = 64
_OWN_PAGES_FROM = 1 << 20


def aligned_zeros(n_bytes: int) -> Tensor:
    """Bytes that begin with a cache line, so that few vectors lie across two, `(n_bytes,)` uint8.

    They take no time and no memory until they are written to. Large ones lie in large pages where
    the system has them, and go back to it as soon as nobody holds them.
    """
    if n_bytes >= _OWN_PAGES_FROM and hasattr(mmap, "MAP_ANONYMOUS"):
        # The allocator would keep pieces of stores that grow and go for later.
        pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):
                pages.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pages, dtype=torch.uint8)
    raw = np.zeros(n_bytes + _CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % _CACHE_LINE
    return torch.from_numpy(raw[first : first + n_bytes])
