"""Whatever people have their texts in trains, goes on, and is evaluated, from the shell.

The suite takes each format once, and each way to pack one; `pytest -m campaign` on this file takes
all of their combinations.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from corpus_parts import as_arrow, as_parquet, as_table

TEXTS = [f"Note {i} of {i * i % 53}: to be,\nor “not” to be.\n" for i in range(50)]
RECORDS = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
SMALL = ("--layers", 1, "--heads", 1, "--d-model", 8, "--context", 16, "--batch-size", 2,
         "--kind", "char", "--threads", 1)  # fmt: skip


LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()

FORMATS = {
    "plain.txt": ("text", lambda: "\n\n".join(TEXTS).encode()),
    "notes.md": ("text", lambda: ("# Notes\n\n" + "\n\n".join(TEXTS)).encode()),
    "lines.jsonl": ("jsonl", lambda: LINES),
    "list.json": ("json", lambda: json.dumps(RECORDS, indent=1).encode()),
    "table.csv": ("csv", lambda: as_table(RECORDS, ",").encode()),
    "table.tsv": ("csv", lambda: as_table(RECORDS, "\t").encode()),
    "table.parquet": ("parquet", lambda: as_parquet(RECORDS)),
    "file.arrow": ("arrow", lambda: as_arrow(RECORDS, "new_file")),
    "stream.arrow": ("arrow", lambda: as_arrow(RECORDS, "new_stream")),
}


def in_zip(name, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"texts/{name}", content)
    return packed.getvalue()


def in_tar(name, content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(f"texts/{name}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


PACKED = {
    ".gz": lambda name, content: gzip.compress(content),
    ".bz2": lambda name, content: bz2.compress(content),
    ".xz": lambda name, content: lzma.compress(content),
    ".zst": lambda name, content: pytest.importorskip("zstandard").compress(content),
    ".zip": in_zip,
    ".tar": in_tar,
    ".tar.gz": lambda name, content: gzip.compress(in_tar(name, content)),
}


def trains_resumes_and_evaluates(minitx, sources, formats, stdin=None, n_texts=len(TEXTS)):
    """From a directory where the sources lie."""
    arguments = [*sources, *SMALL, "--document-separator", r"\n\n"]
    done = minitx("corpus", *sources, "--document-separator", r"\n\n", "--json", stdin=stdin)
    assert done.code == 0, done.err
    counted = json.loads(done.out)
    assert counted["formats"] == formats
    assert sum(part["documents"] for part in counted["parts"].values()) == n_texts
    done = minitx("train", *arguments, "--steps", 2, "--out", "run", stdin=stdin)
    assert done.code == 0, done.err
    noted = json.loads(Path("run/data/corpus.json").read_text())
    assert sum(noted["documents"].values()) == n_texts
    for part, size in counted["parts"].items():
        assert noted[part]["tokens"] == size["tokens"]
    # From a pipe there is nothing to read again.
    done = minitx("resume", "run", "--steps", 3)
    assert done.code == 0, done.err
    assert sorted(path.name[-1] for path in Path("run/checkpoints").glob("step*"))[-1] == "3"
    done = minitx("eval", "run", "--quick", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)["reports"]
    assert report["text"]["tokens"] == counted["parts"]["holdout"]["tokens"]
    assert 0 < report["plain"]["loss"] < 10


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(minitx, inside, name):
    kind, content = FORMATS[name]
    Path(name).write_bytes(content())
    n_texts = len(TEXTS) + (name == "notes.md")
    trains_resumes_and_evaluates(minitx, [name], {kind: 1}, n_texts=n_texts)


@pytest.mark.parametrize("suffix", PACKED)
def test_each_packing(minitx, inside, suffix):
    Path(f"lines.jsonl{suffix}").write_bytes(PACKED[suffix]("lines.jsonl", LINES))
    trains_resumes_and_evaluates(minitx, [f"lines.jsonl{suffix}"], {"jsonl": 1})


@pytest.mark.campaign
@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_in_each_packing(minitx, inside, name, suffix):
    kind, content = FORMATS[name]
    Path(name + suffix).write_bytes(PACKED[suffix](name, content()))
    n_texts = len(TEXTS) + (name == "notes.md")
    trains_resumes_and_evaluates(minitx, [name + suffix], {kind: 1}, n_texts=n_texts)


def test_a_directory_of_data_sets(minitx, inside):
    """As `datasets.save_to_disk` writes it."""
    half = len(TEXTS) // 2
    pa = pytest.importorskip("pyarrow")
    Path("notes").mkdir()
    for i, records in enumerate((RECORDS[:half], RECORDS[half:])):
        table = pa.Table.from_pylist(records)
        path = f"notes/data-{i:05d}-of-00002.arrow"
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    Path("notes/dataset_info.json").write_text('{"features": {}}')
    Path("notes/state.json").write_text('{"_data_files": []}')
    trains_resumes_and_evaluates(minitx, ["notes"], {"arrow": 2})


def test_a_directory_of_any_mixture_and_a_glob(minitx, inside):
    Path("texts/more").mkdir(parents=True)
    parts = [TEXTS[i::3] for i in range(3)]
    Path("texts/a.txt").write_text("\n\n".join(parts[0]))
    Path("texts/more/b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in parts[1]).encode())
    )
    Path("texts/more/c.json").write_text(json.dumps(parts[2]))
    formats = {"text": 1, "jsonl": 1, "json": 1}
    trains_resumes_and_evaluates(minitx, ["texts"], formats)
    Path("run").rename("first")
    trains_resumes_and_evaluates(minitx, ["texts/**/*.*"], formats)
    first, second = (
        json.loads(Path(run, "data/corpus.json").read_text()) for run in ("first", "run")
    )
    assert first["digest"] == second["digest"]


@pytest.mark.parametrize("content", [LINES, gzip.compress(LINES)], ids=["plain", "gzip"])
def test_standard_input(minitx, inside, content):
    trains_resumes_and_evaluates(minitx, ["-"], {"jsonl": 1}, stdin=content)


def test_a_table_is_scored_as_the_run_reads_it(minitx, inside):
    reviews = as_table(RECORDS, ",").encode().replace(b"id,text", b"id,review", 1)
    Path("reviews.csv").write_bytes(reviews)
    Path("others.csv").write_bytes(reviews.replace(b"id,review", b"id,words", 1))
    done = minitx("train", "reviews.csv", "--text-field", "review", *SMALL, "--steps", 2,
                  "--out", "run")  # fmt: skip
    assert done.code == 0, done.err
    scored = [
        json.loads(minitx("eval", "run", *rest, "--quick", "--json").out)["reports"][0]["text"]
        for rest in (["reviews.csv"], ["others.csv", "--text-field", "words"])
    ]
    assert scored[0]["tokens"] == scored[1]["tokens"] == sum(map(len, TEXTS)) + len(TEXTS)
    done = minitx("eval", "run", "others.csv", "--quick")
    assert done.code == 2
    assert "has no column 'review', but id, words" in done.err
    assert "--text-field id" in done.err
    Path("plain.txt").write_text("".join(TEXTS))
    assert minitx("eval", "run", "plain.txt", "--quick").code == 0
    done = minitx("eval", "run", "plain.txt", "--text-field", "words", "--quick")
    assert done.code == 2
    assert "--text-field words is of no use: plain.txt is plain text" in done.err
