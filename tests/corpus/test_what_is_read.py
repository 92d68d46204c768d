"""What may be read as a corpus, what is refused or warned of, and advice that works when done."""

import gzip
import io
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from corpus_parts import read

from minitx.config import DataConfig
from minitx.corpus import encode_file, read_corpus, split_corpus
from minitx.errors import BadInputError
from minitx.tokenizer import train_tokenizer

TEXT = "Grüße aus dem Wald, naïve Füchse!\n" * 20
CHINESE = "中文没有空格\n" * 20


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


def refusal(content, name="text.txt"):
    Path(name).write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read([name])
    assert "\n" not in str(caught.value)
    return caught.value


# Encodings


def carried_out(fix, content):
    """The output of the command that an advice names, with the file as its input."""
    command = re.search(r"(iconv|gzip|xz|bzip2|zstd|head|tr) [^;,]*", fix)[0]
    words = shlex.split(command)
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not here")
    return subprocess.run(words, input=content, capture_output=True, check=True).stdout


# Without zero bytes but for the line end, which for some are valid UTF-8 then; or without any.
ALPHABETS = [
    "Все счастливые семьи похожи друг на друга.\n", "Всесчастливыесемьи\n", "Όλεςοιευτυχισμένες\n",
    "כלהמשפחותהמאושרות\n", "كلالعائلاتالسعيدة\n", "ทุกครอบครัวที่มีความสุข\n",
    "सभीसुखीपरिवारएकजैसेहोतेहैं\n", "すべての幸せな家庭は似ている。", "모든행복한가정은서로닮았다",
    "幸福的家庭都是相似的不幸的家庭各有各的不幸",
]  # fmt: skip


@pytest.mark.parametrize("text", [TEXT, CHINESE, "a\n", *ALPHABETS, *(9 * t for t in ALPHABETS)])
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_advice_for_wide_encodings_works(text, encoding):
    content = text.encode(encoding)
    fix = refusal(content).fix
    assert "latin1" not in fix
    Path("fixed.txt").write_bytes(carried_out(fix, content))
    assert read(["fixed.txt"]) == [text]


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\x00\x00"])
def test_a_mark_alone_tells_the_encoding(mark):
    assert re.search(r"iconv -f UTF-(16|32) -t utf-8", refusal(mark).fix)


@pytest.mark.parametrize("encoding", ["latin1", "cp1252"])
def test_advice_for_western_text_works(encoding):
    text = TEXT.replace("naïve", "naïve „so“ –" if encoding == "cp1252" else "naïve")
    content = text.encode(encoding)
    Path("fixed.txt").write_bytes(carried_out(refusal(content).fix, content))
    assert read(["fixed.txt"]) == [text]


@pytest.mark.parametrize("text", [TEXT, CHINESE], ids=["german", "chinese"])
def test_advice_for_a_file_that_was_cut_works(text):
    encoded = text.encode()
    last = max(i for i, byte in enumerate(encoded) if byte >= 0x80)
    first = min(i for i, byte in enumerate(encoded) if 0x80 <= byte < 0xC0)
    middle = encoded[: last - 1] + encoded[last:]
    for content in (encoded[:last], encoded[first:], middle):
        fix = refusal(content).fix
        assert "latin1" not in fix
        assert "cp1252" not in fix
        Path("fixed.txt").write_bytes(carried_out(fix, content))
        (fixed,) = read(["fixed.txt"])
        assert fixed[2:-40] in text
        assert len(fixed) >= len(content.decode("utf-8", "ignore")) - 1


def test_stray_zero_bytes_are_no_other_encoding():
    content = b"abc\0defg" * 9
    error = refusal(content)
    assert "UTF-16" not in error.fix
    assert carried_out(error.fix, content) == b"abcdefg" * 9


@pytest.mark.parametrize("seed", range(8))
def test_bytes_of_something_else_are_no_other_encoding(seed):
    chance = random.Random(seed)
    drawn = chance.choices([*range(32, 127), *range(1, 9), 0], [1] * 95 + [3] * 8 + [9], k=700)
    for content in (bytes(drawn), bytes([*drawn, 0xFF]), b"SQLite format 3\0" + b"\1" * 99):
        assert "UTF-16" not in refusal(content).fix


def test_a_bad_byte_has_one_offset_in_every_command():
    """Whatever a byte order mark, and whether a file, a part of it or a pipe is read."""
    content = b"\xef\xbb\xbfhello\xff there"
    told = {re.search("byte 8 is 0xff", str(refusal(content)))[0]}
    with pytest.raises(BadInputError) as caught:
        encode_file(Path("text.txt"), train_tokenizer("helo thr", "char", 0))
    told.add(re.search(r"byte [\d,]+ is 0x..", str(caught.value))[0])
    with pytest.raises(BadInputError) as caught:
        read(["-"], io.BytesIO(content))
    told.add(re.search(r"byte [\d,]+ is 0x..", str(caught.value))[0])
    assert told == {"byte 8 is 0xff"}


# What holds no text, or is damaged


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(TEXT.encode(), mtime=0)[:-20], "can't be unpacked: Compressed file ended"),
        (b"PK\x03\x04\0 and so on", "can't be unpacked: File is not a zip file"),
        (b"PAR1\x15\0 and so on PAR1", "can't be read as a table: "),
        (b"ARROW1\0\0 and so on", "can't be read as a table: "),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3 and so on", "It is a PDF document"),
    ],
    ids=["gzip", "zip", "parquet", "arrow", "pdf"],
)
def test_what_can_t_be_read_is_told_by_its_content(content, words):
    if "table" in words:
        pytest.importorskip("pyarrow")
    for name in ("text.txt", "text.gz"):
        assert words in str(refusal(content, name))
    Path("text.txt").write_text("BZhang and PAR1 are words, too.")
    assert read(["text.txt"]) == ["BZhang and PAR1 are words, too."]


def test_what_save_to_disk_writes_is_read():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"text": ["one", "two"]})
    for name in ("one", "many/train", "many/test"):
        Path(name).mkdir(parents=True)
        with (
            pa.OSFile(f"{name}/data-00000-of-00001.arrow", "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        Path(name, "dataset_info.json").write_text('{"builder_name": "text"}')
        Path(name, "state.json").write_text('{"_split": "train"}')
    Path("many/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(["one"]) == read(["one/*"]) == read(["many/train"]) == ["one", "two"]
    for source in ("many", "."):
        with pytest.raises(BadInputError, match=r"has the splits .*train of a data set"):
            read([source])
    # Its notes are no texts, wherever these are.
    for name in ("dataset_info.json", "state.json"):
        with pytest.raises(BadInputError, match="holds no list"):
            read([f"one/{name}"])


# The holdout


def same_file(way):
    match way:
        case "name":
            return "texts/valid.txt"
        case "dots":
            return "./texts/../texts/valid.txt"
        case "full name":
            return str(Path("texts/valid.txt").absolute())
        case "link":
            Path("link.txt").symlink_to("texts/valid.txt")
            return "link.txt"
        case "hard link":
            os.link("texts/valid.txt", "hard.txt")
            return "hard.txt"
        case "copy":
            shutil.copy("texts/valid.txt", "copy.txt")
            return "copy.txt"
        case "copy with a mark":
            Path("copy.txt").write_bytes(b"\xef\xbb\xbf" + Path("texts/valid.txt").read_bytes())
            return "copy.txt"
        case "directory":
            Path("valid").mkdir()
            shutil.copy("texts/valid.txt", "valid/v.txt")
            return "valid"
        case _:
            return "texts/v*.txt"


WAYS = ("name", "dots", "full name", "link", "hard link", "copy", "copy with a mark", "directory",
        "glob")  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "sources", [["texts"], ["texts/*.txt"], ["texts/a.txt", "texts/valid.txt"]]
)
def test_a_holdout_is_left_out_of_the_train_part(inside, way, sources):
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("the cat\n")
    Path("texts/valid.txt").write_text("the dog\n")
    data = DataConfig(tuple(sources), holdout=same_file(way))
    split = split_corpus(read_corpus(sources), data, inside / "data")
    assert (split.train.text(), split.holdout.text()) == ("the cat\n", "the dog\n")
    assert split.left_out == (("also in the holdout", 1),)
    # Alone it leaves nothing to train on.
    with pytest.raises(BadInputError, match="nothing is left to train on"):
        split_corpus(read_corpus(["texts/valid.txt"]), data, inside / "data")
    with pytest.raises(BadInputError, match="nothing is left to train on"):
        split_corpus(read_corpus(["-"], io.BytesIO(b"the dog\n")), data, inside / "data")


# Pipes


def test_where_only_files_are_read_a_pipe_is_not_waited_for():
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        for name in ("pipe.txt", "socket.txt", "/dev/null", "/dev/zero"):
            with pytest.raises(BadInputError):
                read([name], only_files=True)
            Path("text.txt").write_text("text")
            data = DataConfig(("text.txt",), holdout=name)
            with pytest.raises(BadInputError):
                split_corpus(read_corpus(["text.txt"], only_files=True), data, Path(".data"))
        with pytest.raises(BadInputError, match="can't be read"):
            read(["socket.txt"])
        # A directory and a pattern are searched for files alone.
        assert read(["."]) == ["text"]
        assert read(["*.txt"]) == ["text"]


@pytest.mark.parametrize("given", [".", "**/*.txt", "*/*/*.txt"])
def test_a_run_beside_the_texts_is_no_part_of_them(given):
    Path("a.txt").write_text("mine")
    Path("d/e").mkdir(parents=True)
    Path("d/e/b.txt").write_text("too")
    before = read([given])
    for directory in ("runs/x/data", "runs/x/checkpoints/step-000001", "model"):
        Path(directory).mkdir(parents=True)
        Path(directory, "train.txt").write_text("not this")
    Path("runs/x/run.toml").write_text("")
    Path("model/model.safetensors").write_text("")
    Path("model/config.json").write_text("{}")
    assert read([given]) == before
    # A model that somebody left above them is no reason to refuse.
    Path("model.safetensors").write_text("")
    assert read(["d"]) == ["too"]
    for result in ("runs", "runs/x", "runs/x/data", "runs/*/*/*.txt", "model"):
        with pytest.raises(BadInputError, match=r"holds a run or a model.*Name the texts"):
            read([result])
    assert read(["runs/x/data/train.txt"]) == ["not this"]


def test_a_mark_of_utf8_says_that_a_bad_byte_is_damage():
    content = b"\xef\xbb\xbfhello\xff there"
    Path("fixed.txt").write_bytes(carried_out(refusal(content).fix, content))
    assert read(["fixed.txt"]) == ["hello there"]
