"""The compiled kernels: one library for each processor family, built when minitx is installed.

They compute what plain formulas elsewhere say, in fewer passes over memory. Nothing depends on
them: where there was no C compiler, or with `MINITX_NATIVE=0`, `library` is None, and PyTorch and
NumPy compute the same.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

KERNELS = Path(__file__).parent / "kernels"
"""Where their sources are, and the libraries that `hatch_build.py` makes of them."""

_FAMILIES = {"AVX512": "avx512", "AVX2": "avx2"}


def family() -> str:
    """The family of this processor: `avx512`, `avx2`, or `plain` for any other."""
    return _FAMILIES.get(torch.backends.cpu.get_cpu_capability(), "plain")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; None if there are none."""
    if os.environ.get("MINITX_NATIVE") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(KERNELS / f"kernels_{family()}.so"))
        version = loaded.minitx_abi
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.c_int
    return loaded if version() == ABI else None


Arguments = Mapping[str, Sequence[Any]]
"""The types that kernels take, by their names without `minitx_`."""


def declare(kernels: ctypes.CDLL | None, arguments: Arguments, **results: Any) -> ctypes.CDLL:
    """Say of a library, which must be there, what kernels take and what some of them give back."""
    assert kernels is not None
    for name, types in arguments.items():
        kernel = kernels[f"minitx_{name}"]
        kernel.argtypes, kernel.restype = types, results.get(name)
        # Looked up by name each time, it would be another object, without the types.
        setattr(kernels, f"minitx_{name}", kernel)
    return kernels


def pointers(*names: str) -> list[tuple[str, type]]:
    """Fields of a structure that are pointers."""
    return [(name, ctypes.c_void_p) for name in names]


ABI = 8
"""Raised when a kernel's arguments change, so that an older library is not called."""

LONGEST_ROW = 16_384
"""Numbers in a row of a training step: a kernel keeps a few rows on its stack."""


@functools.cache
def has_bfloat16_products() -> bool:
    """Whether this processor multiplies bfloat16, and there are kernels for it."""
    kernels = library()
    return kernels is not None and bool(kernels.minitx_bfloat16_products())
