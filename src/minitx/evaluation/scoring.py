"""The loss of a model on a text: each target once, summed in double precision.

The ids may be a memory map: only one batch of windows is in memory at a time, so that a text of
any size streams through.

With n ids there are n - 1 targets: nothing comes before the first id, so it is never scored.
Target t (from 0) is id t + 1, and is predicted from the ids of its window up to t.

Windows side by side (stride = context length) score each target from between 1 and
`context_length` ids. With a shorter stride, windows overlap: each scores only the targets that
the one before it left, so that (after the first window) every target is predicted from at least
`context_length - stride + 1` ids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from minitx.compute import Compute
from minitx.corpus.answer_targets import Answers
from minitx.corpus.encoded_file import release
from minitx.errors import BadInputError
from minitx.evaluation.arrays import BoolArray, Float32Array, GroupedSums, IdArray, IntArray
from minitx.evaluation.comparison import FEWEST_BLOCKS, MOST_BLOCKS
from minitx.model import Transformer, evaluating

Progress = Callable[[int], None]
"""Called with the number of targets that each batch scored."""

# Enough tokens in a batch to keep the processor busy, and few enough logits to stay in memory.
_BATCH_TOKENS = {"cpu": 8_192}
_BATCH_TOKENS_ELSEWHERE = 65_536
_BATCH_LOGITS = 2**26


@dataclass(frozen=True)
class Window:
    """A stretch of ids that the model reads at once.

    Attributes:
        start: index of its first id, and of its first target.
        length: how many ids it reads, and how many targets follow them.
        skip: how many of its first targets are not scored here.
    """

    start: int
    length: int
    skip: int = 0


@dataclass(frozen=True)
class Windows:
    """How a text is cut into windows, and computed; `windows_for` makes them fit a model.

    Attributes:
        context_length: most ids that a prediction sees.
        stride: targets scored by each window after the first.
        max_tokens: score about as many targets in evenly spaced windows, the same ones each
            time; 0 scores all.
        autocast_dtype: format of the matrix products; None or float32 for that of the weights.
        answers: what alone is scored of conversations; None scores any text whole.
    """

    context_length: int
    stride: int
    max_tokens: int = 0
    autocast_dtype: torch.dtype | None = None
    answers: Answers | None = None


_SMALLEST_BLOCK = 128  # tokens


@dataclass(frozen=True)
class Score:
    """The loss over the targets of a text that were scored.

    Attributes:
        margin: half of the 95 % interval of `loss`; NaN for a text of few blocks.
    """

    total_nats: float
    n_tokens: int
    margin: float

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.total_nats / self.n_tokens


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
    confidence: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    correct: BoolArray = field(default_factory=lambda: np.empty(0, np.bool_))


def score(
    model: Transformer,
    ids: IdArray,
    windows: Windows | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score every id but the first, each exactly once.

    Args:
        model: left in the mode it was in.
        ids: `(n,)` at least 2, any integer type; a memory map is read in pieces.
        windows: how they are cut; side by side in the model's context if left out.

    Raises:
        BadInputError: fewer than 2 ids.
    """
    total, n_tokens = 0.0, 0
    blocks = GroupedSums(min(MOST_BLOCKS, -(-len(ids) // _SMALLEST_BLOCK)))
    for chunk in token_losses(model, ids, windows or windows_for(model)):
        total += float(chunk.losses.sum(dtype=np.float64))
        n_tokens += len(chunk.losses)
        blocks.add(chunk.index * len(blocks.counts) // len(ids), chunk.losses)
        if progress is not None:
            progress(len(chunk.losses))
    if not n_tokens and windows is not None:  # No answer is in the windows that were chosen.
        return score(model, ids, replace(windows, max_tokens=0), progress)
    return Score(total, n_tokens, _margin(total / n_tokens, blocks))


def _margin(loss: float, blocks: GroupedSums) -> float:
    """Half of the interval of a ratio of sums over blocks (Cochran 1977, section 2.11)."""
    n = np.count_nonzero(blocks.counts)
    if n < FEWEST_BLOCKS:
        return math.nan
    deviations = blocks.sums[0] - loss * blocks.counts
    return float(1.96 * np.sqrt((deviations**2).sum() * n / (n - 1)) / blocks.counts.sum())


def token_losses(
    model: Transformer, ids: IdArray, windows: Windows, with_confidence: bool = False
) -> Iterator[LossChunk]:
    """The losses that `score` sums up, batch by batch, in the order of the text.

    Raises:
        BadInputError: as in `score`, when it is called.
    """
    if len(ids) < 2:
        raise BadInputError(
            f"{len(ids)} token{'s' if len(ids) != 1 else ''} can't be scored, since the first has "
            "nothing before it",
            "Give a text of at least 2 tokens",
        )
    return _losses(model, ids, windows, with_confidence)


def _losses(
    model: Transformer, ids: IdArray, windows: Windows, with_confidence: bool
) -> Iterator[LossChunk]:
    compute = Compute(next(model.parameters()).device, windows.autocast_dtype or torch.float32)
    most_tokens = _BATCH_TOKENS.get(compute.device.type, _BATCH_TOKENS_ELSEWHERE)
    most_tokens = min(most_tokens, _BATCH_LOGITS // model.config.vocab_size)
    batch_size = max(1, most_tokens // windows.context_length)
    with evaluating(model):
        for batch in _batches(spaced_windows(len(ids), windows), batch_size):
            length = batch[0].length
            rows = np.stack([ids[w.start : w.start + length + 1] for w in batch]).astype(np.int64)
            tokens = torch.from_numpy(rows).to(compute.device)
            # Not inference mode: tables that the model makes and keeps here serve training later.
            with torch.no_grad(), compute.autocast():
                measured = _measure(model, tokens[:, :-1], tokens[:, 1:], with_confidence)
            starts = np.array([window.start for window in batch])[:, None]
            offsets = np.arange(length)
            kept = offsets >= np.array([window.skip for window in batch])[:, None]
            index = starts + offsets + 1
            if windows.answers is not None:
                kept &= windows.answers.at(index)
                if not kept.any():
                    continue
            position = np.broadcast_to(offsets, kept.shape)[kept]
            yield LossChunk(
                index[kept],
                position,
                *(array.cpu().numpy()[kept] for array in measured),
            )
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


def _batches(windows: Iterator[Window], batch_size: int) -> Iterator[list[Window]]:
    # Windows of one length share a batch; only the last of a text may be shorter.
    for _, same_length in itertools.groupby(windows, lambda window: window.length):
        while batch := list(itertools.islice(same_length, batch_size)):
            yield batch


def windows_for(
    model: Transformer,
    context_length: int | None = None,
    stride: int | None = None,
    max_tokens: int = 0,
    autocast_dtype: torch.dtype | None = None,
    answers: Answers | None = None,
) -> Windows:
    """Windows that fit a model: of its context, and side by side, unless told otherwise.

    Raises:
        BadInputError: a context length or stride out of range.
    """
    longest = model.config.context_length
    context_length = longest if context_length is None else context_length
    if not 1 <= context_length <= longest:
        raise BadInputError(
            f"context length is {context_length:,}, and this model was trained with {longest:,}",
            f"Choose a --context from 1 to {longest}",
        )
    stride = context_length if stride is None else stride
    if not 1 <= stride <= context_length:
        raise BadInputError(
            f"stride is {stride}, outside 1 to the context length {context_length:,}",
            f"Choose a --stride from 1 to {context_length}",
        )
    return Windows(context_length, stride, max_tokens, autocast_dtype, answers)


def spaced_windows(n_ids: int, windows: Windows) -> Iterator[Window]:
    """Windows, evenly spaced over the text, that together score at most `max_tokens` targets.

    No target is scored twice. Where `max_tokens` is 0, or that many windows would cover the text
    anyway, every target is scored.
    """
    n_targets = max(0, n_ids - 1)
    stride = windows.stride
    length = min(windows.context_length, n_targets)
    if 0 < windows.max_tokens < n_targets:
        scored = min(stride, length, windows.max_tokens)
        # The targets that a window may score: it needs its full length before their end.
        first = length - scored
        count = min(max(1, windows.max_tokens // scored), (n_targets - first) // scored)
        for index in range(count):
            yield Window(index * (n_targets - first) // count, length, first)
        return
    if length:
        yield Window(0, length)
    for done in range(length, n_targets, stride):
        end = min(done + stride, n_targets)
        # Side by side, the last window is short; overlapping ones all have a full context.
        start = done if stride == length else end - length
        yield Window(start, end - start, done - start)


def count_targets(n_ids: int, windows: Windows) -> int:
    """How many targets are scored: all but the first id, or about `max_tokens`."""
    if not 0 < windows.max_tokens < n_ids - 1:
        return max(0, n_ids - 1)
    return sum(window.length - window.skip for window in spaced_windows(n_ids, windows))
