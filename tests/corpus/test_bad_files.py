"""What can't be used is told in one line, with its place, and nothing is left behind."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from corpus_parts import read

from minitx.corpus.documents import Reading
from minitx.errors import BadInputError

CHANCE = random.Random(7)
NOTES = "".join(
    json.dumps({"id": i, "text": CHANCE.randbytes(CHANCE.randrange(1, 40)).hex()}) + "\n"
    for i in range(3000)
).encode()


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


def zstd(content):
    return pytest.importorskip("zstandard").compress(content)


def zipped(files, encrypted=False):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    content = bytearray(packed.getvalue())
    if encrypted:
        content[6] |= 1
        content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


def tarred(files, mode="w"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def parquet(**columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as format

    content = io.BytesIO()
    format.write_table(pa.table(columns), content)
    return content.getvalue()


def assert_refused(words, *sources, **options):
    with pytest.raises(BadInputError, match=words) as caught:
        read([str(source) for source in sources], **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


PACKED = {
    "a.jsonl.gz": gzip.compress, "a.jsonl.bz2": bz2.compress, "a.jsonl.xz": lzma.compress,
    "a.jsonl.zst": zstd, "a.zip": lambda content: zipped({"a.jsonl": content, "b.jsonl": content}),
    "a.tar": lambda content: tarred({"a.jsonl": content, "b.jsonl": content}),
    "a.tgz": lambda content: tarred({"a.jsonl": content}, "w:gz"),
    "a.tar.zst": lambda content: zstd(tarred({"a.jsonl": content})),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_that_is_cut_anywhere_is_refused(name):
    """Never a part of it taken for the whole."""
    whole = PACKED[name](NOTES)
    n_read = len(read([write(name, whole)]))
    assert n_read in (3000, 6000)
    chance = random.Random(1)
    end = len(whole.rstrip(b"\0")) if name == "a.tar" else len(whole)  # Zeros follow.
    cuts = [10, *(chance.randrange(10, end) for _ in range(30)), end - 1]
    if name == "a.tar":
        cuts.append(len(tarred({"a.jsonl": NOTES}).rstrip(b"\0")) // 512 * 512 + 512)
    for cut in cuts:
        write(name, whole[:cut])
        for skip_bad in (False, True):
            reading = Reading(skip_bad=skip_bad)
            assert_refused("a\\.", name, reading=reading)
            assert not reading.skipped


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_packed_text_that_is_cut_is_refused(suffix):
    """Its text is read last, when nobody is in the reader any more."""
    text = random.Random(2).randbytes(400_000).hex().encode()
    whole = PACKED[f"a.jsonl{suffix}"](text)
    assert read([write(f"a.txt{suffix}", whole)]) == [text.decode()]
    for cut in (len(whole) // 2, len(whole) - 1):
        assert_refused("can't be unpacked", write(f"a.txt{suffix}", whole[:cut]))


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def test_several_frames_of_zstd_are_one_text():
    content = zstd(b"one ") + zstd(b"") + zstd(b"two " * 100_000) + zstd(b"three")
    assert read([write("a.txt.zst", content)]) == ["one " + "two " * 100_000 + "three"]


FOREIGN = {
    "a.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "It is a 7z archive; unpack it"),
    "a.rar": (b"Rar!\x1a\x07\x01\0", "It is a RAR archive; unpack it"),
    "a.txt.lz4": (b"\x04\x22\x4d\x18d@", "compressed by lz4; unpack it"),
    "a.txt.Z": (b"\x1f\x9d\x90", "compressed by compress; unpack it"),
    "a.db": (b"SQLite format 3\0", "an SQLite database; write its texts"),
    "a.pdf": (b"%PDF-1.7\n\xe2\xe3", "a PDF document; export its text"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_packed_in_another_way_is_told_by_its_name(name):
    beginning, words = FOREIGN[name]
    assert_refused(words, write(name, beginning + bytes(range(256)) * 9))


def test_archives_that_can_t_be_opened():
    write("a.zip", zipped({"in.txt": b"secret " * 9}, encrypted=True))
    assert_refused("a.zip can't be unpacked: in.txt is encrypted. Unpack it with its pass", "a.zip")
    deep = b"text\n"
    for number in range(6):
        deep = zipped({"a.txt" if number == 0 else "in.zip": deep})
    assert_refused("a.zip/in.zip/in.zip/in.zip/in.zip is packed more than 4", write("a.zip", deep))
    assert read([write("a.zip", zipped({"in.zip": zipped({"a.txt": b"text\n"})}))]) == ["text\n"]
    for nothing in (zipped({}), zipped({"a.png": b"\x89PNG\0"})):
        assert read([write("a.zip", nothing)]) == []


TABLES = {
    "without the column": (
        {"id": [1], "review": ["x"]},
        {},
        "records with id, review, and none of",
    ),
    "without the one named": (
        {"text": ["x"]},
        {"text_field": "body"},
        "no column 'body', but text",
    ),
    "of numbers": ({"text": [1, 2]}, {}, "row 1: 'text' is no text"),
    "with a null": ({"text": ["x", None]}, {}, "row 2: 'text' is missing or null"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(case):
    columns, options, words = TABLES[case]
    assert_refused(words, write("a.parquet", parquet(**columns)), reading=Reading(**options))


def test_a_table_that_is_cut():
    whole = parquet(text=[f"note {i}" for i in range(5000)])
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        assert_refused("a.parquet can't be read as a table", write("a.parquet", whole[:cut]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "id,text\n1,good\n2,one, two\n", "line 3: has 3 cells, and the first line 2"),
        ("a.csv", "id,text\n1,good\n2\n", "line 3: has 1 cells, and the first line 2"),
        ("a.csv", 'id,text\n1,good\n2,"open\n3,x\n', "line 3: unexpected end of data"),
        ("a.csv", "id,text\n1,good\n2,a\0b\n", "a.csv is binary"),
        ("a.jsonl", '{"text": "a"}\n{"text": 1,}\n', r"line 2: is no JSON: .* \(character 12\)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9 x"}\n', "byte 27 is 0xe9.*iconv -f latin1"),
        ("a.json", '["a"] and more', "goes on after its list, with 'and more'"),
        ("a.json", '["a"]["b"]', "goes on after its list"),
    ],
)  # fmt: skip
def test_records(name, content, words):
    assert_refused(words, write(name, content))


def test_rows_that_can_t_be_used_are_passed_over():
    write("a.csv", 'id,text\n1,good\n2,one, two\n3\n4,better\n5,"open\n6,x\n')
    reading = Reading(skip_bad=True)
    assert read(["a.csv"], reading=reading) == ["good", "better"]
    assert reading.skipped == {"a.csv": 3}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_that_are_not_utf8_are_told_one_by_one(kind):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as format

    ends = pa.py_buffer(struct.pack("<4i", 0, 4, 8, 12))
    column = pa.Array.from_buffers(pa.string(), 3, [None, ends, pa.py_buffer(b"goodb\xffd!fine")])
    table = pa.table({"text": column})
    if kind == "parquet":
        format.write_table(table, "a.parquet")
    else:
        with pa.ipc.new_file("a.arrow", table.schema) as file:
            file.write_table(table)
    assert_refused("row 2: is not UTF-8", f"a.{kind}")
    reading = Reading(skip_bad=True)
    assert read([f"a.{kind}"], reading=reading) == ["good", "fine"]
    assert reading.skipped == {f"a.{kind}": 1}


def test_records_are_known_whatever_their_name():
    """Nothing that looks like records is taken for a text."""
    long_text = "x" * 9000
    for content in (
        json.dumps({"text": long_text}), json.dumps({"a \" b": 1, "text": long_text}) + "\n",
        json.dumps([{"text": long_text}]), json.dumps([{"text": long_text}], indent=2),
        "\ufeff" + json.dumps([{"text": long_text}]),
    ):  # fmt: skip
        assert read([write("a.txt", content)]) == [long_text]
        assert read(["-"], io.BytesIO(content.encode())) == [long_text]
    for text in ('{ "quoted" } and more', "[1] is a number", '{"a', "[{]"):
        assert read([write("a.txt", text)]) == [text]


def test_records_a_line_may_be_named_json():
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two"))
    assert read([write("a.json", lines)]) == ["one", "two"]
    write("a.json", json.dumps({"data": ["one"]}) + "\n")
    assert_refused("none of text, content, body.*text with --text-field", "a.json")


def test_a_list_is_read_in_time_that_grows_with_its_length():
    """No record moves what follows it: of short ones a part has thousands."""
    from minitx.corpus.readers import json_records

    moved = 0

    class Parts(str):
        def __getitem__(self, key):
            nonlocal moved
            moved += len(found := str(self)[key])
            return found

    content = json.dumps([{"text": "x"}] * 3000)
    text = [Parts(content[:20_000]), Parts(content[20_000:])]
    assert len(list(json_records._listed(iter(text), "a.json"))) == 3000
    assert moved < len(content)


def test_mixed_encodings_name_the_file():
    write("d/a.txt", "na\u00efve")
    write("d/b.txt", "na\u00efve".encode("latin1"))
    assert_refused(r"d/b\.txt is not UTF-8: byte 2 is 0xef", "d")
    write("d/b.txt", "na\u00efve".encode("utf-16"))
    assert_refused(r"d/b\.txt .*It looks like UTF-16", "d")


def test_a_directory_that_loops_is_read_once():
    write("d/a/x.txt", "one")
    Path("d/a/up").symlink_to("..")
    Path("d/a/upper").symlink_to("../..")
    Path("d/y.txt").symlink_to("y.txt")
    for source in ("d", "d/**/*.txt", "d/**", "**/*.txt", str(Path("d/**/*.txt").absolute())):
        assert read([source]) == ["one"]
    write(".hidden/z.txt", "two")
    assert read([".hidden/*.txt"]) == ["two"]
    assert read(["*/**/*.txt"]) == ["one"]


def test_a_file_that_changes_while_it_is_read_is_refused(monkeypatch):
    from minitx.corpus.readers import plain_text

    monkeypatch.setattr(plain_text, "_BLOCK", 100)
    write("a.txt", "a line\n" * 10_000)

    def read_while(change):
        from minitx.corpus import read_corpus

        parts = (p for document in read_corpus(["a.txt"]).documents() for p in document.parts)
        for number, _ in enumerate(parts):
            if number == 3:
                change()

    def append():
        with Path("a.txt").open("a") as file:
            file.write("more")

    with pytest.raises(BadInputError, match="a.txt changed while it was read"):
        read_while(append)
    with pytest.raises(BadInputError, match="a.txt changed while it was read"):
        read_while(lambda: os.truncate("a.txt", 5000))
    read_while(lambda: None)
    # One that another takes the place of is read as it was.
    read_while(lambda: Path(write("b.txt", "other")).replace("a.txt"))


def test_a_pipe_is_read_and_a_device_is_not():
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(gzip.compress(NOTES),))
    writer.start()
    assert len(read(["pipe"])) == 3000
    writer.join()
    assert_refused("corpus /dev/zero is a device", "/dev/zero")


def test_a_line_of_any_length_needs_little_memory(monkeypatch):
    from minitx.corpus.readers import json_records, text_columns

    monkeypatch.setattr(json_records, "LONGEST_RECORD", 1 << 20)
    monkeypatch.setattr(text_columns, "_LONGEST_CELL", 1 << 20)
    size = 60 << 20
    for name, before, after in (
        ("a.jsonl", '{"text": "one"}\n{"text": "', '"}\n{"text": "two"}\n'),
        ("a.csv", 'id,text\n1,one\n2,"', '"\n3,two\n'),
    ):
        with Path(name).open("w") as file:
            file.write(before)
            for _ in range(size >> 20):
                file.write("12345678" * (1 << 17))
            file.write(after)
        tracemalloc.start()
        line = before.count("\n") + 1
        assert_refused(f"line {line}: (has over|field larger)", name)
        assert read([name], reading=Reading(skip_bad=True)) == ["one", "two"]
        assert tracemalloc.get_traced_memory()[1] < 25 << 20
        tracemalloc.stop()


COMMANDS = {
    "train": ["train", "--steps", 2, "--layers", 1, "--d-model", 16, "--context", 16],
    "tokenize": ["tokenize", "--kind", "char"],
    "corpus": ["corpus"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_is_one_line_and_leaves_nothing(minitx, command):
    packed = gzip.compress(NOTES)
    sources = {
        write("cut.jsonl.gz", packed[: len(packed) // 2]): "can't be unpacked",
        write("bad.jsonl", NOTES + b"{oops\n"): "bad.jsonl, line 3,001: is no JSON",
        write("blank.txt", " \n\n"): "blank.txt has no text in it",
        write("none.jsonl", '{"text": ""}\n' * 30): "none.jsonl has no text in it",
        write("secret.zip", zipped({"a.txt": b"x"}, encrypted=True)): "is encrypted",
    }
    before = sorted(os.listdir())
    for source, words in sources.items():
        done = minitx(*COMMANDS[command], source)
        assert done.code == 2, done.err
        assert all(line.startswith("phase ") for line in done.out.splitlines())
        (line,) = done.err.splitlines()
        assert words in line
        assert sorted(os.listdir()) == before


def test_skipped_records_are_told_and_noted(minitx):
    write("bad.jsonl", NOTES + b"{oops\n" + b'{"text": 5}\n')
    done = minitx(*COMMANDS["train"], "bad.jsonl", "--skip-bad", "--out", "run")
    assert done.code == 0, done.err
    assert "2 records of bad.jsonl" in done.out
    assert "\nskipped = 2\n" in Path("run/run.toml").read_text()
    noted = json.loads(Path("run/data/corpus.json").read_text())["skipped"]
    assert noted == [["bad.jsonl", 2]]


def test_a_gzip_of_many_members_is_whole():
    half = NOTES.index(b"\n", len(NOTES) // 2) + 1
    content = gzip.compress(NOTES[:half]) + gzip.compress(NOTES[half:])
    assert len(read([write("a.jsonl.gz", content)])) == 3000
    wrong_sum = content[:-8] + struct.pack("<I", 1) + content[-4:]
    assert_refused("CRC check failed", write("a.jsonl.gz", wrong_sum))
