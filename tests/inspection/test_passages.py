import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitx.inspection import passages
from minitx.inspection.passages import find_passages


def by_hand(text, context):
    """The longest ending that occurs with a token after it, and what follows where."""
    for length in range(min(len(context), 64), 0, -1):
        ending = context[-length:]
        ends = [i + length for i in range(len(text) - length) if text[i : i + length] == ending]
        if ends:
            return length, ends
    return 0, []


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.sampled_from([3, 7, 1 << 22]),
)
def test_what_is_found_is_what_a_search_by_hand_finds(text, context, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "_BLOCK", block)
        found = find_passages(np.array(text, np.uint16), np.array(context), most=3)
    length, ends = by_hand(text, context)
    assert (found.length, found.count) == (length, len(ends))
    after = [text[end] for end in ends]
    assert dict(found.following) == {token: after.count(token) for token in after}
    counts = [count for _, count in found.following]
    assert counts == sorted(counts, reverse=True)
    assert len(found.excerpts) == min(3, len(ends))
    for before, rest in found.excerpts:
        assert before[-length:] == context[-length:]
        assert rest[0] in after
