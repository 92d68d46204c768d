"""Training batches by number: batch k is the same in every run with the same seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minitx.corpus import WindowSampler, gather


class Batches:
    """Windows of the train part, drawn by `WindowSampler`.

    Args:
        ids: (tokens,) token ids, usually memory-mapped.
        context_length: tokens in a window.
        batch_size: windows in a batch.
        seed: of their order.
        device: where batches go.
    """

    def __init__(
        self,
        ids: np.ndarray,
        context_length: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._ids = ids
        self._context_length = context_length
        self._batch_size = batch_size
        self._device = device
        self._sampler = WindowSampler(len(ids), context_length, seed)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch `number`: inputs and targets, each `(batch, seq)` of int64."""
        starts = self._sampler.starts(number * self._batch_size, self._batch_size)
        inputs, targets = gather(self._ids, starts, self._context_length)
        return self._move(inputs), self._move(targets)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            # From pinned memory the copy runs beside the step before.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
