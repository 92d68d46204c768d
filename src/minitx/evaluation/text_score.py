"""Score a text in one pass of the model, and sum up everything that is derived from its losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from minitx.evaluation.arrays import (
    ByteArray,
    GroupedSums,
    IdArray,
    IntArray,
    bits_per,
    token_sizes,
)
from minitx.evaluation.breakdown import (
    BINS,
    CLASS_GROUPS,
    CLASSES,
    FREQUENCY_GROUPS,
    SurprisingPassages,
    TokenClasses,
    calibration_curve,
    confidence_bins,
    context_use,
    count_ids,
    frequency_groups,
    group_losses,
)
from minitx.evaluation.by_document import Documents, DocumentSums
from minitx.evaluation.comparison import Blocks, BlockSums, bootstrap_interval
from minitx.evaluation.holdout_figures import Figures, HoldoutReport, TextFigures
from minitx.evaluation.scoring import LossChunk, Progress, Windows, token_losses
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.observer import perplexity

_PASSAGE_BYTES = 72


@dataclass(frozen=True, eq=False)
class ScoredText:
    """A text to score.

    Attributes:
        ids: `(tokens,)`, perhaps a memory map.
        content: `(bytes,)` the text in UTF-8, perhaps a memory map.
        is_holdout: whether the model's run kept the text for this.
        documents: what it is made of, if that is known.
    """

    figures: TextFigures
    ids: IdArray
    content: ByteArray
    is_holdout: bool
    documents: Documents | None = None

    def scored_size(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """Bytes and characters of all but the first token, which is not scored."""
        first = tokenizer.token_bytes(int(self.ids[0]))
        n_characters = self.figures.characters - len(first.decode("utf-8", "ignore"))
        return max(0, self.figures.bytes - len(first)), max(0, n_characters)


def score_text(
    model: Transformer,
    tokenizer: Tokenizer,
    text: ScoredText,
    windows: Windows,
    details: Details | None = None,
    progress: Progress | None = None,
) -> tuple[Figures, Blocks]:
    """Score a text once, in bounded memory; `details` are told of each token.

    Raises:
        BadInputError: as `token_losses`.
    """
    sums = BlockSums(text.figures.bytes, token_sizes(tokenizer))
    for chunk in token_losses(model, text.ids, windows, with_confidence=details is not None):
        sums.add(text.ids, chunk.index, chunk.losses)
        if details is not None:
            details.add(text.ids, chunk)
        if progress is not None:
            progress(len(chunk.losses))
    blocks = sums.result()
    return figures_of(blocks, windows, text, tokenizer), blocks


def figures_of(blocks: Blocks, windows: Windows, text: ScoredText, tokenizer: Tokenizer) -> Figures:
    """The figures of a text, or of a part of it, from what was summed in its blocks."""
    nats, tokens = float(blocks.nats.sum()), int(blocks.tokens.sum())
    n_bytes = float(blocks.bytes.sum())
    n_characters = n_bytes * text.figures.characters / text.figures.bytes
    if tokens == len(text.ids) - 1:
        # What unknown tokens stand for is known for the text as a whole.
        n_bytes, n_characters = text.scored_size(tokenizer)
    loss = nats / tokens
    return Figures(
        context_length=windows.context_length,
        stride=windows.stride,
        tokens_scored=tokens,
        bytes_scored=round(n_bytes),
        loss=loss,
        loss_interval=bootstrap_interval(blocks.nats, blocks.tokens),
        perplexity=perplexity(loss),
        bits_per_byte=bits_per(nats, n_bytes),
        bits_per_byte_interval=bootstrap_interval(
            bits_per(1.0, 1) * blocks.nats, blocks.bytes * (n_bytes / blocks.bytes.sum())
        ),
        bits_per_character=bits_per(nats, n_characters),
    )


class Beginning:
    """What was scored of the first `n_ids` ids of a text, which baselines are measured on, too.

    Attributes:
        index: of the targets among them that were scored, `(n,)` in parts.
        nats: total loss of these.
    """

    def __init__(self, n_ids: int) -> None:
        self.n_ids = n_ids
        self.index: list[IntArray] = []
        self.nats = 0.0

    def add(self, chunk: LossChunk) -> None:
        """Add what a chunk, in the order of the text, has of it."""
        if chunk.index[0] < self.n_ids:
            inside = chunk.index < self.n_ids
            self.index.append(chunk.index[inside])
            self.nats += float(chunk.losses[inside].sum(dtype=np.float64))


class Details:
    """Sums up what is known of single tokens, beyond the total.

    Args:
        train_counts: `(vocab_size,)` how often the train part has each id, if there is one.
        n_beginning: ids of the text that `beginning` covers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        windows: Windows,
        text: ScoredText,
        train_counts: IdArray | None,
        n_beginning: int,
    ) -> None:
        self.beginning = Beginning(n_beginning)
        self._text, self._windows, self._tokenizer = text, windows, tokenizer
        # What another program writes between messages stands for no bytes of the text.
        may_have = windows.answers is None or tokenizer.template is None
        self.documents = (
            None if text.documents is None or not may_have
            else _sums_by_document(text, tokenizer, windows.answers is None)
        )  # fmt: skip
        self.positions = GroupedSums(windows.context_length, 2)
        self.class_of = TokenClasses(tokenizer)
        self.classes = GroupedSums(len(CLASSES))
        self.group_of = None if train_counts is None else frequency_groups(train_counts)
        self.frequencies = GroupedSums(len(FREQUENCY_GROUPS))
        self.confidence = GroupedSums(BINS, 2)
        n_ids = len(text.ids)
        length = round(_PASSAGE_BYTES * n_ids / max(1, text.figures.bytes) / 2) * 2
        # A short text has few passages if they are long.
        longest = max(2, n_ids // 8 * 2)
        self.passages = SurprisingPassages(min(max(8, length), longest), tokenizer.piece)

    def add(self, ids: IdArray, chunk: LossChunk) -> None:
        """Add a chunk of the losses of `ids`, with confidence."""
        self.beginning.add(chunk)
        targets, before = ids[chunk.index].astype(np.int64), ids[chunk.index - 1]
        nats = chunk.losses.astype(np.float64)
        self.positions.add(chunk.position, nats, nats * nats)
        self.classes.add(self.class_of.of(targets, before), chunk.losses)
        if self.group_of is not None:
            self.frequencies.add(self.group_of[targets], chunk.losses)
        self.confidence.add(confidence_bins(chunk.confidence), chunk.confidence, chunk.correct)
        self.passages.add(chunk.index, targets, chunk.losses)
        if self.documents is not None:
            self.documents.add(ids, chunk)

    def added_to(self, report: HoldoutReport) -> HoldoutReport:
        """A report with all that is known."""
        sums = self.documents
        clean = None if sums is None else sums.clean()
        how = (self._windows, self._text, self._tokenizer)
        return replace(
            report,
            without_leaks=None if clean is None else figures_of(clean, *how),
            documents=None if sums is None else sums.by_document(),
            context_use=context_use(self.positions),
            classes=group_losses(self.classes, CLASS_GROUPS),
            frequencies=group_losses(self.frequencies, FREQUENCY_GROUPS),
            calibration=calibration_curve(self.confidence),
            surprising=tuple(self.passages.result()),
        )


def _sums_by_document(text: ScoredText, tokenizer: Tokenizer, has_one_end: bool) -> DocumentSums:
    assert text.documents is not None
    sizes = token_sizes(tokenizer).astype(np.float64)
    n_unknown, unknown = text.figures.unknown_tokens, tokenizer.unknown_id
    if n_unknown and unknown is not None:
        # What they stand for, on average.
        known = float(count_ids(text.ids, tokenizer.vocab_size) @ sizes) - n_unknown
        sizes[unknown] = max(0.0, (text.figures.bytes - known) / n_unknown)
    n_bytes = text.figures.bytes
    # A conversation has an end after each answer.
    end_id = tokenizer.end_id if has_one_end else None
    return DocumentSums(text.documents, n_bytes, sizes, end_id)
