"""The loss of a batch and its gradients: one pass forward and backward.

On a GPU, a small model's pass is hundreds of short kernels, and to start each from Python takes
longer than the kernel. `CapturedPass` records them once as a CUDA graph and then starts them all
with one call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.model import Transformer

WARMUP_PASSES = 3
"""Before a pass is recorded: they choose kernels, and compile what is compiled."""


class GradientPass:
    """Computes the loss of one batch, and adds its gradients to those in the parameters.

    Args:
        model: in train mode.
        compute: device and number format.
        passes: of an optimizer step, whose gradients are averaged.
        compiled: use torch.compile (`Transformer.compile_parts`).
    """

    def __init__(
        self, model: Transformer, compute: Compute, passes: int = 1, compiled: bool = False
    ) -> None:
        self._compute = compute
        self._passes = passes
        self._model = model
        if compiled:
            model.compile_parts()

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar in nats per token.

        Args:
            inputs, targets: `(batch, seq)` ids.
        """
        with self._compute.autocast():
            loss = self._model.loss(inputs, targets)
        part = loss / self._passes if self._passes > 1 else loss
        part.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class CapturedPass(GradientPass):
    """The same on a CUDA device, recorded after `WARMUP_PASSES` and replayed from then on.

    Every batch must have the shape of the first. Dropout draws anew in each replay, from the seed
    that torch's generator has then.

    Args:
        model, compute, passes, compiled: as for `GradientPass`.
    """

    def __init__(
        self, model: Transformer, compute: Compute, passes: int = 1, compiled: bool = False
    ) -> None:
        super().__init__(model, compute, passes, compiled)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # What is recorded on a stream must have been warmed up on that stream.
        self._stream = torch.cuda.Stream(compute.device)  # type: ignore[no-untyped-call]
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """As `GradientPass`."""
        if self._warm < WARMUP_PASSES:
            self._warm += 1
            return self._on_the_side(inputs, targets)
        if self._graph is None:
            self._graph = self._record(inputs, targets)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        self._hand_over()
        return self._mean.clone()

    def _on_the_side(self, inputs: Tensor, targets: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = super().__call__(inputs, targets)
        current.wait_stream(self._stream)
        return loss

    def _record(self, inputs: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self._inputs, self._targets = inputs.clone(), targets.clone()
        before = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        # A thread that prepares the next batch may go on with that.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._mean = super().__call__(self._inputs, self._targets)
        # Each replay writes these anew.
        self._gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._sums = [torch.empty_like(g) for g in self._gradients] if self._passes > 1 else []
        for parameter, gradient in zip(self._parameters, before, strict=True):
            parameter.grad = gradient
        return graph

    def _hand_over(self) -> None:
        # To the parameters, as a backward pass does: added to what is there.
        there = [p.grad for p in self._parameters if p.grad is not None]
        if there:
            torch._foreach_add_(there, self._gradients)
            return
        given = self._gradients
        if self._sums:
            torch._foreach_copy_(self._sums, self._gradients)
            given = self._sums
        for parameter, gradient in zip(self._parameters, given, strict=True):
            parameter.grad = gradient


def gradient_pass(model: Transformer, config: TrainConfig, compute: Compute) -> GradientPass:
    """The way of computing gradients that a configuration asks for."""
    captures = compute.device.type == "cuda" and config.cuda_graph
    kind = CapturedPass if captures else GradientPass
    return kind(model, compute, config.accumulation, config.compile)
