import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.evaluation import copying
from minitx.evaluation.copying import COPY_BYTES, find_copied


def as_bytes(text):
    return np.frombuffer(text.encode(), np.uint8)


def copied(text, train, least, margin=0):
    """Which bytes lie in a stretch of so many that the train part has, too; not at its ends."""
    marks = np.zeros(len(text), bool)
    for start in range(len(text) - least + 1):
        if text[start : start + least] in train:
            marks[start + margin : start + least - margin] = True
    return marks


words = st.lists(st.sampled_from(["to be ", "or not to be: ", "that is ", "the question\n", "é"]))
texts_of_words = st.lists(words.map("".join), max_size=3)


@settings(deadline=None, max_examples=100)
@given(texts=texts_of_words, train=words.map("".join), piece=st.sampled_from([16, 64, 1 << 20]))
def test_all_long_stretches_are_found_and_no_short_ones(texts, train, piece):
    previous, copying._AT_ONCE = copying._AT_ONCE, piece
    try:
        found = find_copied(texts, as_bytes(train))
    finally:
        copying._AT_ONCE = previous
    raw, other = [text.encode() for text in texts], train.encode()
    n_bytes = sum(map(len, raw))
    assert found.n_bytes == n_bytes
    # In a text that repeats itself, the bytes before a window may be others where it was seen.
    least, most = (
        sum(copied(text, other, n, margin).sum() for text in raw) / max(1, n_bytes)
        for n, margin in ((COPY_BYTES, copying._STRIDE - 1), (copying._WINDOW, 0))
    )
    assert least - 1e-9 <= found.copied_share <= most + 1e-9
    assert found.longest in train
    assert any(found.longest in text for text in texts) or not found.longest
    assert (found.longest_bytes >= copying._WINDOW) == (found.copied_share > 0)


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
    assert found.longest_bytes < 60


def test_characters_are_shown_whole():
    # The shared bytes begin and end inside of characters.
    copy = "日月火水木金土天地人山"
    found = find_copied([f"é{copy}é"], np.frombuffer(f"ã{copy}è".encode(), np.uint8))
    assert found.longest == copy
    assert found.longest_bytes == len(copy.encode()) + 1


@pytest.mark.parametrize("texts", [[], [""], ["abc"]])
@pytest.mark.parametrize("train", ["", "xyz"])
def test_nothing_shared(texts, train):
    found = find_copied(texts, as_bytes(train))
    assert (found.copied_share, found.longest, found.longest_bytes) == (0.0, "", 0)
