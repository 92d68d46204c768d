"""Whether training a model fits into memory, before any of it is asked for.

What is counted is what training can't do without: the weights, their gradients, the optimizer's
moments, and what the forward pass must keep for the backward pass. The true need is higher, so
nothing that would fit is refused.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from minitx.config import ModelConfig
from minitx.config.options import options_of
from minitx.config.overrides import Overrides
from minitx.errors import BadInputError
from minitx.training.planning import planned_d_ff, planned_shape

_COMFORTABLE = 0.5
"""Part of the free memory that a proposed alternative counts on."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Workload:
    """Sequences of a pass, the bytes that the optimizer remembers of each parameter, and over how
    many devices weights, gradients and moments are shared out."""

    batch_size: int = 1
    state_bytes: int = 8
    parts: int = 1


def weight_bytes(model: ModelConfig, workload: Workload) -> int:
    """At least so many bytes for weights, their gradients, and what the optimizer remembers."""
    return model.n_parameters * (4 + 4 + workload.state_bytes) // workload.parts


def activation_bytes(model: ModelConfig, workload: Workload) -> int:
    """At least so many bytes that the backward pass needs, of 2 each; the logits of 4."""
    tokens = workload.batch_size * model.context_length
    block = 4 * model.d_model + 2 * model.d_ff
    return tokens * (2 * model.n_layers * block + 4 * model.vocab_size)


def free_memory() -> int | None:
    """Bytes that programs can still have; None where the system does not say."""
    sizes: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                sizes.append(int(line.split()[1]) * 1024)
    for name in _CGROUP_LIMITS:
        # A container may have less than the machine; "max" is no number.
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path(name).read_text()))
    if not sizes and hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=None)


def resident_bytes(peak: bool = False) -> int:
    """Bytes that this process has in memory, now or at most so far; 0 where nobody says."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:" if peak else "VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def refuse_too_large(given: Overrides) -> None:
    """Refuse sizes whose very weights are larger than the memory, before torch is loaded.

    Raises:
        BadInputError: with sizes that would fit.
    """
    if not {"n_layers", "d_model"} <= set(given):
        return
    model = planned_shape(given)
    what = f"the weights of {model.n_parameters:,} parameters take"
    _require(what, 4 * model.n_parameters, free_memory(), model, Workload())


def require_memory(model: ModelConfig, workload: Workload, free: int | None) -> None:
    """Refuse a run that can't fit into `free` bytes; None if they are unknown.

    Raises:
        BadInputError: with sizes that would fit.
    """
    what = (
        f"training {model.n_parameters:,} parameters with {workload.batch_size:,} x "
        f"{model.context_length:,} tokens at once takes at least"
    )
    _require(what, _needed(model, workload), free, model, workload)


def _needed(model: ModelConfig, workload: Workload) -> int:
    return weight_bytes(model, workload) + activation_bytes(model, workload)


def _require(
    what: str, needed: int, free: int | None, model: ModelConfig, workload: Workload
) -> None:
    if free is None or needed <= free:
        return
    flags = alternative(model, workload, free)
    raise BadInputError(
        f"{what} {_gigabytes(needed)} of memory, and {_gigabytes(free)} are free",
        f"This fits: {flags}" if flags else "Choose a smaller --vocab-size",
    )


def alternative(model: ModelConfig, workload: Workload, free: int) -> str:
    """Flags with which it fits into `free` bytes, as near to what was asked for as halving leads.

    For example ``--layers 12 --d-model 768``; empty if no size is small enough.
    """
    small, fewer = model, workload
    while _needed(small, fewer) > _COMFORTABLE * free:
        by_text = activation_bytes(small, fewer) > weight_bytes(small, workload)
        if by_text and fewer.batch_size > 1:
            fewer = replace(fewer, batch_size=fewer.batch_size // 2)
        elif by_text and small.context_length > 64:
            small = replace(small, context_length=small.context_length // 2)
        elif small.n_layers > 1 and small.n_layers * 64 >= small.d_model:
            small = replace(small, n_layers=small.n_layers // 2)
        elif small.d_model > 64 or small.d_ff > 256:
            # Heads of 64, as wide as they are in models of any size.
            width = max(64, small.d_model // 128 * 64)
            heads, d_ff = width // 64, planned_d_ff(width, small.architecture)
            small = replace(
                small, d_model=width, n_heads=heads, n_kv_heads=heads, head_dim=64, d_ff=d_ff
            )
        else:
            return ""
    flags = {
        option.flag: getattr(small, option.name)
        for option in options_of(ModelConfig)
        if getattr(small, option.name) != getattr(model, option.name)
    }
    if fewer != workload:
        flags["batch-size"] = fewer.batch_size
    return " ".join(f"--{flag} {value}" for flag, value in flags.items())


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:,.3g} GB" if n < 1e12 else f"{n / 1e9:,.0f} GB"
