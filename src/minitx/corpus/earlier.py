"""What earlier runs have of the same text: nothing is read, learned or encoded twice.

A corpus is known by its files' names, sizes and times of change, and by how it was read and split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minitx import __version__
from minitx.config import DataConfig
from minitx.corpus.audit import AUDIT_FILE
from minitx.corpus.encoded import DESCRIPTION, is_unchanged, link_texts
from minitx.corpus.sources import Corpus
from minitx.corpus.splitting import SplitCorpus
from minitx.errors import MinitxError
from minitx.files import read_json
from minitx.tokenizer import Tokenizer, load_tokenizer

_WITHOUT_EFFECT = ("corpus", "working_directory", "workers", "skipped", "leaked", "leaks")


def signature(corpus: Corpus, data: DataConfig) -> dict[str, Any] | None:
    """What a corpus is known by; None if that can't be known without reading it."""
    names = [*corpus.files, *([data.held_file] if data.held_file else [])]
    directory = Path(data.working_directory or "")
    files = []
    for name in names:
        try:
            path = (directory / name).resolve()
            status = path.stat()
        except (OSError, ValueError):
            return None
        if not path.is_file():
            return None
        files.append([str(path), status.st_size, status.st_mtime_ns])
    if None in corpus.paths:
        return None
    settings = {key: value for key, value in asdict(data).items() if key not in _WITHOUT_EFFECT}
    return {"minitx": __version__, "files": files, "settings": settings}


_WORTH_TELLING = 64 << 20


def one_with_most_of(known_by: dict[str, Any] | None, earlier: Iterable[Path]) -> Path | None:
    """The directory that has at least half of a long corpus encoded, and the most; None for none.

    It is only told of: a tokenizer that was used again by itself would make a result depend on what
    else lies on the disk.
    """
    files = {tuple(file) for file in known_by["files"]} if known_by else set()
    best, most = None, max(_WORTH_TELLING, sum(size for _, size, _ in files) // 2)
    for candidate, noted in _described(earlier):
        theirs = noted.get("signature") or {"files": ()}
        shared = sum(size for _, size, _ in files & {tuple(file) for file in theirs["files"]})
        if known_by and theirs.get("settings") == known_by["settings"] and shared > most:
            best, most = candidate, shared
    return best


def reused_split(
    known_by: dict[str, Any] | None, directory: Path, earlier: Iterable[Path]
) -> SplitCorpus | None:
    """The two parts of a corpus with this signature, linked into a directory, or None."""
    for candidate, noted in _described(earlier) if known_by is not None else ():
        if noted.get("signature") == known_by and is_unchanged(candidate, noted):
            with contextlib.suppress(OSError, KeyError):
                directory.mkdir(exist_ok=True)
                link_texts(candidate, directory, [AUDIT_FILE])
                return SplitCorpus(
                    directory,
                    noted["split"],
                    files=tuple(noted["files"]),
                    left_out=tuple((reason, n) for reason, n in noted["left_out"]),
                    skipped=tuple((file, n) for file, n in noted["skipped"]),
                    formats=tuple((name, n) for name, n in noted["formats"]),
                    known_digest=noted["digest"],
                )
    return None


def noted_split(directory: Path) -> SplitCorpus:
    """The two parts of a corpus that was encoded, as far as earlier versions noted them."""
    noted: dict[str, Any] = next((noted for _, noted in _described([directory])), {})
    return SplitCorpus(directory, noted.get("split", "characters"), tuple(noted.get("files", ())))


def reused_notes(split: SplitCorpus, earlier: Iterable[Path]) -> Iterator[tuple[Path, Any]]:
    """Directories with the same texts, each with what it notes of them."""
    for candidate, noted in _described(earlier):
        if noted.get("digest") == split.digest:
            yield candidate, noted


def reused_tokenizer(
    split: SplitCorpus, kind: str, vocab_size: int, earlier: Iterable[Path]
) -> Tokenizer | None:
    """The tokenizer that was trained on the same train part with the same settings, or None."""
    for candidate, noted in reused_notes(split, earlier):
        if noted.get("asked_for") == [__version__, kind, vocab_size]:
            with contextlib.suppress(MinitxError):
                tokenizer = load_tokenizer(candidate)
                if tokenizer.digest == noted["tokenizer_digest"]:
                    return tokenizer
    return None


def _described(directories: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for directory in directories:
        with contextlib.suppress(OSError, ValueError):
            yield directory, read_json(directory / DESCRIPTION)
