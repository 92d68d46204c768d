"""The passages of a text with the highest loss, token by token."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import Float32Array, IdArray, IntArray

PASSAGES = 10


@dataclass(frozen=True)
class SurprisingText:
    """A passage that surprised the model: text and loss (nats) of each token, and their mean.

    It begins at the token of index `start` of the text.
    """

    start: int
    loss: float
    tokens: tuple[str, ...]
    losses: tuple[float, ...]


class SurprisingPassages:
    """Keeps the worst passages as losses stream by; they don't overlap.

    They have `length` tokens, an even number, and begin at every half of that; `piece` gives the
    text of a token.
    """

    def __init__(self, length: int, piece: Callable[[int], str], count: int = PASSAGES) -> None:
        self._half = max(1, length // 2)
        self._piece = piece
        self._count = count
        self._worst: list[SurprisingText] = []
        self._index = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)
        self._losses = np.empty(0, np.float32)

    def add(self, index: IntArray, targets: IdArray, losses: Float32Array) -> None:
        """Add targets in the order of the text: where they are, what they are, their losses."""
        self._index = np.concatenate([self._index, index])
        self._ids = np.concatenate([self._ids, targets])
        self._losses = np.concatenate([self._losses, losses])
        half = self._half
        n_halves = len(self._index) // half
        if n_halves < 2:
            return
        in_halves = self._losses[: n_halves * half].astype(np.float64)
        sums = in_halves.reshape(n_halves, half).sum(1)
        # Only where tokens lie side by side: a part of a text is scored in pieces.
        starts = np.arange(n_halves - 1) * half
        joined = self._index[starts + 2 * half - 1] - self._index[starts] == 2 * half - 1
        # One that is chosen rules out its two neighbours at most, so three times as many suffice.
        most = 3 * self._count
        falling = np.argsort(-(sums[:-1] + sums[1:])[joined], kind="stable")[:most]
        passages = map(self._passage, starts[joined][falling].tolist())
        self._worst = heapq.nlargest(most, [*self._worst, *passages], key=lambda text: text.loss)
        # The last half may go on.
        kept = (n_halves - 1) * half
        self._index, self._ids = self._index[kept:], self._ids[kept:]
        self._losses = self._losses[kept:]

    def result(self) -> list[SurprisingText]:
        """The worst passages that don't overlap, the worst first."""
        chosen: list[SurprisingText] = []
        for passage in self._worst:
            if all(abs(passage.start - other.start) >= 2 * self._half for other in chosen):
                chosen.append(passage)
        return chosen[: self._count]

    def _passage(self, first: int) -> SurprisingText:
        part = slice(first, first + 2 * self._half)
        losses = tuple(self._losses[part].tolist())
        tokens = tuple(map(self._piece, self._ids[part].tolist()))
        return SurprisingText(int(self._index[first]), sum(losses) / len(losses), tokens, losses)
