"""Loss by document and without leaks, against loops over tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation import by_document
from minitx.evaluation.by_document import FEWEST_TOKENS, Documents, DocumentSums
from minitx.evaluation.scoring import LossChunk

END, UNKNOWN = 7, 6
SIZES = np.array([1.0, 1, 2, 3, 5, 9, 2.5, 0])

bodies = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=60), min_size=1, max_size=12
)  # fmt: skip


def summed(documents, has_ends, spans, compared, n_chunks, losses):
    """What is summed of a text of these documents, and each token's document, start and loss."""
    ids, of, starts, ends, position = [], [], [], [], 0
    for number, body in enumerate(documents):
        for token in [*body, *([END] if has_ends else [])]:
            ids.append(token)
            of.append(number)
            starts.append(position if token != END else position - 1)
            position += int(SIZES[token])
        ends.append(position)
    ids, of, starts = np.array(ids, np.uint16), np.array(of), np.array(starts)
    losses = np.random.default_rng(losses).random(len(ids)).astype(np.float32)
    sums = DocumentSums(
        Documents(
            np.array(ends), str, np.array(spans, np.int64).reshape(-1, 2),
            np.array(compared, np.int64).reshape(-1, 2),
        ),
        position, SIZES, END if has_ends else None,
    )  # fmt: skip
    for index in np.array_split(np.arange(1, len(ids)), n_chunks):
        if len(index):
            sums.add(ids, LossChunk(index, index, losses[index]))
    return sums, ids, of, starts, losses


def spans_in(size, edges):
    edges = sorted({min(size, edge) for edge in edges})
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@settings(max_examples=200, deadline=None)
@given(
    documents=bodies, has_ends=st.booleans(), edges=st.lists(st.integers(0, 900), max_size=8),
    limits=st.lists(st.integers(0, 900), max_size=4), n_chunks=st.integers(1, 9),
    at_once=st.integers(1, 50), seed=st.integers(0, 99),
)  # fmt: skip
def test_sums_are_those_of_a_loop(documents, has_ends, edges, limits, n_chunks, at_once, seed):
    size = sum(int(SIZES[token]) for body in documents for token in body)
    leaked, compared = spans_in(size, edges), spans_in(size, limits) or [(0, size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_document, "_AT_ONCE", at_once)
        sums, ids, of, starts, losses = summed(
            documents, has_ends, leaked, compared, n_chunks, seed
        )
    targets = np.arange(1, len(ids))
    # Loss by document.
    expected = {
        int(number): [losses[i] for i in targets if of[i] == number] for number in set(of[targets])
    }
    found = sums.by_document()
    if len(expected) < 2:
        assert found is None
    else:
        assert found.documents == len(expected)
        enough = {k: v for k, v in expected.items() if len(v) >= FEWEST_TOKENS}
        ranked = enough if len(enough) > 1 else expected
        means = {k: float(np.mean(np.array(v, np.float64))) for k, v in ranked.items()}
        order = sorted(means, key=means.get)
        n = min(3, len(order) // 2)
        ends = np.cumsum([sum(SIZES[token] for token in body) for body in documents])
        first_bytes = np.append(0, ends[:-1])
        for shown, numbers in ((found.best, order[:n]), (found.worst, order[::-1][:n])):
            assert [one.name for one in shown] == [str(int(first_bytes[k])) for k in numbers]
            assert [one.tokens for one in shown] == [len(ranked[k]) for k in numbers]
            assert [one.loss for one in shown] == pytest.approx([means[k] for k in numbers])
        assert found.quantiles[1] == pytest.approx(np.quantile(list(means.values()), 0.5))
    # Without leaks.
    if leaked:
        clean = [
            i for i in targets
            if any(a <= starts[i] < b for a, b in compared)
            and not any(a <= starts[i] < b for a, b in leaked)
        ]  # fmt: skip
        blocks = sums.clean()
        assert (blocks is None) == (not clean)
        if clean:
            assert blocks.tokens.sum() == len(clean)
            assert blocks.nats.sum() == pytest.approx(losses[clean].sum(dtype=np.float64))
            assert blocks.bytes.sum() == np.rint(SIZES)[ids[clean]].sum()
    else:
        assert sums.clean() is None


def test_bits_per_byte_are_of_the_document():
    documents = [[0] * 30, [4] * 30]
    sums, _, _, _, losses = summed(documents, True, [], [], 1, 3)
    found = sums.by_document()
    (worst,) = found.worst
    own = losses[1:31] if worst.name == "0" else losses[31:]
    n_bytes = 29 if worst.name == "0" else 150
    assert worst.bits_per_byte == pytest.approx(own.sum(dtype=np.float64) / np.log(2) / n_bytes)


def test_ends_keep_documents_apart_where_sizes_are_not_known():
    # Unknown tokens that are counted with a wrong size would move all that follows.
    documents = [[UNKNOWN] * 40, [0] * 30, [1] * 30]
    ids = [*[UNKNOWN] * 40, END, *[0] * 30, END, *[1] * 30, END]
    sums = DocumentSums(Documents(np.array([200, 230, 260]), str), 260, SIZES, END)
    index = np.arange(1, len(ids))
    losses = np.array([9.0] * 41 + [1.0] * 31 + [5.0] * 31, np.float32)[1:]
    sums.add(np.array(ids), LossChunk(index, index, losses))
    found = sums.by_document()
    assert found.documents == len(documents)
    assert [(one.name, one.loss) for one in (*found.best, *found.worst)] == [("200", 1), ("0", 9)]
