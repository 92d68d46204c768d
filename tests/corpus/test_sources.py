"""Sources that are named oddly, twice, or are no files; encoded files that changed on disk."""

import io
import os
import sys
from pathlib import Path

import pytest
from corpus_parts import read, split_of, text_of

from minitx.config import DataConfig
from minitx.corpus import encode_corpus, load_encoded, read_corpus, split_corpus
from minitx.errors import BadInputError, DamagedFileError
from minitx.tokenizer import train_tokenizer


@pytest.fixture(autouse=True)
def _inside(inside):
    (inside / "d").mkdir()
    (inside / "d/a.txt").write_text("one\n")
    (inside / "d/b.txt").write_text("two\n")


@pytest.mark.parametrize(
    "sources",
    [["d", "d/a.txt"], ["d/a.txt", "d/b.txt", "./d/a.txt"], ["d/*.txt", "d"], ["d", "d/link.txt"]],
)
def test_a_file_is_read_once_however_it_is_named(sources):
    Path("d/link.txt").symlink_to("a.txt")
    assert read(sources) == ["one\n", "two\n"]


def test_standard_input_is_read_once_and_takes_its_place():
    assert read(["d/a.txt", "-", "d/b.txt", "-"], io.BytesIO(b"piped")) == [
        "one\n", "piped", "two\n"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("d", "d"),
        ("d/a.txt", "a"),
        ("d/*.txt", "d"),
        ("d/../d", "d"),
        ("with space & more.tar.txt", "with-space-more.tar"),
        ("...txt", "corpus"),
        ("x" * 90 + ".txt", "x" * 60),
        ("ünï.txt", "ünï"),
    ],
)
def test_names_are_fit_for_a_directory(source, name):
    if not ("*" in source or Path(source).exists()):
        Path(source).write_text("text")
    assert read_corpus([source]).name == name


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gone.txt", "gone.txt does not exist"),
        ("gone/*.txt", "no file matches"),
        ("empty", "directory empty has no text files"),
        ("a\0b", "is no path"),
        ("To be, or not to be:\n" * 300, "can't be read .File name too long"),
        ("/dev/null", "/dev/null is a device"),
    ],
    ids=["missing", "glob", "directory", "null", "the text itself", "device"],
)
def test_sources_that_are_none(source, words):
    Path("empty").mkdir()
    with pytest.raises(BadInputError, match=words) as caught:
        read([source])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_file_that_may_not_be_read(monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInputError, match=r"d/a.txt can't be read \(Permission denied\)"):
        read(["d"])


def test_a_python_without_its_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(BadInputError, match="comes without the reference"):
        read([])


def test_binary_and_invalid_files_of_a_directory_are_named():
    Path("d/c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInputError, match=r"d/c.txt is not UTF-8: byte 3 is 0xe9"):
        read(["d"])
    Path("d/c.txt").write_bytes("abc".encode("utf-16"))
    with pytest.raises(BadInputError, match=r"d/c.txt is binary, not text: byte 3 is zero"):
        read(["d"])


TRAIN, HOLDOUT = "the cat sat on the mat\n" * 30, "a dog\n" * 5


@pytest.mark.parametrize("name", ["train.txt", "holdout.txt", "train.ids", "holdout.ids"])
def test_a_changed_byte_is_noticed_and_encoded_anew(inside, name):
    tokenizer = train_tokenizer(TRAIN, "char", 0)
    encode_corpus(split_of(inside / "data", TRAIN, HOLDOUT), tokenizer)
    path = inside / "data" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"the {path.suffix} files are not what they were"):
        load_encoded(inside / "data")
    # Such a directory is not linked from either.
    fresh = encode_corpus(split_of(inside / "fresh", TRAIN, HOLDOUT), tokenizer, [inside / "data"])
    assert text_of(fresh, "train") == TRAIN
    again = encode_corpus(split_of(inside / "data", TRAIN, HOLDOUT), tokenizer)
    assert again.train_ids.tolist() == tokenizer.encode(TRAIN).tolist()
    assert again.train.bytes == len(TRAIN)


def test_only_a_directory_of_the_same_text_and_tokenizer_is_checked(inside, monkeypatch):
    from minitx.corpus import encoded

    tokenizer = train_tokenizer(TRAIN, "char", 0)
    encode_corpus(split_of(inside / "other", TRAIN, HOLDOUT), tokenizer)
    opened = []
    real = encoded.load_encoded
    monkeypatch.setattr(encoded, "load_encoded", lambda path: opened.append(path) or real(path))
    encode_corpus(split_of(inside / "new", "cat", ""), tokenizer, [inside / "other"])
    assert opened == [inside / "new"]


def test_a_run_that_vanishes_while_it_is_copied_from_is_no_loss(inside, monkeypatch):
    tokenizer = train_tokenizer(TRAIN, "char", 0)
    encode_corpus(split_of(inside / "one", TRAIN, HOLDOUT), tokenizer)

    def vanish(*_):
        (inside / "one/train.ids").unlink(missing_ok=True)
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", vanish)
    fresh = encode_corpus(split_of(inside / "two", TRAIN, HOLDOUT), tokenizer, [inside / "one"])
    assert text_of(fresh, "train") == TRAIN
    assert not list((inside / "two").glob(".*"))


def test_reading_tells_how_far_it_is(tmp_path):
    (tmp_path / "texts").mkdir()
    files = [tmp_path / "texts" / name for name in ("a.jsonl", "b.txt")]
    files[0].write_text('{"text": "one"}\n' * 30)
    files[1].write_text("two\n" * 1_000_000)
    told = []
    corpus = read_corpus(["texts"])
    split_corpus(corpus, DataConfig(), tmp_path / "data", progress=lambda *seen: told.append(seen))
    sizes = [file.stat().st_size for file in files]
    assert told[0] == (sizes[0], sum(sizes))
    assert told[-1] == (sum(sizes), sum(sizes))
    # A long document is told of while it is read.
    assert len({done for done, _ in told if done > sizes[0]}) > 3
