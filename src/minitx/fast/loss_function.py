"""Door 1: the training loss of a model, computed the fastest way that knows the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from minitx.compute import Compute, EngineChoice
from minitx.errors import BadInputError
from minitx.fast import blocks, head, layers, support
from minitx.fast.cuda_graph import RecordedLoss
from minitx.fast.library import family
from minitx.fast.torch_compile import CompiledLoss, can_compile
from minitx.model import Transformer

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Ids and targets `(B, T)` to the mean loss in nats, a scalar that gradients flow from."""


def choose_engine(
    model: nn.Module, compute: Compute | None = None, engine: str = "auto"
) -> EngineChoice:
    """What `loss_function` computes a model with.

    Args:
        model: any module with a `Transformer`'s `loss`.
        compute: device and number format; the device of the weights if left out.
        engine: `auto`, `plain`, `native` or `torch-compile`. What does not know the model is not
            taken, whatever was asked for.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used.
    """
    if engine == "plain":
        return EngineChoice("plain", "asked for")
    device = compute.device if compute else next(model.parameters()).device
    if engine == "torch-compile" and not can_compile(device):
        raise BadInputError(
            f"torch.compile can't be used on {device.type}: a compiler is missing (a C++ compiler "
            "for a CPU, cc and Triton for cuda)",
            "Use --engine auto, or install one",
        )
    on_cpu_kernels = engine != "torch-compile" and device.type == "cpu"
    if on_cpu_kernels:
        reason = support.reason_against_kernels(model)
    elif engine != "torch-compile" and device.type != "cuda":
        reason = f"there are no kernels for {device.type}"
    else:
        reason = support.reason_against(model)
    if reason is not None:
        return EngineChoice("plain", reason)
    if engine == "torch-compile":
        return EngineChoice("torch-compile", "asked for")
    return EngineChoice("native", f"kernels for {family()}" if on_cpu_kernels else "a CUDA graph")


def loss_function(
    model: nn.Module, compute: Compute | None = None, engine: str = "auto"
) -> LossFunction | None:
    """What trains a model faster than its own `loss` does, or None.

    Args:
        model: in train mode whenever the function is called; its weights stay where they are.
        compute: device, and the format of products, which the function then sets itself. Left
            out, it computes where the weights are, in the format that is set when it is called.
        engine: as for `choose_engine`.

    Returns:
        A function that equals `model.loss` to rounding. None: run `model.loss`.
    """
    choice = choose_engine(model, compute, engine)
    if choice.engine == "plain":
        return None
    assert isinstance(model, Transformer)
    autocast = compute.autocast if compute else nullcontext
    if choice.engine == "native" and model.embedding.weight.device.type == "cpu":
        return _NativeLoss(model, autocast)
    compiled = CompiledLoss(model) if choice.engine == "torch-compile" else model.loss

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with autocast():
            return compiled(ids, targets)

    on_cuda = model.embedding.weight.device.type == "cuda"
    return RecordedLoss(loss, list(model.parameters())) if on_cuda else loss


class _NativeLoss:
    # `Transformer.loss` by compiled kernels, in whole blocks where they know the shape.

    def __init__(
        self, model: Transformer, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._model, self._autocast = model, autocast
        self._parts = tuple(model.modules())

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        model = self._model
        with self._autocast():
            if not self._is_a_training_step(ids) or support.was_changed(self._parts):
                return model.loss(ids, targets)
            x = layers.embed(model, ids)
            run = blocks.run if support.takes_whole_blocks(model, x) else layers.run
            x = run(model, x)
            loss = head.loss if support.takes_head(model, x) else layers.loss
            return loss(model, x, targets)

    def _is_a_training_step(self, ids: Tensor) -> bool:
        fits = 0 < ids.size(1) <= self._model.config.context_length and len(ids) > 0
        return fits and self._model.training and torch.is_grad_enabled()
