"""The compiled kernels: one library for each processor family, built when minitx is installed.

They compute what plain formulas elsewhere say, in fewer passes over memory. Nothing depends on
them: where there was no C compiler, or with `MINITX_KERNELS=none`, `library` is None, and PyTorch
and NumPy compute the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitx.errors import BadInputError

KERNELS = Path(__file__).parent / "kernels"
"""Where their sources are, and the libraries that `hatch_build.py` makes of them."""

FAMILIES = ("plain", "avx2", "avx512", "avx512-bf16")
"""From what every processor of a kind has (SSE2 of x86-64, NEON of ARM64) upwards, as `processor.c`
counts them."""

_HIGHEST = FAMILIES[-1]
_OF_TORCH = {"default": "plain", "avx2": "avx2"}  # what ATEN_CPU_CAPABILITY limits torch to

_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "q": ctypes.c_int64,
    "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip

_ATTENTION = "pi pppp f lllll"
_KERNELS = {
    # decode.c, draw.c
    "decode_stride": "q > q",
    "decode_packed_size": "qqqq > q",
    "decode_pack": "ppp qqqq p i",
    "decode_room": "pq i > q",
    "decode_step": "ppppp q p q pp i",
    "draw": "p qqq p q f q ppp",
    # train_rows.c
    "norm_forward": "pipf ll pp ip i",
    "norm_backward": "ppi pp ll pip p i",
    "swiglu_forward": "pi ll p i",
    "swiglu_backward": "ppi ll p i",
    "loss_forward": "pip q ll ppp i > l",
    "loss_backward": "pip q ll pppp i",
    # train_attention.c
    "attention_scratch": "ll > l",
    "attention_forward": f"{_ATTENTION} ppp i",
    "attention_backward": f"{_ATTENTION} ppppppp i",
    # train_block.c, train_head.c, train_muon.c, for each format of products
    **{
        f"{name}_{dtype}": letters
        for dtype in ("float32", "bfloat16")
        for name, letters in {
            "block_kept": "p > l",
            "block_scratch": "pi > l",
            "blocks_forward": "pl",
            "blocks_backward": "pl",
            "head_scratch": "p > l",
            "head_loss": "p > l",
            "muon": "l pppppp ff p l fp i",
            "muon_scratch": "l pp > l",
        }.items()
    },
    # train_update.c
    "norms": "l ppp i",
    "scale": "l pp f i",
    "adamw": "l pppppp dddd p i",
}
"""What kernels take, in letters of `_TYPES`, and what some of them give back."""


def declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """A library of kernels, told what they take and give back."""
    for name, letters in _KERNELS.items():
        arguments, _, result = letters.replace(" ", "").partition(">")
        try:
            kernel = kernels[f"minitx_{name}"]
        except AttributeError:  # of a format that this family has no products of
            continue
        kernel.argtypes = [_TYPES[letter] for letter in arguments]
        kernel.restype = _TYPES.get(result)
        # Looked up by name each time, it would be another object, without the types.
        setattr(kernels, f"minitx_{name}", kernel)
    return kernels


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; None if there are none.

    They are those of the highest family that it has and that were built: nothing is measured.
    `MINITX_KERNELS` names another, or `none`.

    Raises:
        BadInputError: it names a family that there is not, or not here.
    """
    wanted = os.environ.get("MINITX_KERNELS") or "auto"
    if wanted not in ("auto", "none", *FAMILIES):
        raise BadInputError(
            f"MINITX_KERNELS={wanted} names no kernels", f"Set it to none, {', '.join(FAMILIES)}."
        )
    if wanted == "none":
        return None
    there = libraries()
    if wanted == "auto":
        limit = FAMILIES.index(_OF_TORCH.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), _HIGHEST))
        fitting = [there[name] for name in FAMILIES[: limit + 1] if name in there]
        return fitting[-1] if fitting else None
    if wanted not in there:
        raise BadInputError(
            f"MINITX_KERNELS={wanted}: this processor lacks that, or it was not compiled",
            f"Set it to {', '.join(('none', *there))}.",
        )
    return there[wanted]


def family() -> str:
    """The family of the kernels that are used, one of `FAMILIES`; `none` without kernels."""
    kernels = library()
    return "none" if kernels is None else Path(kernels._name).stem.removeprefix("kernels_")


@functools.cache
def libraries() -> dict[str, ctypes.CDLL]:
    """The kernels of each family that this processor can run and that was built, upwards."""
    _share_openmp()
    plain = _loaded("plain")
    count = 0 if plain is None else plain.minitx_processor() + 1
    loaded = {family: _loaded(family) for family in FAMILIES[:count]}
    return {family: kernels for family, kernels in loaded.items() if kernels is not None}


def _loaded(family: str) -> ctypes.CDLL | None:
    suffix = ".dll" if sys.platform == "win32" else ".so"
    try:
        loaded = ctypes.CDLL(str(KERNELS / f"kernels_{family}{suffix}"))
        version = loaded.minitx_abi()
    except (OSError, AttributeError):
        return None
    return declared(loaded) if version == ABI else None


def _share_openmp() -> None:
    # Kernels take OpenMP from whoever has brought it: one of their own beside torch's would have
    # threads of its own. torch has it under a name of its own, or takes the system's.
    spec = importlib.util.find_spec("torch")
    home = Path(spec.origin).parent if spec is not None and spec.origin else KERNELS
    places = ("lib/libgomp*", "lib/libomp*", "../torch.libs/libgomp*")
    own = [str(path) for place in places for path in home.glob(place)]
    for name in (*own, "libgomp.so.1"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return


def loaded_kernels() -> ctypes.CDLL:
    """The library, which must be there."""
    kernels = library()
    assert kernels is not None
    return kernels


def kernel_for(name: str, dtype: torch.dtype) -> Any:
    """The kernel with this name for products of a format."""
    return getattr(loaded_kernels(), f"minitx_{name}_{str(dtype).removeprefix('torch.')}")


def team_size() -> int:
    """Threads that go through one call: as many as torch has, up to `MOST_THREADS` in team.h."""
    return min(torch.get_num_threads(), 64)


def call(name: str, *arguments: Any, threads: int | None = None) -> Any:
    """Call a training kernel, whose last argument is how many threads; as many as torch has."""
    kernel = getattr(loaded_kernels(), f"minitx_{name}")
    return kernel(*map(as_c, arguments), threads or torch.get_num_threads())


def as_c(argument: Any) -> Any:
    """What a kernel takes for an argument: the address of a tensor, an array of the addresses or
    numbers in a list, and for a format whether it is bfloat16; else the argument.
    """
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, torch.dtype):
        return argument == torch.bfloat16
    if isinstance(argument, Sequence):
        if argument and isinstance(argument[0], Tensor):  # of many, in each step
            numbers = [each.data_ptr() for each in argument]
            return (ctypes.c_int64 * len(numbers))(*numbers)
        numbers = [as_c(each) for each in argument]
        is_float = bool(numbers) and isinstance(numbers[0], float)
        kind = ctypes.c_float if is_float else ctypes.c_int64
        return (kind * len(numbers))(*numbers)
    return argument


def pointers(*names: str) -> list[tuple[str, type]]:
    """Fields of a structure that are pointers."""
    return [(name, ctypes.c_void_p) for name in names]


ABI = 14
"""Raised when a kernel's arguments change, so that an older library is not called."""

LONGEST_ROW = 16_384
"""Numbers in a row of a training step: a kernel keeps a few rows on its stack."""


@functools.cache
def has_bfloat16_products() -> bool:
    """Whether there are kernels for the processor's own products of bfloat16."""
    kernels = library()
    return kernels is not None and bool(kernels.minitx_bfloat16_products())
