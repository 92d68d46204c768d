"""The loss of a model on a text: each target once, summed in double precision.

The ids may be a memory map: only one batch of windows is in memory at a time, so that a text of
any size streams through.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from minitx.compute import Compute
from minitx.corpus.encoded_file import release
from minitx.errors import BadInputError
from minitx.evaluation.arrays import BoolArray, Float32Array, IdArray, IntArray
from minitx.evaluation.scoring_windows import Window, Windows, spaced_windows, windows_for
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
        progress: called with the number of targets that each batch scored.

    Raises:
        BadInputError: fewer than 2 ids.
    """
    total, n_tokens = 0.0, 0
    for chunk in token_losses(model, ids, windows or windows_for(model)):
        total += float(chunk.losses.sum(dtype=np.float64))
        n_tokens += len(chunk.losses)
        if progress is not None:
            progress(len(chunk.losses))
    return Score(total, n_tokens)


def token_losses(
    model: Transformer, ids: IdArray, windows: Windows, with_confidence: bool = False
) -> Iterator[LossChunk]:
    """The losses that `score` sums up, batch by batch, in the order of the text.

    With `with_confidence`, chunks also have the probability of the likeliest token, and whether
    it is the target.

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
    batch_size = windows.batch_size
    if batch_size is None:
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
            position = np.broadcast_to(offsets, kept.shape)[kept]
            yield LossChunk(
                (starts + offsets + 1)[kept],
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
