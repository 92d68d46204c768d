"""Door 1: the training loss of a model, computed the fastest way that knows the model."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from minitx.compute import Compute, EngineChoice, LossFunction
from minitx.config.train_config import EngineName
from minitx.errors import BadInputError
from minitx.fast import head, layers, pieces, support, whole_blocks
from minitx.fast.cuda_graph import RecordedLoss
from minitx.fast.library import family
from minitx.fast.torch_compile import CompiledLoss, can_compile
from minitx.model import Transformer


def choose_engine(
    model: nn.Module, compute: Compute | None = None, engine: str = "auto"
) -> EngineChoice:
    """What `loss_function` computes a model with, that is any module with a `Transformer`'s `loss`.

    What does not know the model is not taken, whatever was asked for.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used.
    """
    if engine == "plain":
        return EngineChoice("plain", "as --engine or run.toml says")
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
        return EngineChoice("torch-compile", "as --engine or run.toml says")
    return EngineChoice("native", f"kernels for {family()}" if on_cpu_kernels else "a CUDA graph")


def loss_function(
    model: nn.Module, compute: Compute | None = None, engine: str = "auto"
) -> LossFunction | None:
    """What trains a model faster than its own `loss` does, or None.

    Args:
        model: that may be changed afterwards: the function computes it as it is when it is called.
            On a GPU its weights stay where they are.
        compute: device, and the format of products, which the function then sets itself. Left
            out, it computes where the weights are, in the format that is set when it is called.

    Returns:
        A function that equals `model.loss` to rounding. None: run `model.loss`.
    """
    choice = choose_engine(model, compute, engine)
    if choice.engine == "plain":
        return None
    assert isinstance(model, Transformer)
    return _WatchedLoss(model, compute, choice.engine)


class _WatchedLoss:
    # Faster for as long as the model is what it was known as, and is trained; else its own loss.

    def __init__(self, model: Transformer, compute: Compute | None, engine: EngineName) -> None:
        on_cpu = model.embedding.weight.device.type == "cpu"
        self._model = model
        self._autocast = compute.autocast if compute else nullcontext
        self._reason_against = support.reason_against
        faster: LossFunction = model.loss
        if engine == "torch-compile":
            faster = CompiledLoss(model)
        elif on_cpu:
            faster = partial(_native_loss, model)
            self._reason_against = support.reason_against_kernels
        self._faster: LossFunction = partial(self._in_format, faster)
        if not on_cpu:
            self._faster = RecordedLoss(self._faster, list(model.parameters()))

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        model = self._model
        fits = len(ids) > 0 and 0 < ids.size(1) <= model.config.context_length
        is_training = model.training and torch.is_grad_enabled()
        if fits and is_training and self._reason_against(model) is None:
            return self._faster(ids, targets)
        return self._in_format(model.loss, ids, targets)

    def _in_format(self, loss: LossFunction, ids: Tensor, targets: Tensor) -> Tensor:
        with self._autocast():
            return loss(ids, targets)


def _native_loss(model: Transformer, ids: Tensor, targets: Tensor) -> Tensor:
    # By compiled kernels. What is kept for the way back takes twice the memory in float32.
    dtype = support.product_dtype(model.embedding.weight)
    if dtype not in (torch.float32, torch.bfloat16):
        return model.loss(ids, targets)
    if dtype == torch.float32:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return pieces.loss(partial(_loss_of, model), weights, ids, targets)
    return _loss_of(model, ids, targets)


def _loss_of(model: Transformer, ids: Tensor, targets: Tensor) -> Tensor:
    # In whole blocks where they know the shape.
    x = layers.embed(model, ids)
    run = whole_blocks.run if support.takes_whole_blocks(model, x) else layers.run
    x = run(model, x)
    loss = head.loss if support.takes_head(model, x) else layers.loss
    return loss(model, x, targets)
