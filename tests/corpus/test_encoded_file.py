import os
import tempfile
import threading
import tracemalloc

import numpy as np
import pytest
from corpus_parts import split_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.corpus import encode_corpus, encode_file, splitting
from minitx.corpus.documents import Reading
from minitx.corpus.encoded_file import release
from minitx.corpus.readers import plain_text
from minitx.corpus.readers.plain_text import decoded
from minitx.errors import BadInputError
from minitx.tokenizer import base, train_tokenizer

TEXT = "".join(f"Line {i} has a naïve fox,\r\n\nand {i % 7} ☃ men.\n" for i in range(300))
TOKENIZERS = {
    "bpe": train_tokenizer(TEXT, "bpe", 300),
    "char": train_tokenizer(TEXT[:200], "char", 0),
    "word": train_tokenizer(TEXT, "word", 40),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_in_blocks_is_the_text_at_once(kind, mark, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "_BLOCK", 101)
    monkeypatch.setattr(base, "_CHUNK", 30)
    tokenizer = TOKENIZERS[kind]
    path = tmp_path / "text.txt"
    path.write_bytes(mark + TEXT.encode())
    found = encode_file(path, tokenizer)
    expected = tokenizer.encode(TEXT, unknown="replace")
    assert np.array_equal(found.ids, expected)
    assert found.content.tobytes() == TEXT.encode()
    assert found.counts.tokens == len(expected)
    assert found.counts.characters == len(TEXT)
    assert found.counts.bytes == len(TEXT.encode())
    unknown = 0 if tokenizer.unknown_id is None else (expected == tokenizer.unknown_id).sum()
    assert found.counts.unknown == unknown
    assert (unknown > 0) == (kind != "bpe")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_corpus_in_parts_is_the_text_at_once_and_says_how_far_it_is(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, "_BLOCK", 101)
    monkeypatch.setattr(base, "_CHUNK", 30)
    tokenizer, told = TOKENIZERS[kind], []
    cut = len(TEXT) // 2
    texts = {"train": TEXT[:cut], "holdout": TEXT[cut:]}
    split = split_of(tmp_path, **texts)
    corpus = encode_corpus(split, tokenizer, progress=lambda *how: told.append(how))
    for part, text in texts.items():
        expected = tokenizer.encode(text, unknown="replace")
        assert np.array_equal(getattr(corpus, f"{part}_ids"), expected)
        assert text_of(corpus, part) == text
        assert getattr(corpus, part).characters == len(text)
    done, n_bytes = [done for done, _ in told], len(TEXT.encode())
    assert done == sorted(done)
    assert (done[-1], {total for _, total in told}) == (n_bytes, {n_bytes})


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_after_each_document_of_several_stands_its_end(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_CHUNK", 30)
    monkeypatch.setattr(base, "_CHUNKS_AT_ONCE", 3)
    tokenizer = TOKENIZERS[kind]
    texts = TEXT.splitlines(keepends=True)
    path = tmp_path / "texts.txt"
    path.write_bytes("---".join(texts).encode())
    found = encode_file(path, tokenizer, Reading(separator="---"))
    corpus = encode_corpus(split_of(tmp_path / "data", texts[:-9], texts[-9:]), tokenizer)
    expected = [
        id for text in texts if text.strip()
        for id in (*tokenizer.encode(text, unknown="replace").tolist(), tokenizer.end_id)
    ]  # fmt: skip
    assert found.ids.tolist() == expected
    blank = [text for text in texts if not text.strip()]
    assert len(blank) > 50
    for ids, own in ((corpus.train_ids, texts[:-9]), (corpus.holdout_ids, texts[-9:])):
        assert ids.tolist() == [
            id for text in own
            for id in (*tokenizer.encode(text, unknown="replace").tolist(), tokenizer.end_id)
        ]  # fmt: skip


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(TEXT.encode(),))
    writer.start()
    found = encode_file(path, TOKENIZERS["bpe"])
    writer.join()
    assert np.array_equal(found.ids, TOKENIZERS["bpe"].encode(TEXT))


@given(st.text(max_size=40), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_characters_may_be_cut_anywhere(text, size):
    content = text.replace("\0", "").encode("utf-8", "replace")
    blocks = [content[i : i + size] for i in range(0, len(content), size)]
    assert "".join(decoded(blocks, "it")) == content.decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no text in it"),
        (b" \n\n", "has no text in it"),
        (b"abc\0def", "byte 3 is zero"),
        (b"abcdefgh\xe2\x98", "is not UTF-8: byte 8 is 0xe2"),
        (b"ab\xff", "is not UTF-8: byte 2 is 0xff"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "_BLOCK", 3)
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        encode_file(path, TOKENIZERS["char"])


def test_no_room_for_the_ids_is_told_with_the_place(tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(BadInputError, match="No space left on device.*TMPDIR"):
        encode_file(path, TOKENIZERS["char"])


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for times in (40, 400):
        path = tmp_path / f"{times}.txt"
        path.write_text(TEXT * times)
        tracemalloc.start()
        encode_file(path, TOKENIZERS["char"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (tmp_path / "400.txt").stat().st_size > 4_000_000
    assert peaks[1] < 2.5 * max(peaks[0], 8_000_000)


def test_what_is_released_is_still_there(tmp_path):
    path = tmp_path / "ids"
    np.arange(5000, dtype="<u2").tofile(path)
    mapped = np.memmap(path, "<u2", "r")
    release(mapped[10:20])
    assert mapped[4999] == 4999
    release(np.arange(3))
