"""Where a model computes and in which number format."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from minitx.config.checks import require_one_of
from minitx.config.train_config import DeviceName, EngineName, TrainDTypeName
from minitx.errors import BadInputError

_FAST_BFLOAT16 = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
"""What `torch.cpu` is asked: with either, bfloat16 products take less than two thirds of the time
that float32 ones do; without, or where torch is held to AVX2, a CPU imitates them."""

_MATRIX = 768

# Of malloc.h: buffers from this size on are mapped one by one; free memory at the end of the heap
# beyond this size is given back.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST_KEPT = 2**30
_CACHE_LINE = 64
_OWN_PAGES_FROM = 1 << 20


@dataclass(frozen=True)
class Compute:
    """A device and the format of its matrix products: torch's float32, bfloat16 or float16.

    Weights stay in float32.
    """

    device: torch.device
    dtype: torch.dtype

    @property
    def device_name(self) -> DeviceName:
        """`cpu`, `cuda` or `mps`."""
        return cast(DeviceName, self.device.type)

    @property
    def dtype_name(self) -> TrainDTypeName:
        """`float32`, `bfloat16` or `float16`."""
        return cast(TrainDTypeName, str(self.dtype).removeprefix("torch."))

    @property
    def description(self) -> str:
        """For people, for example ``cpu (2 threads)``."""
        if self.device.type == "cuda":
            return f"cuda ({torch.cuda.get_device_name(self.device)})"
        if self.device.type == "cpu":
            n = torch.get_num_threads()
            return f"cpu ({n} thread{'s' if n != 1 else ''})"
        return self.device.type

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix products run in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@dataclass(frozen=True)
class EngineChoice:
    """What computes a model in training, and why: `plain`, the model's own code; `native` or
    `torch-compile`, the fast room.
    """

    engine: EngineName
    reason: str


LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Ids and targets `(B, T)` to the mean loss in nats, a scalar that gradients flow from."""


def choose_device(name: DeviceName | str) -> torch.device:
    """The device of that name; of `auto`, the first of cuda, mps, cpu that works.

    Raises:
        BadInputError: this machine, or this build of torch, lacks it.
    """
    require_one_of("device", name, get_args(DeviceName))
    has_mps = torch.backends.mps.is_available()
    available = {"cuda": torch.cuda.is_available(), "mps": has_mps, "cpu": True}
    if name == "auto":
        name = next(kind for kind in available if available[kind])
    if not available[name]:
        raise BadInputError(
            f"device {name} is not available on this machine", "Use --device auto, or --device cpu"
        )
    return torch.device(name)


def choose_dtype(name: TrainDTypeName | str, device: torch.device) -> torch.dtype:
    """The format of that name; of `auto`, bfloat16 on a processor whose products it makes faster.

    On a GPU that lacks it, that is float16.

    Nothing is measured, so a busy machine chooses the same.

    Raises:
        BadInputError: there is no such format, or the device lacks it.
    """
    require_one_of("dtype", name, get_args(TrainDTypeName))
    if name in ("float32", "float16"):
        return torch.float32 if name == "float32" else torch.float16
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bfloat16":
        if not has_bfloat16:
            raise BadInputError(
                f"{device.type} on this machine does not compute in bfloat16", "Use --dtype float16"
            )
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if has_bfloat16 else torch.float16
    is_fast = False
    if device.type == "cpu":
        wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
        is_fast = wide and any(getattr(torch.cpu, name, bool)() for name in _FAST_BFLOAT16)
    return torch.bfloat16 if is_fast else torch.float32


def choose_compute(device: str, dtype: str, threads: int = 0) -> Compute:
    """A device and a format of those names; torch then works on so many threads, if not on 0.

    Raises:
        BadInputError: as in `choose_device` and `choose_dtype`.
    """
    where = choose_device(device)
    # Also to what torch takes anyway: that it was ever set changes how some libraries divide work.
    torch.set_num_threads(threads or torch.get_num_threads())
    return Compute(where, choose_dtype(dtype, where))


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was given: it works on its own, and a clock would be read too soon."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.06) -> float:
    """Measure the rate of matrix products, in floating-point operations a second.

    The best of several short trials: whatever else the machine does can only slow one down.
    """
    a = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    b = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    best, began, trials = float("inf"), time.perf_counter(), 0
    while trials < 4 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        # The first product pays for choosing a kernel.
        best = min(best, time.perf_counter() - start) if trials else best
        trials += 1
    return 2.0 * _MATRIX**3 / best


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, instead of giving it back at once.

    A training step frees and allots the same buffers again. glibc hands large ones back to the
    system, which clears every page when they come again: about a tenth of a small model's step.
    False where the C library is not glibc, and has no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _LARGEST_KEPT))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def aligned_zeros(n_bytes: int) -> Tensor:
    """Bytes that begin with a cache line, so that few vectors lie across two, `(n_bytes,)` uint8.

    They take no time and no memory until they are written to. Large ones lie in large pages where
    the system has them, and go back to it as soon as nobody holds them.
    """
    if n_bytes >= _OWN_PAGES_FROM and hasattr(mmap, "MAP_ANONYMOUS"):
        # The allocator would keep pieces of stores that grow and go for later.
        pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                pages.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pages, dtype=torch.uint8)
    raw = np.zeros(n_bytes + _CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % _CACHE_LINE
    return torch.from_numpy(raw[first : first + n_bytes])
