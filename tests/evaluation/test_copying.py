import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation import common_passages as copying
from minitx.evaluation.common_passages import find_copied


def as_bytes(text):
    return np.frombuffer(text.encode(), np.uint8)


def naive(texts, train, least):
    longest, covered, total = 0, 0, 0
    for text in texts:
        marks = [False] * len(text)
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                if text[start:end] in train:
                    longest = max(longest, end - start)
                    if end - start >= least:
                        marks[start:end] = [True] * (end - start)
        covered += sum(marks)
        total += len(text)
    return longest, covered / total if total else 0.0


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("ab", max_size=25), max_size=3),
    train=st.text("ab", max_size=60),
    least=st.integers(1, 8),
    piece=st.sampled_from([7, 16, 1 << 20]),
)
def test_the_longest_stretch_and_what_is_covered(texts, train, least, piece):
    previous, copying._AT_ONCE = copying._AT_ONCE, piece
    try:
        found = find_copied(texts, as_bytes(train), least)
    finally:
        copying._AT_ONCE = previous
    longest, share = naive(texts, train, least)
    assert found.longest_bytes == longest == len(found.longest)
    assert found.copied_share == pytest.approx(share)
    assert found.n_bytes == sum(map(len, texts))
    assert found.longest in train
    assert any(found.longest in text for text in texts) or not found.longest


def test_a_planted_copy_is_found_in_its_full_length(shakespeare):
    train = shakespeare.read_bytes()[:300_000]
    copied = train[123_456 : 123_456 + 200].decode()
    found = find_copied(["xyzzy " + copied + " plugh"], np.frombuffer(train, np.uint8))
    assert copied in found.longest
    assert found.longest_bytes <= 202
    assert found.copied_share == pytest.approx(200 / 212, abs=0.02)


def test_language_of_the_same_kind_is_not_a_copy(shakespeare):
    content = shakespeare.read_bytes()
    found = find_copied([content[-900:-300].decode()], np.frombuffer(content[:500_000], np.uint8))
    assert found.copied_share < 0.1
    assert 8 <= found.longest_bytes < 60


def test_characters_are_shown_whole():
    # The shared bytes begin and end inside of characters.
    found = find_copied(["aéü日"], np.frombuffer("éé日ü日".encode()[1:], np.uint8), 2)
    assert found.longest.encode() in "aéü日".encode()
    assert found.longest_bytes >= len(found.longest.encode())


def test_a_hash_alone_is_no_proof(monkeypatch):
    # With all byte values alike, every stretch of a length has the same hash.
    monkeypatch.setattr(copying, "_VALUES", np.zeros(256, np.uint64))
    assert find_copied(["aaaa"], as_bytes("bbbbbb"), 2).longest_bytes == 0


@pytest.mark.parametrize("texts", [[], [""], ["abc"]])
@pytest.mark.parametrize("train", ["", "xyz"])
def test_nothing_shared(texts, train):
    found = find_copied(texts, as_bytes(train))
    assert (found.copied_share, found.longest, found.longest_bytes) == (0.0, "", 0)
