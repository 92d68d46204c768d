"""What a model must beat, on the same split and the same bytes: counting, and compressors.

Of a text too large to count and compress, all of them get the beginning, and the model's figure
for that beginning stands beside theirs; of a large train part they get the end. The report says
how much of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from minitx.evaluation.arrays import ByteArray, IdArray, IntArray
from minitx.evaluation.bits import bits_per, token_sizes
from minitx.evaluation.compressors import compress_holdout, compressor_names
from minitx.evaluation.holdout_figures import Baselines, NGramFigures
from minitx.evaluation.ngrams import ORDERS, NGrams
from minitx.evaluation.text_score import Beginning, ScoredText
from minitx.tokenizer import Tokenizer

MOST_TRAIN_TOKENS = 5_000_000
MOST_TRAIN_BYTES = 16_000_000
MOST_BYTES = 4_000_000
"""Of a text, what is counted and compressed."""

_PART = 1 << 20
_SCORED_AT_ONCE = 1 << 20


def measure_baselines(
    tokenizer: Tokenizer,
    text: ScoredText,
    scored: Beginning,
    train_ids: IdArray,
    train_content: ByteArray,
    tell: Callable[[str], None],
) -> Baselines:
    """Measure all baselines at hand.

    Args:
        tokenizer: of the ids.
        text: that must be predicted.
        scored: what the model was scored on, of the beginning of the text or all of it.
        train_ids: `(tokens,)` what n-grams are counted on; empty without a train part.
        train_content: `(bytes,)` what compressors read first; empty without a train part.
        tell: called with what is measured next.
    """
    tell("counting n-grams")
    ids, content = text.ids, text.content
    part = np.asarray(ids[: scored.n_ids], dtype=np.int64)
    train = np.asarray(train_ids[-MOST_TRAIN_TOKENS:], dtype=np.int64)
    sizes, n_tokens = token_sizes(tokenizer), len(scored.index)
    n_bytes = float(sizes[ids[scored.index]].sum())
    if n_tokens == len(ids) - 1:
        # What unknown tokens stand for is known for the text as a whole.
        n_bytes = text.scored_size(tokenizer)[0]
    losses = [math.log(tokenizer.vocab_size)]
    if len(train):
        losses += _ngram_losses(NGrams(train, tokenizer.vocab_size), part, scored.index)
    if len(part) < len(ids):
        content = content[: int(sizes[part].sum())]
    before = train_content[-MOST_TRAIN_BYTES:]
    compressed = []
    for name in compressor_names():
        tell(f"compressing with {name}")
        learned = _parts(before) if len(before) else None
        compressed.append(compress_holdout(name, learned, _parts(content)))
    return Baselines(
        ngrams=tuple(
            NGramFigures(order, loss, bits_per(loss * n_tokens, n_bytes))
            for order, loss in enumerate(losses)
        ),
        compressors=tuple(compressed),
        train_tokens=len(train),
        tokens=n_tokens,
        text_bytes=len(content),
        train_bytes=len(before),
        model_loss=scored.nats / n_tokens,
        model_bits_per_byte=bits_per(scored.nats, n_bytes),
    )


def _ngram_losses(ngrams: NGrams, part: IntArray, index: IntArray) -> list[float]:
    """Mean loss of the targets at `index`, by each order; a piece of the text at a time."""
    totals = np.zeros(ORDERS)
    for start in range(1, len(part), _SCORED_AT_ONCE):
        end = min(start + _SCORED_AT_ONCE, len(part))
        first = max(0, start - ORDERS + 1)
        losses = ngrams.losses(part[first:end])
        inside = index[(index >= start) & (index < end)]
        totals += losses[:, inside - first - 1].sum(1)
    return [float(total) / len(index) for total in totals]


def _parts(content: ByteArray) -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        for start in range(0, len(content), _PART):
            yield content[start : start + _PART].tobytes()

    return parts
