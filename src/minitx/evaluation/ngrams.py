"""Interpolated Kneser-Ney n-grams: what counting alone achieves on the same tokens.

The probability of a token after a context is that of the longest context, mixed with that of the
next shorter one, and so on down to the uniform distribution (Kneser and Ney 1995, in the
interpolated form of Chen and Goodman 1998, section 3):

    P(w | h) = max(c(h w) - D, 0) / c(h)  +  D * N(h) / c(h) * P(w | h without its first token)

c counts occurrences at the highest order; below it, how many different tokens come before: what
matters there is in how many contexts something appears, not how often. N(h) is the number of
different tokens seen after h. With three discounts, for counts of 1, 2 and more, it is Chen and
Goodman's modified form.

An n-gram is kept as the rank of (rank of its first n-1 tokens, last token), so that any order over
any vocabulary fits in 64 bits, and everything is sorting and searching of arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minitx.corpus.answer_targets import Answers
from minitx.evaluation.arrays import BoolArray, FloatArray, IdArray, IntArray

ORDERS = 6


@dataclass(frozen=True, eq=False)
class _Counts:
    """Counts of the n-grams of one order, and what follows for their contexts."""

    discounted: FloatArray  # (grams,) count less discount, over the context's total
    context_seen: BoolArray  # (contexts,) whether the context has any count
    backoff: FloatArray  # (contexts,) weight of the next lower order


def ngram_losses(
    ids: IdArray, text: IdArray, vocab_size: int, max_order: int = ORDERS
) -> Iterator[FloatArray]:
    """Loss in nats of every id of a text but the first, `(n - 1,)`, by each order, from 1 on.

    Only one order at a time is in memory. A prediction sees up to `order` - 1 ids before.

    Args:
        ids: `(counted,)` what is counted.
        text: `(n,)` what is predicted.
        vocab_size, max_order: number of ids; the highest order.
    """
    counted, predicted = np.asarray(ids, dtype=np.int64), np.asarray(text, dtype=np.int64)
    # Of the n-gram that ends at each position: its rank, of the empty one to begin with; in the
    # text -1 where it was not counted.
    ends, ranks = np.zeros(len(ids) + 1, np.int64), np.zeros(len(text), np.int64)
    keys, n_contexts = np.zeros(1, np.int64), 1
    contexts = grams = np.zeros(len(text) - 1, np.int64)
    losses = np.full(len(text) - 1, 1.0 / vocab_size)
    for order in range(1, max_order + 1):
        packed = ends[:-1] * vocab_size + counted[order - 1 :]
        longer, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
        del packed
        if order > 1:
            # Of each n-gram, the one without its first token: it gains a predecessor.
            shorter = np.zeros(len(longer), np.int64)
            shorter[inverse] = ends[1:]
            before = np.bincount(shorter, minlength=len(keys))
            del shorter
            by_context = _counts(keys // vocab_size, before, n_contexts)
            losses = _interpolated(by_context, contexts, grams, losses)
            contexts = ranks[:-1]
        ends = inverse.reshape(-1)
        keys, n_contexts = longer, max(1, len(keys))
        prefix = ranks if order == 1 else np.append(-1, ranks[:-1])
        ranks = _ranks(keys, vocab_size, prefix, predicted)
        grams = ranks[1:]
        by_context = _counts(keys // vocab_size, counts, n_contexts)
        yield -np.log(_interpolated(by_context, contexts, grams, losses))


def _ranks(keys: IntArray, vocab_size: int, prefix: IntArray, text: IntArray) -> IntArray:
    """Rank of each n-gram of a prefix and an id; -1 where it, or its prefix, was not counted."""
    if not len(keys):
        return np.full_like(text, -1)
    wanted = prefix * vocab_size + text
    rank = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((prefix >= 0) & (keys[rank] == wanted), rank, -1)


def _counts(prefix: IntArray, counts: IntArray, n_contexts: int) -> _Counts:
    totals = np.bincount(prefix, counts, n_contexts)
    taken = np.minimum(_estimated_discounts(counts)[np.minimum(counts, 3)], counts)
    divisor = np.maximum(totals, 1.0)
    return _Counts(
        discounted=(counts - taken) / divisor[prefix],
        context_seen=totals > 0,
        backoff=np.bincount(prefix, taken, n_contexts) / divisor,
    )


def _interpolated(
    counts: _Counts, contexts: IntArray, grams: IntArray, lower: FloatArray
) -> FloatArray:
    seen = (contexts >= 0) & counts.context_seen[contexts]
    if not seen.any():
        return lower
    own = np.where(grams >= 0, counts.discounted[grams], 0.0)
    return np.where(seen, own + counts.backoff[contexts] * lower, lower)


def _estimated_discounts(counts: IntArray) -> FloatArray:
    """Discounts of counts 0, 1, 2 and 3 or more (Chen and Goodman 1998, equation 26)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not n1 or not n2:
        # Too few different counts to estimate from: a small vocabulary, or a small text.
        return np.array([0.0, 0.5, 0.5, 0.5])
    single = n1 / (n1 + 2 * n2)
    if not n3 or not n4:
        return np.array([0.0, single, single, single])
    three = [1 - 2 * single * n2 / n1, 2 - 3 * single * n3 / n2, 3 - 4 * single * n4 / n3]
    # Where the counts are not as the estimate assumes, it can leave the range that makes sense.
    bounded = [min(max(discount, 0.01), n) for n, discount in enumerate(three, start=1)]
    return np.array([0.0, *bounded])


MOST_COUNTED, MOST_SCORED = 1_000_000, 200_000
"""Tokens that `bigram_loss` counts and scores: more would take longer and change little."""


def bigram_loss(
    train_ids: IdArray, holdout_ids: IdArray, vocab_size: int, answers: Answers | None = None
) -> float:
    """Loss of an interpolated bigram of the train part on the holdout, nats per token.

    A model must beat it to have learned more than which token follows which. Without a holdout of
    two tokens it is that on the train part itself; of conversations, that on the `answers` of the
    text it is measured on.
    """
    text = holdout_ids if len(holdout_ids) > 1 else train_ids
    *_, losses = ngram_losses(train_ids[:MOST_COUNTED], text[:MOST_SCORED], vocab_size, 2)
    if answers is not None:
        is_answer = answers.at(np.arange(1, len(losses) + 1))
        losses = losses[is_answer] if is_answer.any() else losses
    return float(losses.mean())
