import contextlib
import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation import ngrams
from minitx.evaluation.ngrams import ngram_losses

SENTENCE = (
    "the cat sat on the mat and the dog sat on the log while the cat saw the dog and the dog "
    "saw the cat on the mat"
)
TEXT = SENTENCE.split()


class DictionaryKneserNey:
    """The formula written down, with dictionaries and loops."""

    def __init__(self, ids, vocab_size, order, discounts=None):
        self.vocab_size, self.order = vocab_size, order
        self.raw = [Counter(_grams(ids, n)) for n in range(order + 2)]
        self.counts = []
        for n in range(1, order + 1):
            if n == order:
                self.counts.append(dict(self.raw[n]))
                continue
            before = defaultdict(set)
            for gram in self.raw[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts.append({gram: len(before[gram]) for gram in self.raw[n]})
        self.discounts = []
        for n, counts in enumerate(self.counts):
            self.discounts.append(self._estimate(counts) if discounts is None else
                                  {1: discounts[n], 2: discounts[n], 3: discounts[n]})  # fmt: skip

    def _estimate(self, counts):
        have = Counter(counts.values())
        n1, n2, n3, n4 = (have[i] for i in (1, 2, 3, 4))
        if not n1 or not n2:
            return {1: 0.5, 2: 0.5, 3: 0.5}
        y = n1 / (n1 + 2 * n2)
        if not n3 or not n4:
            return {1: y, 2: y, 3: y}
        wanted = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
        return {i: min(max(d, 0.01), i) for i, d in wanted.items()}

    def probability(self, word, context, n=None):
        n = self.order if n is None else n
        if n == 0:
            return 1 / self.vocab_size
        lower = self.probability(word, context, n - 1)
        if len(context) < n - 1:
            return lower
        context_here = tuple(context[len(context) - (n - 1) :])
        counts, discount = self.counts[n - 1], self.discounts[n - 1]
        here = {g[-1]: c for g, c in counts.items() if g[:-1] == context_here}
        total = sum(here.values())
        if not total:
            return lower
        taken = {w: min(discount[min(c, 3)], c) if c else 0 for w, c in here.items()}
        own = here.get(word, 0) - taken.get(word, 0)
        return own / total + sum(taken.values()) / total * lower


@contextlib.contextmanager
def discounts(by_order):
    """Fixed discounts, one for each order, in place of estimates; None estimates them."""
    with pytest.MonkeyPatch.context() as patch:
        if by_order is not None:
            # Counts as they are and counts of what comes before, of order 1, then 2, and so on.
            twice = itertools.chain.from_iterable((value, value) for value in by_order)
            patch.setattr(
                ngrams, "_estimated_discounts", lambda _: np.array([0.0, *[next(twice)] * 3])
            )
        yield


def losses_by_order(ids, text, vocab_size, max_order=6):
    """`(max_order, n - 1)`."""
    return np.stack(list(ngram_losses(ids, text, vocab_size, max_order)))


def distribution(ids, vocab_size, context, order, fixed=None):
    """Probability of each id after a context."""
    if not len(context):
        # Before the first token there is nothing, as there is before what was never seen.
        context = [vocab_size]
    texts = [np.append(context, word) for word in range(vocab_size)]
    found = []
    for text in texts:
        with discounts(fixed):
            found.append(-losses_by_order(ids, text, vocab_size, order)[-1, -1])
    return np.exp(found)


def _grams(ids, n):
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


@settings(deadline=None, max_examples=40)
@given(
    train=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    text=st.lists(st.integers(0, 5), min_size=2, max_size=20),
    order=st.integers(1, 5),
    fixed=st.sampled_from([None, [0.3, 0.75, 0.9, 0.5, 0.6]]),
)
def test_every_order_is_the_formula(train, text, order, fixed):
    with discounts(fixed):
        found = losses_by_order(np.array(train), np.array(text), 6, order)
    assert found.shape == (order, len(text) - 1)
    for n in range(1, order + 1):
        reference = DictionaryKneserNey(train, 6, n, fixed)
        expected = [reference.probability(text[i], text[:i]) for i in range(1, len(text))]
        assert np.exp(-found[n - 1]) == pytest.approx(expected, rel=1e-9)


def test_all_three_discounts_are_estimated_on_text_with_enough_counts():
    ids = np.random.default_rng(0).zipf(1.6, 4000) % 40
    reference = DictionaryKneserNey(ids.tolist(), 40, 3)
    assert len(set(reference.discounts[2].values())) == 3
    text = ids[:60]
    found = losses_by_order(ids, text, 40, 3)[2]
    expected = [reference.probability(text[i], text[:i].tolist()) for i in range(1, 60)]
    assert np.exp(-found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("context", [[], [3], [1, 2], [9, 9, 9, 9, 9, 9], [0, 1, 2, 3, 4, 5, 6]])
def test_probabilities_sum_to_one(order, context):
    ids = np.random.default_rng(1).integers(0, 8, 300)
    found = distribution(ids, 10, context, order)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (found > 0).all()


def test_probabilities_of_seen_contexts_sum_to_one_too():
    ids = np.random.default_rng(2).integers(0, 5, 300)
    for at in range(0, 290, 17):
        for order in range(1, 7):
            found = distribution(ids, 5, ids[at : at + 5], order)
            assert found.sum() == pytest.approx(1.0)


def test_packing_holds_for_large_vocabularies():
    # 6-grams over this vocabulary would overflow 64 bits if packed by their ids alone.
    random = np.random.default_rng(3)
    words = random.integers(0, 200_000, 50)
    ids = words[random.integers(0, 50, 2000)]
    compact = np.unique(ids, return_inverse=True)[1]
    large, small = losses_by_order(ids, ids, 200_000), losses_by_order(compact, compact, 50)
    # The uniform part differs, but nothing else does.
    difference = np.exp(-large) - np.exp(-small)
    assert abs(difference).max() < 0.02


def test_a_repeating_text_is_learned_by_the_order_that_needs_it():
    ids = np.tile([0, 1, 0, 2], 500)
    losses = losses_by_order(ids, ids, 3).mean(1)
    assert losses[0] > 1.0
    assert losses[1] > 0.3
    assert losses[2] < 0.01


def test_the_same_as_nltk():
    lm = pytest.importorskip("nltk.lm")
    from nltk.util import ngrams as nltk_ngrams

    # The text ends as it began, so that its first n-grams have something before them too; nltk
    # counts those that have not in one place and leaves them out in another.
    words = [*TEXT, *TEXT[:3]]
    names = sorted(set(words))
    ids = np.array([names.index(word) for word in words])
    order, discount = 3, 0.6
    reference = lm.KneserNeyInterpolated(order, discount=discount)
    grams = [gram for n in range(1, order + 1) for gram in nltk_ngrams(words, n)]
    reference.fit([grams], vocabulary_text=words)
    # nltk's unigrams are neither discounted nor mixed with the uniform distribution.
    for context in [("the", "cat"), ("sat", "on"), ("the",), ("log", "saw"), ()]:
        at = [names.index(word) for word in context]
        found = distribution(ids, len(names), at, order, [0.0, discount, discount])
        expected = [reference.score(name, context) for name in names]
        assert found == pytest.approx(expected, abs=1e-12), context


def test_tiny_shakespeare(shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    vocabulary, ids = np.unique(codes, return_inverse=True)
    losses = losses_by_order(ids[:cut], ids[cut:], len(vocabulary)).mean(1)
    assert (np.diff(losses) < 0).all()
    # The unigram entropy of the train part is near; six letters of memory halve it.
    assert losses[0] == pytest.approx(3.347, abs=0.002)
    assert 1.45 < losses[5] < 1.6
