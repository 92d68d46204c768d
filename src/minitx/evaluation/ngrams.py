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

from dataclasses import dataclass

import numpy as np

from minitx.evaluation.arrays import BoolArray, FloatArray, IdArray, IntArray

ORDERS = 6


@dataclass(frozen=True, eq=False)
class _Counts:
    """Counts of the n-grams of one order, and what follows for their contexts."""

    discounted: FloatArray  # (grams,) count less discount, over the context's total
    context_seen: BoolArray  # (contexts,) whether the context has any count
    backoff: FloatArray  # (contexts,) weight of the next lower order


class NGrams:
    """N-grams of a text, of all orders up to a highest.

    Args:
        ids: `(n,)` what is counted.
        vocab_size, max_order: number of ids; the highest order.
    """

    def __init__(self, ids: IdArray, vocab_size: int, max_order: int = ORDERS) -> None:
        self.vocab_size = vocab_size
        self.max_order = max_order
        self._keys: list[IntArray] = [np.zeros(1, np.int64)]
        self._raw: list[_Counts] = []
        self._continuation: list[_Counts] = []
        ids = np.asarray(ids, dtype=np.int64)
        # Rank of the n-gram that ends at each position; of the empty one to begin with.
        ranks = np.zeros(len(ids) + 1, np.int64)
        for order in range(1, max_order + 1):
            packed = ranks[:-1] * vocab_size + ids[order - 1 :]
            keys, ends, counts = np.unique(packed, return_inverse=True, return_counts=True)
            if order > 1:
                # Of each n-gram, the one without its first token: it gains a predecessor.
                shorter = np.zeros(len(keys), np.int64)
                shorter[ends] = ranks[1:]
                before = np.bincount(shorter, minlength=len(self._keys[-1]))
                self._continuation.append(_counts(self._keys, before, vocab_size))
            self._keys.append(keys)
            self._raw.append(_counts(self._keys, counts, vocab_size))
            ranks = ends.reshape(-1).astype(np.int64)

    def losses(self, ids: IdArray) -> FloatArray:
        """Loss in nats of every id of a text but the first, `(max_order, n - 1)`, order 1 first.

        A prediction sees up to `order` - 1 ids before.
        """
        text = np.asarray(ids, dtype=np.int64)
        lower = np.full(len(text) - 1, 1.0 / self.vocab_size)
        contexts = np.zeros_like(lower, dtype=np.int64)
        ranks = np.zeros(len(text), np.int64)
        by_order = []
        for order in range(1, self.max_order + 1):
            if order > 1:
                contexts = ranks[:-1]
            ranks = self._ranks(order, ranks, text)
            grams = ranks[1:]
            by_order.append(-np.log(_interpolated(self._raw[order - 1], contexts, grams, lower)))
            if order < self.max_order:
                lower = _interpolated(self._continuation[order - 1], contexts, grams, lower)
        return np.stack(by_order)

    def _ranks(self, order: int, shorter: IntArray, ids: IntArray) -> IntArray:
        # Rank of the n-gram that ends at each position; -1 where the text lacks it, as it does
        # every n-gram of which nothing ends one position before.
        prefix = np.concatenate([[-1], shorter[:-1]]) if order > 1 else shorter
        keys = self._keys[order]
        if not len(keys):
            return np.full_like(ids, -1)
        wanted = prefix * self.vocab_size + ids
        rank = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((prefix >= 0) & (keys[rank] == wanted), rank, -1)


def _counts(keys: list[IntArray], counts: IntArray, vocab_size: int) -> _Counts:
    prefix = keys[-1] // vocab_size
    n_contexts = max(1, len(keys[-2]))
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


def bigram_loss(train_ids: IdArray, holdout_ids: IdArray, vocab_size: int) -> float:
    """Loss of an interpolated bigram of the train part on the holdout, nats per token.

    A model must beat it to have learned more than which token follows which. Without a holdout of
    two tokens it is that on the train part itself.
    """
    text = holdout_ids if len(holdout_ids) > 1 else train_ids
    counts = NGrams(train_ids[:MOST_COUNTED], vocab_size, max_order=2)
    return float(counts.losses(text[:MOST_SCORED])[1].mean())
