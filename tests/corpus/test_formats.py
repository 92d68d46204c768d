"""Every format gives the same documents, packed in every way; what can't be used is told."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from corpus_parts import as_arrow, as_parquet, as_table, read

from minitx.corpus.documents import Reading
from minitx.errors import BadInputError

TEXTS = ["one é\n", 'two, "x"\nthree', "四\u2028five"]
RECORDS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


FORMATS = {
    "notes.jsonl": lambda: LINES,
    "notes.txt": lambda: LINES,  # By its content.
    "list.json": lambda: json.dumps(RECORDS, indent=1),
    "texts.json": lambda: json.dumps(TEXTS, ensure_ascii=False),
    "table.csv": lambda: as_table(RECORDS),
    "semicolons.csv": lambda: as_table(RECORDS, ";"),
    "marked.csv": lambda: "\ufeff" + as_table(RECORDS),
    "table.tsv": lambda: as_table(RECORDS, "\t"),
    "table.parquet": lambda: as_parquet(RECORDS),
    "file.arrow": lambda: as_arrow(RECORDS, "new_file"),
    "stream.arrow": lambda: as_arrow(RECORDS, "new_stream"),
}


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


def write(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def compressed_zstd(content):
    return pytest.importorskip("zstandard").compress(content)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_its_documents(name):
    assert read([write(name, FORMATS[name]())]) == TEXTS


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
     (".zst", compressed_zstd)],
)  # fmt: skip
def test_each_format_is_read_compressed(name, suffix, compress):
    content = FORMATS[name]()
    content = content if isinstance(content, bytes) else content.encode()
    assert read([write(name + suffix, compress(content))]) == TEXTS
    if name in ("notes.jsonl", "table.parquet", "file.arrow"):  # Known without a name.
        assert read(["-"], io.BytesIO(compress(content))) == TEXTS


def test_archives_give_the_files_of_known_formats():
    write("notes.jsonl", LINES)
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.writestr("x/notes.jsonl", LINES)
        archive.writestr("x/plain.txt", "plain")
        archive.writestr("x/.hidden.txt", "no")
        archive.writestr("x/picture.png", b"\x89PNG\0")
        archive.writestr("x/notes.jsonl.gz", gzip.compress(LINES.encode()))
    assert read(["all.zip"]) == [*TEXTS, "plain", *TEXTS]
    for name, mode in (("all.tar", "w"), ("all.tar.gz", "w:gz"), ("all.txz", "w:xz")):
        with tarfile.open(name, mode) as archive:
            archive.add("notes.jsonl")
            archive.add("all.zip")
        assert read([name]) == [*TEXTS, *TEXTS, "plain", *TEXTS]


def test_a_directory_of_any_mixture():
    Path("d").mkdir()
    for name in ("b.jsonl", "c.csv", "e.txt.gz"):
        content = {"b.jsonl": LINES.encode(), "c.csv": as_table(RECORDS).encode()}
        write(f"d/{name}", content.get(name, gzip.compress(b"plain")))
    assert read(["d"]) == [*TEXTS, *TEXTS, "plain"]


def test_fields_are_named_guessed_and_nested():
    lines = json.dumps({"meta": {"note": {"en": "yes"}}, "body": "no"}) + "\n"
    write("a.jsonl", lines)
    assert read(["a.jsonl"]) == ["no"]
    assert read(["a.jsonl"], reading=Reading(text_field="meta.note.en")) == ["yes"]
    write("b.csv", "id,review\n1,fine\n2,\n3,good\n")
    assert read(["b.csv"], reading=Reading(text_field="review")) == ["fine", "good"]


def test_a_separator_cuts_a_plain_text():
    write("a.txt", "a\n\nb\n\n\n\nc\n")
    assert read(["a.txt"], reading=Reading(separator="\n\n")) == ["a", "b", "c\n"]
    write("b.txt", "one<br>" * 3)
    assert read(["b.txt"], reading=Reading(separator="<br>")) == ["one"] * 3


def test_a_field_that_nothing_has_is_refused():
    write("a.txt", "plain")
    reading = Reading(text_field="review")
    with pytest.raises(BadInputError, match="--text-field review is of no use: a.txt is plain"):
        read(["a.txt"], reading=reading)
    write("b.jsonl", '{"review": "good"}\n')
    assert read(["a.txt", "b.jsonl"], reading=Reading(text_field="review")) == ["plain", "good"]


def test_files_of_unknown_structure_among_others():
    Path("code").mkdir()
    write("code/a.py", "pass\n")
    package = '{\n  "name": "code"\n}\n'
    write("code/package.json", package)
    write("code/table.csv", "id,x\n1,2\n")
    with pytest.raises(
        BadInputError, match="code/package.json holds no list.*--format text.*--skip-bad"
    ):
        read(["code"])
    reading = Reading(skip_bad=True)
    assert read(["code"], reading=reading) == ["pass\n"]
    assert reading.skipped == {"code/package.json": 1, "code/table.csv": 1}
    texts = ["pass\n", package, "id,x\n1,2\n"]
    assert read(["code"], reading=Reading(file_format="text")) == texts


def test_a_table_in_bytes_is_not_to_be_read_as_text():
    write("table.parquet", as_parquet([{"id": 1}]))
    with pytest.raises(BadInputError, match="text with --text-field") as caught:
        read(["table.parquet"])
    assert "--format" not in caught.value.fix
    # Without the only file, nothing would be left.
    assert "--skip-bad" not in caught.value.fix


def test_a_format_can_be_forced():
    write("a.jsonl", LINES)
    assert read(["a.jsonl"], reading=Reading(file_format="text")) == [LINES]
    with pytest.raises(BadInputError, match="no format 'xml'.*Choose one of .*jsonl"):
        read(["a.jsonl"], reading=Reading(file_format="xml"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", LINES + "{oops\n", "a.jsonl, line 4: is no JSON"),
        ("a.jsonl", LINES + '{"text": 3}\n', "a.jsonl, line 4: 'text' is no text"),
        ("a.jsonl", LINES + '{"text": "\\ud83d"}\n', "line 4: has half a character"),
        ("a.jsonl", LINES + "[" * 100_000 + "\n", "line 4: is nested too deeply"),
        ("a.jsonl", '{"id": 1}\n', "records with id, and none of text.*with --text-field"),
        ("a.jsonl", '{"id": "a", "said": "hello"}\n', "that holds the text: --text-field said"),
        ("a.jsonl", '{"messages": []}\n', "a.jsonl, line 1: has no answer"),
        ("a.csv", "messages,x\n1,2\n", "has conversations .messages., and is read as other"),
        ("a.csv", "id,x\n1,2\n", "records with id, x, and none of text"),
        ("a.json", "{}", "holds no list"),
        ("a.json", '["a", 3', "record 2: is no JSON, or cut"),
        ("a.json", '["a" "b"]', "record 1: no comma follows"),
        ("a.txt", b"a\0b", "is binary, not text"),
        ("a.txt.bz2", bz2.compress(LINES.encode())[:-9], "can't be unpacked"),
        ("a.zst", b"\x28\xb5\x2f\xfd garbage", "can't be unpacked"),
    ],
)
def test_what_can_t_be_used_is_told_with_its_place(name, content, words):
    if name.endswith(".zst"):
        pytest.importorskip("zstandard")
    with pytest.raises(BadInputError, match=words) as caught:
        read([write(name, content)])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_bad_records_are_passed_over_and_counted():
    write("a.jsonl", '{"text": 3}\n{oops\n\n' + LINES + '{"id": 1}\n')
    reading = Reading(skip_bad=True)
    assert read(["a.jsonl"], reading=reading) == TEXTS
    assert reading.skipped == {"a.jsonl": 3}


def test_a_line_too_long_is_told_without_much_memory(monkeypatch):
    from minitx.corpus.readers import json_records

    monkeypatch.setattr(json_records, "LONGEST_RECORD", 1000)
    write("a.jsonl", LINES + '{"text": "' + "x" * 3_000_000 + '"}\n' + LINES)
    with pytest.raises(BadInputError, match="line 4: has over 1,000 characters"):
        read(["a.jsonl"])
    assert read(["a.jsonl"], reading=Reading(skip_bad=True)) == [*TEXTS, *TEXTS]


def test_a_document_of_an_office_program_is_refused():
    with zipfile.ZipFile("a.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(BadInputError, match="document of an office program"):
        read(["a.docx"])


@pytest.mark.parametrize(
    ("name", "content", "lacks"),
    [
        ("a.parquet", lambda: b"PAR1" + bytes(99), "pyarrow"),
        ("a.arrow", lambda: b"ARROW1" + bytes(99), "pyarrow"),
        ("a.jsonl.zst", lambda: b"\x28\xb5\x2f\xfd" + bytes(99), "zstandard"),
    ],
)
def test_a_library_that_is_missing_is_named_with_how_to_install_it(
    monkeypatch, name, content, lacks
):
    for module in ("pyarrow", "zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInputError, match=lacks) as caught:
        read([write(name, content())])
    assert 'pip install "minitx[data]"' in str(caught.value)
    write("a.jsonl", LINES)
    assert read(["a.jsonl"]) == TEXTS
