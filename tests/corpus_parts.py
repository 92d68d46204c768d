"""Corpora as tests write and read them."""

import csv
import io

import pytest

from minitx.corpus import SplitCorpus, read_corpus
from minitx.corpus.documents import Document
from minitx.corpus.splitting import write_documents


def read(sources, *arguments, **options):
    """The texts of the documents of a corpus."""
    corpus = read_corpus(sources, *arguments, **options)
    return ["".join(document.parts) for document in corpus.documents()]


def split_of(directory, train, holdout=""):
    """A corpus that was split, from a text or the texts of its documents for each part."""
    directory.mkdir(parents=True, exist_ok=True)
    split = SplitCorpus(directory, "tail")
    for part, texts in ((split.train, train), (split.holdout, holdout)):
        texts = [texts] if isinstance(texts, str) else texts
        write_documents((Document([text], "text") for text in texts if text), part, {})
    return split


def text_of(corpus, part):
    return (corpus.directory / f"{part}.txt").read_bytes().decode()


def as_table(records, delimiter=","):
    """Records with `id` and `text` as a CSV, or another table of text."""
    content = io.StringIO()
    writer = csv.DictWriter(content, ["id", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return content.getvalue()


def as_parquet(records):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(records), content)
    return content.getvalue()


def as_arrow(records, way):
    """In a file or a stream: `new_file`, `new_stream`."""
    pa = pytest.importorskip("pyarrow")
    table, content = pa.Table.from_pylist(records), io.BytesIO()
    with getattr(pa.ipc, way)(content, table.schema) as writer:
        writer.write_table(table)
    return content.getvalue()
