from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.generation.row import TextStream


def cut(content, places):
    borders = sorted({min(place, len(content)) for place in places} | {0, len(content)})
    return [content[a:b] for a, b in zip(borders, borders[1:], strict=False)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30), places=st.lists(st.integers(0, 120), max_size=12))
def test_pieces_are_whole_characters_and_add_up(text, places):
    stream = TextStream()
    pieces = [stream.feed(part) for part in cut(text.encode("utf-8", "surrogatepass"), places)]
    pieces.append(stream.finish())
    expected = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert "".join(pieces) == stream.text == expected
    # A character that arrives in parts is never shown as U+FFFD first.
    if "\ufffd" not in expected:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc\n", max_size=20),
    stops=st.lists(st.text("abc\n", min_size=1, max_size=4), max_size=3),
    places=st.lists(st.integers(0, 20), max_size=10),
)
def test_stop_string_ends_the_text_however_it_is_cut(text, stops, places):
    stream, shown = TextStream(tuple(stops)), ""
    fed = ""
    for part in cut(text.encode(), places):
        fed += part.decode()
        shown += stream.feed(part)
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
    else:
        shown += stream.finish()
    found = [fed.find(stop) for stop in stops if stop in fed]
    assert stream.stopped == bool(found)
    assert shown == (fed[: min(found)] if found else text)
    assert stream.finish() == ""


def test_only_what_may_become_a_stop_string_is_held_back():
    stream = TextStream(("\n\nEND",))
    assert stream.feed(b"one\n") == "one"
    assert stream.held == "\n"
    assert stream.feed(b"two") == "\ntwo"


def test_stop_strings_may_not_count_yet():
    stream = TextStream(("ab",))
    assert stream.feed(b"xab", may_stop=False) == "xab"
    assert stream.feed(b"ab") == ""
    assert stream.stopped


def test_half_a_character_at_the_end_becomes_a_replacement():
    stream = TextStream()
    assert stream.feed("é".encode()[:1]) == ""
    assert stream.finish() == "\ufffd"
