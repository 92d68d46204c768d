"""Score a text in one pass of the model, and sum up everything that is derived from its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from minitx.evaluation.arrays import ByteArray, IdArray, IntArray
from minitx.evaluation.bits import TextSize, bits_per, token_sizes
from minitx.evaluation.blocks import Blocks, BlockSums
from minitx.evaluation.bootstrap import bootstrap_interval
from minitx.evaluation.calibration import Calibration, CalibrationCurve
from minitx.evaluation.classes import (
    CLASSES,
    FREQUENCIES,
    ClassLoss,
    GroupLosses,
    TokenClasses,
    frequency_groups,
    with_letters,
)
from minitx.evaluation.holdout_figures import Figures, SurprisingText, TextFigures
from minitx.evaluation.positions import ContextUse, PositionLosses
from minitx.evaluation.scoring import LossChunk, token_losses
from minitx.evaluation.surprising import SurprisingPassages
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.observer import perplexity

_PASSAGE_BYTES = 72


@dataclass(frozen=True, eq=False)
class ScoredText:
    """A text to score.

    Attributes:
        name: `holdout`, or the name of a file.
        ids: `(tokens,)`, perhaps a memory map.
        n_unknown: tokens that stand for what the vocabulary lacks.
        content: `(bytes,)` the text in UTF-8, perhaps a memory map.
        is_holdout: whether the model's run kept the text for this.
    """

    name: str
    ids: IdArray
    size: TextSize
    n_unknown: int
    content: ByteArray
    is_holdout: bool

    def figures(self) -> TextFigures:
        """Which text it is."""
        n_bytes, n_characters = self.size.n_bytes, self.size.n_characters
        return TextFigures(self.name, len(self.ids), n_bytes, n_characters, self.n_unknown)


@dataclass(frozen=True)
class Windows:
    """How a text is cut into windows.

    Attributes:
        context_length: most tokens that a prediction sees.
        stride: targets scored by each window after the first.
        max_tokens, autocast_dtype: as in `score`.
    """

    context_length: int
    stride: int
    max_tokens: int = 0
    autocast_dtype: torch.dtype | None = None


@dataclass(frozen=True, eq=False)
class Details:
    """What is known of single tokens, beyond the total: see `HoldoutReport`."""

    context_use: ContextUse
    classes: tuple[ClassLoss, ...]
    frequencies: tuple[ClassLoss, ...]
    calibration: CalibrationCurve
    surprising: tuple[SurprisingText, ...]


@dataclass(frozen=True, eq=False)
class Beginning:
    """What was scored of the beginning of a text, which baselines are measured on, too.

    Attributes:
        n_ids: ids in the beginning.
        index: of the targets in it that were scored, `(n,)`.
        nats: total loss of these.
    """

    n_ids: int
    index: IntArray
    nats: float


@dataclass(frozen=True, eq=False)
class TextScore:
    """The result of a pass over a text; `beginning` and `details` are None where not asked for."""

    figures: Figures
    blocks: Blocks
    beginning: Beginning | None
    details: Details | None


def score_text(
    model: Transformer,
    tokenizer: Tokenizer,
    text: ScoredText,
    windows: Windows,
    with_details: bool = False,
    train_counts: IdArray | None = None,
    beginning: int = 0,
    progress: Callable[[int], None] | None = None,
) -> TextScore:
    """Score a text once, in bounded memory.

    Args:
        model, tokenizer: that belong together.
        text: whose ids, if a memory map, are read in pieces.
        windows: how it is cut.
        with_details: fill `TextScore.details`.
        train_counts: `(vocab_size,)` how often the train part has each id.
        beginning: number of ids that `TextScore.beginning` covers; 0 for none.
        progress: called with the number of targets that each batch scored.

    Raises:
        BadInputError: as `token_losses`.
    """
    ids, size = text.ids, text.size
    sums = BlockSums(size.n_bytes, token_sizes(tokenizer))
    details = _Details(tokenizer, windows, text, train_counts) if with_details else None
    index: list[IntArray] = []
    nats = 0.0
    chunks = token_losses(
        model, ids, windows.context_length, windows.stride, max_tokens=windows.max_tokens,
        autocast_dtype=windows.autocast_dtype, with_confidence=with_details,
    )  # fmt: skip
    for chunk in chunks:
        sums.add(ids, chunk.index, chunk.losses)
        if chunk.index[0] < beginning:
            inside = chunk.index < beginning
            index.append(chunk.index[inside])
            nats += float(chunk.losses[inside].sum(dtype=np.float64))
        if details is not None:
            details.add(ids, chunk)
        if progress is not None:
            progress(len(chunk.losses))
    blocks = sums.result()
    first = tokenizer.token_bytes(int(ids[0]))
    return TextScore(
        figures=_figures(blocks, windows, size, first, len(ids)),
        blocks=blocks,
        beginning=Beginning(beginning, np.concatenate(index), nats) if index else None,
        details=None if details is None else details.result(),
    )


def _figures(blocks: Blocks, windows: Windows, size: TextSize, first: bytes, n_ids: int) -> Figures:
    nats, tokens = float(blocks.nats.sum()), int(blocks.tokens.sum())
    n_bytes = float(blocks.bytes.sum())
    n_characters = n_bytes * size.n_characters / size.n_bytes
    if tokens == n_ids - 1:
        # What unknown tokens stand for is known for the text as a whole.
        scored_size = size.without(first)
        n_bytes, n_characters = scored_size.n_bytes, scored_size.n_characters
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


class _Details:
    """Sums up what is known of single tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        windows: Windows,
        text: ScoredText,
        train_counts: IdArray | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.positions = PositionLosses(windows.context_length)
        self.class_of = TokenClasses(tokenizer)
        self.classes = GroupLosses(CLASSES)
        self.group_of = None if train_counts is None else frequency_groups(train_counts)
        self.frequencies = GroupLosses([name for name, _ in FREQUENCIES])
        self.calibration = Calibration()
        n_ids = len(text.ids)
        length = round(_PASSAGE_BYTES * n_ids / max(1, text.size.n_bytes) / 2) * 2
        # A short text has few passages if they are long.
        longest = max(2, n_ids // 8 * 2)
        self.passages = SurprisingPassages(min(max(8, length), longest))

    def add(self, ids: IdArray, chunk: LossChunk) -> None:
        targets, before = ids[chunk.index].astype(np.int64), ids[chunk.index - 1]
        self.positions.add(chunk.position, chunk.losses)
        self.classes.add(self.class_of.of(targets, before), chunk.losses)
        if self.group_of is not None:
            self.frequencies.add(self.group_of[targets], chunk.losses)
        self.calibration.add(chunk.confidence, chunk.correct)
        self.passages.add(chunk.index, targets, chunk.losses)

    def result(self) -> Details:
        return Details(
            context_use=self.positions.result(),
            classes=tuple(with_letters(self.classes.result())),
            frequencies=tuple(self.frequencies.result()) if self.group_of is not None else (),
            calibration=self.calibration.result(),
            surprising=tuple(
                SurprisingText(
                    passage.start,
                    passage.loss,
                    tuple(map(self.tokenizer.piece, passage.ids)),
                    passage.losses,
                )
                for passage in self.passages.result()
            ),
        )
