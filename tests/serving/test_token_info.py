"""Where tokens begin, by the text that all of them make together."""

from hypothesis import given
from hypothesis import strategies as st

from minitx.generation.row import TextStream
from minitx.serving.jobs import text_offset

pieces = st.sampled_from([b"a", "é".encode(), b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"ng", b""])


@given(st.lists(pieces, max_size=12))
def test_a_whole_token_stands_where_it_is_said_to(contents):
    stream, found = TextStream(), []
    for content in contents:
        before = len(stream.text)
        stream.feed(content)
        found.append(text_offset(content, before, len(stream.text)))
    stream.finish()
    for content, at in zip(contents, found, strict=True):
        try:
            own = content.decode()
        except UnicodeDecodeError:
            continue
        assert stream.text[at:].startswith(own)
    assert found == sorted(found)
