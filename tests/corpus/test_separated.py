"""One plain text, cut into documents wherever something stands between them."""

from hypothesis import given
from hypothesis import strategies as st

from minitx.corpus.documents import separated


@given(
    parts=st.lists(st.text("ab \n", max_size=9), max_size=9),
    separator=st.text("ab\n", min_size=1, max_size=3),
)
def test_a_separator_cuts_a_text_wherever_its_parts_end(parts, separator):
    documents = [
        (document.number, "".join(document.parts))
        for document in separated(parts, separator, "a.txt")
    ]
    texts = enumerate("".join(parts).split(separator), start=1)
    assert documents == [(number, text) for number, text in texts if text.strip()]
    # Also where nobody reads them.
    numbers = [document.number for document in separated(parts, separator, "a.txt")]
    assert numbers == [number for number, _ in documents]


def test_a_text_without_its_separator_is_never_held():
    n_given = 0

    def parts():
        nonlocal n_given
        for _ in range(1000):
            n_given += 1
            yield "ab" * 500

    (document,) = (
        (max(map(len, document.parts)), n_given) for document in separated(parts(), "\n\n", "a.txt")
    )
    assert document == (1000, 1000)
    n_given = 0
    first = next(separated(parts(), "\n\n", "a.txt"))
    assert (len(next(iter(first.parts))), n_given) == (999, 1)
