"""Loss by document, and the loss of what does not also stand in the train part.

A token belongs to the document in which it begins, and the end of a document to the one that ends.
Where a token begins in the text follows from the bytes that those before it stand for; where it has
ends of documents, from those after the last one. Tokens that stand for what the vocabulary lacks
count for as many bytes as they have on average, so that a few tokens beside them may be misplaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minitx.corpus.encoded_file import release
from minitx.evaluation.arrays import BoolArray, FloatArray, IdArray, IntArray, bits_per
from minitx.evaluation.comparison import Blocks, BlockSums
from minitx.evaluation.scoring import LossChunk

_AT_ONCE = 1 << 20
_SHOWN = 3
FEWEST_TOKENS = 20
"""Documents with fewer are not compared, if others are."""


@dataclass(frozen=True)
class DocumentLoss:
    """Loss of a document: nats per token, bits per byte."""

    name: str
    tokens: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class DocumentLosses:
    """Loss by document.

    Attributes:
        documents: how many were scored, at least in part.
        ranked: how many of these have so many tokens that they are compared.
        quantiles: of their losses: a tenth has less than the first, half less than the second, nine
            tenths less than the third.
        best, worst: with the lowest loss, the lowest first, and with the highest, the highest
            first; of few documents none is both.
    """

    documents: int
    ranked: int
    quantiles: tuple[float, float, float]
    best: tuple[DocumentLoss, ...]
    worst: tuple[DocumentLoss, ...]


def _no_spans() -> IntArray:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a text that is scored.

    Attributes:
        ends: `(documents,)` the byte after the last of each.
        name: what the document at a byte is called.
        leaked, compared: `(spans, 2)` bytes from and to which it stands in the train part, too, and
            from and to which that was looked for.
    """

    ends: IntArray
    name: Callable[[int], str]
    leaked: IntArray = field(default_factory=_no_spans)
    compared: IntArray = field(default_factory=_no_spans)


class DocumentSums:
    """Sums up losses by document, and those of unleaked text by block, as they stream by.

    Args:
        sizes: bytes that each id stands for, `(vocab_size,)`.
        end_id: that ends each document of several; None if nothing does.
    """

    def __init__(
        self, documents: Documents, n_bytes: int, sizes: FloatArray, end_id: int | None
    ) -> None:
        self._documents, self._sizes, self._end_id = documents, sizes, end_id
        self._starts = np.append(0, documents.ends)
        self._sums = np.zeros((3, len(documents.ends)))
        self._clean = BlockSums(n_bytes, np.rint(sizes).astype(np.int64))
        self._has_leaks = len(documents.leaked) > 0
        self._n_clean = self._read_ids = self._document = 0
        self._position = 0.0

    def add(self, ids: IdArray, chunk: LossChunk) -> None:
        """Add losses of a chunk, in the order of the text."""
        index, losses = chunk.index, chunk.losses
        while self._read_ids <= index[-1]:
            end = min(self._read_ids + _AT_ONCE, int(index[-1]) + 1)
            here = slice(*np.searchsorted(index, [self._read_ids, end]))
            targets = index[here] - self._read_ids
            positions, documents = self._read(ids, end)
            position, document = positions[targets], documents[targets]
            sizes = self._sizes[ids[index[here]]]
            if len(document):
                first = int(document[0])
                figures = np.ones(len(document)), losses[here].astype(np.float64), sizes
                for sums, figure in zip(self._sums, figures, strict=True):
                    counts = np.bincount(document - first, figure)
                    sums[first : first + len(counts)] += counts
            if self._has_leaks:
                clean = self._is_clean(position)
                self._n_clean += int(clean.sum())
                if clean.any():
                    self._clean.add(ids, index[here][clean], losses[here][clean])
            release(ids)

    def _read(self, ids: IdArray, end: int) -> tuple[FloatArray, IntArray]:
        """Where the tokens up to `end` begin, in bytes, and the document of each."""
        part = ids[self._read_ids : end]
        sizes = self._sizes[part]
        ends = np.append(self._position, self._position + np.cumsum(sizes))
        position, last = ends[:-1], len(self._starts) - 2
        is_end = part == self._end_id if self._end_id is not None else np.zeros(len(part), bool)
        if is_end.any():
            # After the end of a document the next one begins, whatever was counted before.
            n_ended = np.append(0, np.cumsum(is_end))
            begins = np.append(0, np.flatnonzero(is_end) + 1)
            numbers = np.minimum(self._document + np.arange(len(begins)), last + 1)
            shift = self._starts[numbers] - ends[begins]
            shift[0] = 0.0
            ends = ends + shift[n_ended]
            position = ends[:-1]
            document = np.minimum(self._document + n_ended[:-1], last)
            self._document += int(n_ended[-1])
        elif self._end_id is not None and self._document:
            document = np.full(len(part), min(self._document, last))
        else:
            document = self._of(position - (sizes == 0))
        self._read_ids, self._position = end, float(ends[-1])
        # An end stands for no bytes, and belongs to what is before it.
        return position - (sizes == 0), document

    def _of(self, position: FloatArray) -> IntArray:
        number = np.searchsorted(self._starts, position + 0.5, side="right") - 1
        return np.clip(number, 0, len(self._starts) - 2)

    def _is_clean(self, position: FloatArray) -> BoolArray:
        documents = self._documents
        return _inside(position, documents.compared) & ~_inside(position, documents.leaked)

    def clean(self) -> Blocks | None:
        """What was summed of text that does not stand in the train part; None if that is all that
        was compared, or none of it."""
        return self._clean.result() if self._n_clean else None

    def by_document(self) -> DocumentLosses | None:
        """Loss by document; None of a single one."""
        tokens, nats, n_bytes = self._sums
        scored = np.flatnonzero(tokens)
        if len(scored) < 2:
            return None
        enough = scored[tokens[scored] >= FEWEST_TOKENS]
        ranked = enough if len(enough) > 1 else scored
        losses = nats[ranked] / tokens[ranked]
        order = ranked[np.argsort(losses, kind="stable")]
        n_shown = min(_SHOWN, len(order) // 2)

        def loss_of(i: int) -> DocumentLoss:
            return DocumentLoss(
                self._documents.name(int(self._starts[i])), int(tokens[i]),
                float(nats[i] / tokens[i]), bits_per(float(nats[i]), float(n_bytes[i])),
            )  # fmt: skip

        tenth, half, most = np.quantile(losses, [0.1, 0.5, 0.9]).tolist()
        return DocumentLosses(
            len(scored), len(ranked), (tenth, half, most),
            tuple(map(loss_of, order[:n_shown].tolist())),
            tuple(map(loss_of, order[::-1][:n_shown].tolist())),
        )  # fmt: skip


def _inside(positions: FloatArray, spans: IntArray) -> BoolArray:
    """Whether each lies in one of the spans, which are in order."""
    if not len(spans):
        return np.zeros(len(positions), bool)
    i = np.searchsorted(spans[:, 0], positions, side="right") - 1
    result: BoolArray = (i >= 0) & (positions < spans[np.maximum(i, 0), 1])
    return result
