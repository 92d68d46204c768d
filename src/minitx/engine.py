"""Where the fast room is entered: what computes a model, and why.

Everything above asks here. Where `minitx.fast` is gone, or does not know a model, the plain model
is run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitx.compute import Compute, EngineChoice, LossFunction
from minitx.config import ModelConfig
from minitx.config.train_config import EngineName
from minitx.errors import BadInputError
from minitx.files import file_digest
from minitx.model import Transformer

COMPILE_FROM_SECONDS = 120.0
"""Shortest run on a GPU for which torch.compile earns back what it takes; on a CPU it does for none
that is planned."""


def choose_engine(
    model: Transformer,
    compute: Compute,
    engine: str = "auto",
    recompute: bool = False,
    shard: bool = False,
) -> EngineChoice:
    """What `loss_function` computes a model with, if a certain `EngineName` is asked for.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used, or `recompute` for a
            model of one's own.
    """
    if recompute and not hasattr(model, "blocks"):
        raise BadInputError("--recompute knows no blocks in this model", "Leave it out")
    if recompute:
        return EngineChoice("plain", "it computes blocks again on the way back (--recompute)")
    if shard:
        return EngineChoice("plain", "each process has some rows of each parameter (--shard)")
    if compute.dtype == torch.float16:
        return EngineChoice("plain", "it scales the loss before the backward pass (float16)")
    choice: EngineChoice | None = _ask_fast("choose_engine", model, compute, engine)
    return choice or EngineChoice("plain", "minitx.fast is not installed")


def plan_engine(device: torch.device, seconds: float) -> EngineName:
    """The engine to ask for in a run that trains for so long, where a person did not."""
    pays = device.type == "cuda" and seconds >= COMPILE_FROM_SECONDS
    fast = fast_room()
    return "torch-compile" if pays and fast is not None and fast.can_compile(device) else "auto"


def loss_function(
    model: Transformer, compute: Compute, engine: str = "auto", recompute: bool = False
) -> LossFunction:
    """The training loss of a model, by the engine of `choose_engine`.

    With `recompute`, only what enters each block is kept for the way back.

    Raises:
        BadInputError: as there.
    """
    faster: LossFunction | None = None
    if not recompute and compute.dtype != torch.float16:
        faster = _ask_fast("loss_function", model, compute, engine)

    def plain_loss(ids: Tensor, targets: Tensor) -> Tensor:
        with compute.autocast(), _recomputed(model) if recompute else contextlib.nullcontext():
            return model.loss(ids, targets)

    return faster or plain_loss


@contextlib.contextmanager
def _recomputed(model: Transformer) -> Iterator[None]:
    # From outside, so that a model that was changed is computed as it is. Each block's random
    # numbers are drawn again, too.
    from torch.utils.checkpoint import checkpoint

    patched = [vars(block).get("forward") for block in model.blocks]
    for block in model.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block, own in zip(model.blocks, patched, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def decoder(model: Transformer) -> Any:
    """`minitx.fast.decoder`: None where the model itself must be run."""
    return _ask_fast("decoder", model)


def draw_kernel(silent: Sequence[int], vocab_size: int) -> Any:
    """`minitx.fast.draw_kernel`; None if there is none."""
    return _ask_fast("draw_kernel", silent, vocab_size)


def quantize(model: Transformer, weight_format: str) -> None:
    """Round a model's matrices to `int8` or `bfloat16`, in place.

    Raises:
        BadInputError: there is no such format, or `minitx.fast` was deleted.
    """
    fast = fast_room()
    if fast is None:
        raise BadInputError(
            "weights can't be rounded to fewer bits: this minitx has no `fast` folder",
            "Leave out --quantize and --dtype bfloat16, or install minitx again",
        )
    fast.quantize(model, weight_format)


def native_bytes(config: ModelConfig, batch: int, dtype: torch.dtype) -> Any:
    """`minitx.fast.native_bytes`; None where the plain model computes."""
    return _ask_fast("native_bytes", config, batch, dtype)


def update_kernels(tensors: Iterable[Tensor]) -> Any:
    """The compiled updates of `minitx.fast.optimizer`; None where torch must update these."""
    fast = fast_room()
    return fast.optimizer if fast is not None and fast.optimizer.can_update(tensors) else None


def kernel_build() -> tuple[str, str]:
    """The processor family of the compiled kernels that compute here, and which build they are.

    For example `avx2` and ``8, build 1f0c2a9b``; both are `none` where there are none.
    """
    fast = fast_room()
    library = None if fast is None else fast.library.library()
    if fast is None or library is None:
        return "none", "none"
    build = file_digest(Path(library._name))[:8]
    return fast.library.family(), f"{fast.library.ABI}, build {build}"


def fast_room() -> Any:
    """The package `minitx.fast`; None where it is gone."""
    try:
        import minitx.fast as fast
    except ModuleNotFoundError as error:
        if error.name != "minitx.fast":
            raise
        return None
    return fast


def _ask_fast(function: str, *arguments: Any) -> Any:
    fast = fast_room()
    return None if fast is None else getattr(fast, function)(*arguments)
