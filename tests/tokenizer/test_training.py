"""Same text and settings, same file; vocabularies of the size asked for; cuts that move no id."""

import json
import os
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from minitx.errors import BadInputError
from minitx.tokenizer import chunks, train_tokenizer
from minitx.tokenizer.base import END_OF_TEXT
from minitx.tokenizer.bpe import EARLIER_PATTERN, GPT2_PATTERN, PATTERN, QWEN2_PATTERN
from minitx.tokenizer.chunks import LINE_END, LINE_START
from minitx.tokenizer.word_level import WORD

WITH_LINE_ENDS = (PATTERN, QWEN2_PATTERN, GPT2_PATTERN)

TEXT = "".join(
    f"Line {i}: the {['cat', 'dog', 'naïve fox'][i % 3]} sat on the {i % 7} mats, didn't it?\n"
    + ("\n" if i % 5 == 0 else "   indented\r\n" if i % 11 == 0 else "")
    for i in range(400)
)
SHAKESPEARE = Path(__file__).parents[3] / "shared/data/tinyshakespeare.txt"

SCRIPT = """
import sys
from minitx.tokenizer import train_tokenizer
text = sys.stdin.buffer.read().decode()
for kind, size in (("bpe", 400), ("char", 20), ("word", 60)):
    sys.stdout.buffer.write(train_tokenizer(text, kind, size).json_bytes)
"""


@pytest.mark.parametrize(
    "threads",
    [{"TOKENIZERS_PARALLELISM": "false"}, {"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "7"}],
    ids=["serial", "one", "seven"],
)
def test_the_same_file_whatever_the_threads_and_the_hash_seed(threads):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=TEXT.encode(),
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, **threads, "PYTHONHASHSEED": "17"},
    )
    here = b"".join(
        train_tokenizer(TEXT, kind, size).json_bytes
        for kind, size in (("bpe", 400), ("char", 20), ("word", 60))
    )
    assert done.stdout == here


def test_digest_is_that_of_the_file():
    first, second = train_tokenizer(TEXT, "bpe", 300), train_tokenizer(TEXT, "bpe", 301)
    assert first.digest == sha256(first.json_bytes).hexdigest()
    assert first.digest != second.digest
    assert first.json_bytes == train_tokenizer(TEXT, "bpe", 300).json_bytes


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_training_in_chunks_is_training_at_once(kind, monkeypatch):
    size = {"bpe": 400, "char": 0, "word": 0}[kind]
    whole = train_tokenizer(TEXT, kind, size)
    monkeypatch.setattr("minitx.tokenizer.chunks._TRAINING_CHUNK", 50)
    assert train_tokenizer(TEXT, kind, size).json_bytes == whole.json_bytes
    lines = TEXT.splitlines(keepends=True)
    blocks = ["".join(lines[i : i + 55]) for i in range(0, len(lines), 55)]
    if kind == "char":
        assert train_tokenizer(iter(blocks), kind, size).json_bytes == whole.json_bytes


def test_texts_of_an_iterable_are_not_joined():
    apart = train_tokenizer(["ab"] * 9 + ["c"] * 9, "bpe", 300)
    longest = sorted(apart.backend.get_vocab(), key=len)[-2:]
    assert longest == ["ab", END_OF_TEXT]


# Characters at which the patterns decide: letters, marks, digits, quotes, white space of all sorts.
pieces = st.lists(
    st.sampled_from(
        ["a", "b", "é", "e\u0301", "1", "23", "'", "’", "'s", "!", "-" * 70, "x" * 70, " ", "  ",
         "\t", "\n", "\n", "\r\n", "\r", "\u2028", "\x85", "\x0b", "中", "👩‍💻", "_", "\u00a0"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


def cut_by(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


@pytest.mark.parametrize("pattern", [EARLIER_PATTERN, WORD], ids=["earlier", "word"])
@given(pieces)
@settings(deadline=None, max_examples=400)
def test_no_token_crosses_the_start_of_a_line(pattern, text):
    # Merges are left out: what is cut apart here is never merged.
    cut = cut_by(pattern).pre_tokenize_str
    apart = [piece for part in chunks.chunks(text, 1, LINE_START) for piece, _ in cut(part)]
    assert apart == [piece for piece, _ in cut(text)]
    assert "".join(chunks.chunks(text, 1, LINE_START)) == text


@pytest.mark.parametrize("pattern", WITH_LINE_ENDS, ids=["llama3", "qwen2", "gpt2"])
@given(pieces)
@settings(deadline=None, max_examples=400)
def test_no_token_crosses_a_lone_line_end(pattern, text):
    cut = cut_by(pattern).pre_tokenize_str
    apart = [piece for part in chunks.chunks(text, 1, LINE_END) for piece, _ in cut(part)]
    assert apart == [piece for piece, _ in cut(text)]


@pytest.mark.parametrize("pattern", [*WITH_LINE_ENDS, EARLIER_PATTERN, WORD])
@given(pieces, st.integers(4, 40))
@settings(deadline=None, max_examples=300)
def test_a_text_without_breaks_is_cut_where_a_piece_starts(pattern, text, size):
    border, cut = LINE_END if pattern in WITH_LINE_ENDS else LINE_START, cut_by(pattern)

    def starts(part):
        return [start for _, (start, _) in cut.pre_tokenize_str(part)]

    parts = chunks.chunks(text, size, border, starts)
    apart = [piece for part in parts for piece, _ in cut.pre_tokenize_str(part)]
    assert apart == [piece for piece, _ in cut.pre_tokenize_str(text)]
    assert "".join(parts) == text


ONE_LINE = {
    "words": "the cat, 12 dogs and a naïve fox (don't!) " * 4000,
    "no spaces": "thecat,12dogsandanaïvefox(don't!)" * 4000,
    "one run": "ab" * 60_000,
    "chinese": "中文没有空格。只有字和句号，" * 8000,
    "spaces": "  x" * 40_000,
    "empty lines": "\n" * 120_000,
}


ONE_PIECE = {"one run", "empty lines"}  # to the rule of BPE


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
@pytest.mark.parametrize("name", ONE_LINE)
def test_one_long_line_is_never_encoded_as_a_whole(kind, name, monkeypatch):
    from minitx.tokenizer import base

    text = ONE_LINE[name]
    tokenizer = TRAINED[kind]
    given = []
    real = type(tokenizer)._ids_of
    monkeypatch.setattr(
        type(tokenizer), "_ids_of", lambda self, texts: given.extend(texts) or real(self, texts)
    )
    whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
    blocks = [text[i : i + 5000] for i in range(0, len(text), 5000)]
    parts = list(tokenizer.encode_parts(iter(blocks), "replace"))
    assert [int(i) for part in parts for i in part] == whole
    if kind != "bpe" or name not in ONE_PIECE:
        assert max(map(len, given)) <= 2 * base._CHUNK
    assert "".join(given) == text
    trained = chunks.training_chunks([text], TRAINED["bpe"].backend.pre_tokenizer)
    assert max(map(len, trained)) <= 2 * chunks._TRAINING_CHUNK


def test_a_border_elsewhere_would_be_noticed():
    # So that the two tests above can fail: cutting at any character does change pieces.
    text = "one two\n\n\nthree"
    cut = TRAINED["bpe"].backend.pre_tokenizer.pre_tokenize_str
    apart = [piece for part in chunks.chunks(text, 1, chunks.ANYWHERE) for piece, _ in cut(part)]
    assert apart != [piece for piece, _ in cut(text)]


TRAINED = {
    "bpe": train_tokenizer(TEXT, "bpe", 400),
    "char": train_tokenizer(TEXT, "char", 0),
    "word": train_tokenizer(TEXT, "word", 0),
}


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_encoding_in_parts_is_encoding_at_once(kind, monkeypatch):
    from minitx.tokenizer import base

    tokenizer = TRAINED[kind]
    whole = tokenizer.backend.encode(TEXT, add_special_tokens=False).ids
    monkeypatch.setattr(base, "_CHUNK", 40)
    monkeypatch.setattr(base, "_CHUNKS_AT_ONCE", 3)
    parts = list(tokenizer.encode_parts(TEXT))
    assert len(parts) > 50
    assert [int(i) for part in parts for i in part] == whole


def test_bpe_sizes():
    assert train_tokenizer(TEXT, "bpe", 330).vocab_size == 330
    assert train_tokenizer(TEXT, "bpe", 257).vocab_size == 257
    for size in (0, 1, 256):
        with pytest.raises(BadInputError, match=r"256 bytes.*Choose --vocab-size 257 or more"):
            train_tokenizer(TEXT, "bpe", size)
    # A text too poor for so many merges gives what it has.
    assert train_tokenizer("aaaa aaaa", "bpe", 5000).vocab_size < 270


def test_bpe_merges_the_most_frequent_pair_first():
    content = json.loads(train_tokenizer("ab ab ab ab cd cd", "bpe", 259).json_bytes)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in
              content["model"]["merges"]]  # fmt: skip
    assert merges[0] == ("a", "b")
    assert merges[1] == ("Ġ", "ab")


@given(st.text(alphabet="abcdeéž \n", max_size=60), st.integers(3, 12))
@settings(deadline=None, max_examples=150)
def test_char_keeps_the_most_frequent(text, size):
    counts = Counter(text)
    expected = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: size - 2])
    tokenizer = train_tokenizer(text, "char", size)
    assert [tokenizer.piece(i) for i in range(tokenizer.vocab_size - 2)] == expected
    assert tokenizer.vocab_size == len(expected) + 2
    assert train_tokenizer(text, "char", 0).vocab_size == len(counts) + 2


def test_word_keeps_the_most_frequent():
    text = "b b b a a c c d\n"
    tokenizer = train_tokenizer(text, "word", 6)
    assert [tokenizer.piece(i) for i in range(6)] == [" ", "b", "a", "c", "<unk>", "<|endoftext|>"]
    assert train_tokenizer(text, "word", 0).vocab_size == 8
    assert (
        tokenizer.decode(tokenizer.encode(text, unknown="replace")) == "b b b a a c c \ufffd\ufffd"
    )
    assert tokenizer.unknown_characters(text) == ["d", "\n"]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_vocabulary_of_special_tokens_alone_is_refused(kind):
    for size in (1, 2):
        with pytest.raises(BadInputError, match=r"take 2\. Choose --vocab-size 3 or more"):
            train_tokenizer(TEXT, kind, size)


def test_unknown_kind_and_invalid_unicode():
    with pytest.raises(BadInputError, match="Choose one of bpe, char, word"):
        train_tokenizer(TEXT, "sentencepiece", 300)  # type: ignore[arg-type]
    for kind in ("bpe", "char", "word"):
        with pytest.raises(BadInputError, match="lone surrogate") as caught:
            train_tokenizer("a\ud800b", kind, 300)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [" " * 200_000, "ab" * 100_000, "-" * 200_000, "\n" * 200_000],
                         ids=["spaces", "letters", "dashes", "lines"])  # fmt: skip
def test_a_text_without_breaks_takes_no_longer(text):
    tokenizer = train_tokenizer(text, "bpe", 512)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)) <= 128
    words = train_tokenizer(text, "word", 0)
    assert words.decode(words.encode(text)) == text
    assert words.vocab_size <= 4


def test_tiny_shakespeare():
    if not SHAKESPEARE.is_file():
        pytest.skip("tiny Shakespeare is not here")
    text = SHAKESPEARE.read_bytes().decode()
    letters = train_tokenizer(text, "char", 0)
    assert letters.vocab_size == 67
    assert letters.decode(letters.encode(text)) == text
    pairs = train_tokenizer(text, "bpe", 1024)
    ids = pairs.encode(text)
    assert pairs.decode(ids) == text
    assert len(text) / len(ids) > 2.5
    assert ids.tolist() == pairs.backend.encode(text).ids
