"""A loss and its gradients recorded once on a GPU, and started with one call from then on.

A small model's pass is hundreds of short kernels, and to start each from Python takes longer than
the kernel. A CUDA graph starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minitx.compute import LossFunction

WARMUP_PASSES = 3
"""Before a pass is recorded: they choose kernels, and compile what is compiled."""


class RecordedLoss:
    """A loss function that is recorded after `WARMUP_PASSES` and replayed from then on.

    It is recorded anew for a batch of another shape, and if other parameters are trained. Dropout
    draws anew in each replay, from the seed that torch's generator has then.

    Args:
        loss, parameters: on a CUDA device.
        record: makes a graph of a function, which then replays it; of CUDA if left out.
    """

    def __init__(
        self,
        loss: LossFunction,
        parameters: Sequence[nn.Parameter],
        record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._loss = loss
        self._all = parameters
        self._record = record or _CudaRecorder(parameters[0].device)
        self._recorded_for: tuple[object, ...] | None = None
        self._replay: Callable[[], None] = _nothing
        self.replays = 0
        self.gradients: list[Tensor] = []

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The loss of `(B, T)` ids and targets; its gradients are there already.

        Its backward pass comes before the next call, which overwrites them.
        """
        key = (ids.shape, *(parameter.requires_grad for parameter in self._all))
        if key != self._recorded_for:
            self._parameters = [parameter for parameter in self._all if parameter.requires_grad]
            self._ids, self._targets = ids.clone(), targets.clone()
            # The memory of what was recorded before goes first; if there is too little, nothing is.
            self._recorded_for, self._replay, self.gradients = None, _nothing, []
            # What dropout draws meanwhile is not drawn from this step's numbers.
            devices = [ids.device] if ids.is_cuda else []
            with torch.random.fork_rng(devices):
                self._replay = self._record(self._pass)
            self._recorded_for = key
        self._ids.copy_(ids)
        self._targets.copy_(targets)
        self._replay()
        self.replays += 1
        loss: Tensor = _Replayed.apply(  # type: ignore[no-untyped-call]
            self._mean, self, *self._parameters
        )
        return loss

    def _pass(self) -> None:
        loss = self._loss(self._ids, self._targets)
        # Each replay writes these anew.
        self.gradients = list(torch.autograd.grad(loss, self._parameters))
        self._mean = loss.detach()


def _nothing() -> None:
    pass


class _Replayed(Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, recorded: RecordedLoss, *parameters: Tensor) -> Tensor:
        ctx.recorded, ctx.replays = recorded, recorded.replays
        return mean.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.recorded.replays != ctx.replays:
            raise RuntimeError("the next batch has overwritten the gradients of this one")
        # New ones, since the next replay overwrites those of the graph.
        return None, None, *torch._foreach_mul(ctx.recorded.gradients, grad)


class _CudaRecorder:
    def __init__(self, device: torch.device) -> None:
        # What is recorded on a stream must have been warmed up on that stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARMUP_PASSES):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # A thread that prepares the next batch may go on with that.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay
