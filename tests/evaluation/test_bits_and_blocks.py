import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation import arrays
from minitx.evaluation.arrays import bits_per, ids_within, token_sizes
from minitx.evaluation.comparison import MOST_BLOCKS, SMALLEST_BLOCK, BlockSums
from minitx.evaluation.holdout_figures import TextFigures
from minitx.evaluation.text_score import ScoredText
from minitx.tokenizer import train_tokenizer


def test_bits():
    assert bits_per(math.log(256), 1) == pytest.approx(8.0)
    # A uniform guess among 65 characters costs log2(65) bits for each.
    assert bits_per(1000 * math.log(65), 1000) == pytest.approx(math.log2(65))
    assert math.isnan(bits_per(1.0, 0))


@pytest.mark.parametrize(
    ("n_bytes", "n_characters", "first", "left"),
    [
        (10, 8, "é".encode(), (8, 7)),
        # Part of a character is no character.
        (10, 8, b"\xc3", (9, 8)),
        (1, 1, b"abc", (0, 0)),
    ],
)
def test_the_first_token_is_not_counted(n_bytes, n_characters, first, left):
    figures = TextFigures("text", 3, n_bytes, n_characters, 0)
    text = ScoredText(figures, np.zeros(3, np.int64), np.empty(0, np.uint8), is_holdout=True)
    assert text.scored_size(SimpleNamespace(token_bytes=lambda _: first)) == left


@pytest.mark.parametrize(("kind", "size"), [("char", 0), ("bpe", 270), ("word", 0)])
def test_token_sizes_add_up_to_the_text(kind, size):
    text = "Ein Käse, zwei Käse — drei Käse!\n" * 3
    tokenizer = train_tokenizer(text, kind, size)
    assert token_sizes(tokenizer)[tokenizer.encode(text)].sum() == len(text.encode())


def test_an_unknown_token_counts_as_one_byte():
    tokenizer = train_tokenizer("abc", "char", 0)
    ids = tokenizer.encode("aXc", unknown="replace")
    assert token_sizes(tokenizer)[ids].tolist() == [1, 1, 1]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 120), st.sampled_from([1, 7, 1000]))
def test_ids_that_fit_into_so_many_bytes(ids, n_bytes, at_once):
    sizes = np.array([1, 2, 3, 5])
    taken, total = 0, 0
    while taken < len(ids) and total + sizes[ids[taken]] <= n_bytes:
        total += sizes[ids[taken]]
        taken += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_AT_ONCE", at_once)
        assert ids_within(np.array(ids, np.int64), sizes, n_bytes) == taken


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 2000), st.integers(1, 50), st.integers(0, 9))
def test_blocks_hold_what_they_should(n, step, seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 6, 20)
    ids = random.integers(0, 20, n)
    n_bytes = int(sizes[ids].sum())
    losses = random.random(n - 1).astype(np.float32)
    sums = BlockSums(n_bytes, sizes)
    scored = np.arange(1, n)
    for start in range(0, n - 1, step):
        part = scored[start : start + step]
        sums.add(ids, part, losses[start : start + step])
    found = sums.result()
    expected = np.zeros((3, sums.n_blocks))
    offset = 0
    for i, token in enumerate(ids):
        if i:
            block = min(int(offset / max(1.0, n_bytes / sums.n_blocks)), sums.n_blocks - 1)
            expected[:, block] += (losses[i - 1], 1, sizes[token])
        offset += sizes[token]
    kept = expected[1] > 0
    assert found.number.tolist() == np.flatnonzero(kept).tolist()
    assert found.nats == pytest.approx(expected[0][kept])
    assert found.tokens.tolist() == expected[1][kept].tolist()
    assert found.bytes.tolist() == expected[2][kept].tolist()
    assert 1 <= sums.n_blocks <= MOST_BLOCKS
    assert sums.n_blocks == 1 or n_bytes / sums.n_blocks >= SMALLEST_BLOCK


def test_parts_of_a_text_fall_into_the_blocks_where_they_lie():
    sums = BlockSums(100_000, np.ones(4, dtype=np.int64))
    ids = np.zeros(100_000, dtype=np.uint16)
    sums.add(ids, np.arange(5_000, 5_010), np.ones(10, np.float32))
    sums.add(ids, np.arange(99_990, 100_000), np.full(10, 2, np.float32))
    found = sums.result()
    assert found.number.tolist() == [5, 99]
    assert found.nats.tolist() == [10.0, 20.0]
