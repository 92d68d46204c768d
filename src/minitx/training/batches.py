"""Training batches by number: batch k is the same in every run with the same seed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minitx.corpus import WindowSampler, gather
from minitx.corpus.answer_targets import Answers
from minitx.corpus.training_windows import DATA_ORDER, NO_TARGET

Batch = tuple[Tensor, Tensor]


@dataclass(eq=False)
class Batches:
    """Windows of `ids`, `(tokens,)` and usually memory-mapped, drawn by `WindowSampler`; of
    conversations only the `answers` are targets."""

    ids: np.ndarray
    context_length: int
    batch_size: int
    seed: int
    device: torch.device
    data_order: int = DATA_ORDER
    answers: Answers | None = None

    def __post_init__(self) -> None:
        self._sampler = WindowSampler(
            len(self.ids), self.context_length, self.seed, self.data_order
        )

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`: inputs and targets, each `(batch, seq)` of int64."""
        return self._moved(self._prepared(number))

    def n_targets(self, number: int) -> int:
        """How many targets batch `number` has."""
        return int((self._prepared(number)[1] != NO_TARGET).sum())

    def _prepared(self, number: int) -> Batch:
        # Where it is drawn: in the memory of the processor.
        windows = self._sampler.windows(number * self.batch_size, self.batch_size)
        arrays = gather(self.ids, windows, self.context_length, self.answers)
        inputs, targets = map(torch.from_numpy, arrays)
        if self.device.type == "cuda":
            # From pinned memory the copy runs beside the step before.
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets

    def _moved(self, batch: Batch) -> Batch:
        inputs, targets = (part.to(self.device, non_blocking=True) for part in batch)
        return inputs, targets


@dataclass(eq=False)
class PrefetchedBatches(Batches):
    """The same batches; while one is learned from, a thread prepares the one after it.

    So a step waits neither for the shuffling of a new epoch nor for a disk that a memory-mapped
    text is read from. To be used as a context. Which one comes after another, `after` says.
    """

    after: Callable[[int], int] = lambda number: number + 1

    def __enter__(self) -> PrefetchedBatches:
        # One thread, so that the sampler is never asked by two at once.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def n_targets(self, number: int) -> int:
        """As in `Batches`."""
        return self._thread.submit(super().n_targets, number).result()

    def __getitem__(self, number: int) -> Batch:
        asked_number, asked = self._ahead or (None, None)
        if asked is None or asked_number != number:
            asked = self._thread.submit(self._prepared, number)
        following = self.after(number)
        self._ahead = (following, self._thread.submit(self._prepared, following))
        # The copy to a device is asked for here, so that it comes before the step in its order.
        return self._moved(asked.result())
