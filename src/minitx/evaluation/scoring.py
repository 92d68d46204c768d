"""The loss of a model on a text: each target once, summed in double precision.

The ids may be a memory map: only one batch of windows is in memory at a time, so that a text of
any size streams through.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from minitx.compute import Compute
from minitx.corpus.encoded_file import release
from minitx.errors import BadInputError
from minitx.evaluation.arrays import BoolArray, Float32Array, IdArray, IntArray
from minitx.evaluation.scoring_windows import Window, spaced_windows
from minitx.model import Transformer, evaluating
from minitx.training.observer import perplexity

Progress = Callable[[int], None]

# Enough tokens in a batch to keep the processor busy, and few enough logits to stay in memory.
_BATCH_TOKENS = {"cpu": 8_192}
_BATCH_TOKENS_ELSEWHERE = 65_536
_BATCH_LOGITS = 2**26


@dataclass(frozen=True)
class Score:
    """The loss over the targets of a text that were scored."""

    total_nats: float
    n_tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.total_nats / self.n_tokens

    @property
    def perplexity(self) -> float:
        """e to the loss."""
        return perplexity(self.loss)


@dataclass(frozen=True, eq=False)
class LossChunk:
    """Losses of a batch of targets, in the order of the text.

    Attributes:
        index: `(n,)` index into the ids of each scored target; rising.
        position: `(n,)` how many ids the model saw before each target, less one: its position in
            the window.
        losses: `(n,)` nats, float32.
        confidence: `(n,)` probability of the likeliest token; empty unless asked for.
        correct: `(n,)` whether that token is the target; empty unless asked for.
    """

    index: IntArray
    position: IntArray
    losses: Float32Array
    confidence: Float32Array
    correct: BoolArray


def score(
    model: Transformer,
    ids: IdArray,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_tokens: int = 0,
    autocast_dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score every id but the first, each exactly once.

    Args:
        model: left in the mode it was in.
        ids: `(n,)` at least 2, any integer type; a memory map is read in pieces.
        context_length: most ids that a prediction sees; None for the model's.
        stride: targets scored by each window after the first. None, or the context length, puts
            windows side by side; less makes them overlap, so that contexts are fuller.
        batch_size: windows in one pass; None chooses.
        max_tokens: score about as many targets in evenly spaced windows, the same ones each
            time; 0 scores all.
        autocast_dtype: format of the matrix products; None or float32 for that of the weights.
        progress: called with the number of targets that each batch scored.

    Raises:
        BadInputError: fewer than 2 ids, or a context length or stride out of range.
    """
    total, n_tokens = 0.0, 0
    chunks = token_losses(
        model, ids, context_length, stride, batch_size, max_tokens, autocast_dtype
    )
    for chunk in chunks:
        total += float(chunk.losses.sum(dtype=np.float64))
        n_tokens += len(chunk.losses)
        if progress is not None:
            progress(len(chunk.losses))
    return Score(total, n_tokens)


def token_losses(
    model: Transformer,
    ids: IdArray,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    max_tokens: int = 0,
    autocast_dtype: torch.dtype | None = None,
    with_confidence: bool = False,
) -> Iterator[LossChunk]:
    """The losses that `score` sums up, batch by batch, in the order of the text.

    With `with_confidence`, chunks also have the probability of the likeliest token, and whether
    it is the target.

    Raises:
        BadInputError: as in `score`, when it is called.
    """
    context_length = chosen_context(model, context_length)
    if len(ids) < 2:
        raise BadInputError(
            f"{len(ids)} token{'s' if len(ids) != 1 else ''} can't be scored, since the first has "
            "nothing before it",
            "Give a text of at least 2 tokens",
        )
    windows = spaced_windows(
        len(ids), context_length, context_length if stride is None else stride, max_tokens
    )
    # Raises before the first loss is asked for.
    first = next(windows)
    if batch_size is None:
        device = next(model.parameters()).device.type
        tokens = _BATCH_TOKENS.get(device, _BATCH_TOKENS_ELSEWHERE)
        tokens = min(tokens, _BATCH_LOGITS // model.config.vocab_size)
        batch_size = max(1, tokens // context_length)
    batches = _batches(itertools.chain([first], windows), batch_size)
    return _losses(model, ids, batches, autocast_dtype, with_confidence)


def count_targets(n_ids: int, context_length: int, stride: int, max_tokens: int = 0) -> int:
    """How many targets `score` scores: all but the first id, or about `max_tokens`.

    Raises:
        BadInputError: the stride is out of range.
    """
    if max_tokens <= 0 or max_tokens >= n_ids - 1:
        return max(0, n_ids - 1)
    windows = spaced_windows(n_ids, context_length, stride, max_tokens)
    return sum(window.length - window.skip for window in windows)


def _losses(
    model: Transformer,
    ids: IdArray,
    batches: Iterator[list[Window]],
    autocast_dtype: torch.dtype | None,
    with_confidence: bool,
) -> Iterator[LossChunk]:
    compute = Compute(next(model.parameters()).device, autocast_dtype or torch.float32)
    with evaluating(model):
        for batch in batches:
            length = batch[0].length
            rows = np.stack([ids[w.start : w.start + length + 1] for w in batch]).astype(np.int64)
            tokens = torch.from_numpy(rows).to(compute.device)
            # Not inference mode: tables that the model makes and keeps here serve training later.
            with torch.no_grad(), compute.autocast():
                measured = _measure(model, tokens[:, :-1], tokens[:, 1:], with_confidence)
            yield _chunk(batch, *(array.cpu().numpy() for array in measured))
            release(ids)


def _measure(
    model: Transformer, inputs: torch.Tensor, targets: torch.Tensor, with_confidence: bool
) -> tuple[torch.Tensor, ...]:
    if not with_confidence:
        return (model.token_losses(inputs, targets),)
    log_probabilities = model(inputs).float().log_softmax(-1)
    losses = -log_probabilities.gather(-1, targets[..., None]).squeeze(-1)
    highest, likeliest = log_probabilities.max(-1)
    return losses, highest.exp(), likeliest == targets


def _chunk(
    batch: list[Window],
    losses: Float32Array,
    confidence: Float32Array | None = None,
    correct: BoolArray | None = None,
) -> LossChunk:
    offsets = np.arange(batch[0].length)
    starts = np.array([window.start for window in batch])
    skips = np.array([window.skip for window in batch])
    kept = offsets >= skips[:, None]
    return LossChunk(
        index=(starts[:, None] + offsets + 1)[kept],
        position=np.broadcast_to(offsets, kept.shape)[kept],
        losses=losses[kept],
        confidence=np.empty(0, np.float32) if confidence is None else confidence[kept],
        correct=np.empty(0, np.bool_) if correct is None else correct[kept],
    )


def _batches(windows: Iterator[Window], batch_size: int) -> Iterator[list[Window]]:
    # Windows of one length share a batch; only the last of a text may be shorter.
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == batch_size or window.length != batch[0].length):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def chosen_context(model: Transformer, context_length: int | None) -> int:
    """The context to score with; the model's where None is asked for.

    Raises:
        BadInputError: it is out of range.
    """
    longest = model.config.context_length
    if context_length is None:
        return longest
    if not 1 <= context_length <= longest:
        raise BadInputError(
            f"context length is {context_length:,}, and this model was trained with {longest:,}",
            f"Choose a --context from 1 to {longest}",
        )
    return context_length
