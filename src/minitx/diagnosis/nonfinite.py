"""Which tensor was the first that is no number.

In the order in which a step computes: the weights that it begins with, what each module gives out
on the batch, then the gradients, from the last module back to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from minitx.compute import Compute
from minitx.diagnosis.findings import Kind
from minitx.model import Transformer
from minitx.training.hooks import LOWER_RATE

Batch = tuple[Tensor, Tensor]


@Kind(
    "not-a-number",
    "error",
    "a value overflowed its format: the learning rate is too high, or a weight is broken",
    LOWER_RATE,
)
def first_nonfinite(model: Transformer, batches: Iterable[Batch], compute: Compute) -> str | None:
    """Name the first tensor that holds a NaN or an infinity.

    Args:
        model: with the weights that gave the bad number, its gradients still there.
        batches: inputs and targets of the step, each `(batch, seq)`.

    Returns:
        For example ``weight blocks.1.mlp.down.weight (3 of 4,096 numbers)``, or None if all
        tensors are finite.
    """
    weight = broken_weight(model)
    if weight is not None:
        return weight
    # A module inside another is done before it, so the first one heard is the innermost.
    heard: list[str] = []

    def note(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if not heard and isinstance(output, Tensor) and _broken(output):
                heard.append(f"output of {name or 'the model'} ({_share(output)})")

        return hook

    with torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(note(name)))
        for inputs, targets in batches:
            with compute.autocast():
                loss = model.loss(inputs, targets)
            if heard:
                return heard[0]
            if _broken(loss):
                return "the loss itself, computed from finite logits"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and _broken(parameter.grad):
            return f"gradient of {name} ({_share(parameter.grad)})"
    return None


def broken_weight(model: Transformer) -> str | None:
    """The first weight that holds a NaN or an infinity; None if there is none."""
    for name, parameter in model.named_parameters():
        if _broken(parameter):
            return f"weight {name} ({_share(parameter)})"
    return None


def _broken(tensor: Tensor) -> bool:
    return not bool(tensor.isfinite().all())


def _share(tensor: Tensor) -> str:
    bad = int((~tensor.isfinite()).sum())
    return f"{bad:,} of {tensor.numel():,} numbers"
