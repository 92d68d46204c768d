"""What is in a corpus, before any training: `minitx corpus` as a library call."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minitx.config import DataConfig
from minitx.config.overrides import Overrides
from minitx.corpus import read_corpus, split_corpus
from minitx.corpus.audit import Audit, audit
from minitx.corpus.documents import Reading
from minitx.corpus.encoded import encode_corpus
from minitx.corpus.splitting import SplitCorpus
from minitx.tokenizer import Tokenizer
from minitx.training.tokenizer_planning import TextSize, plan_tokenizer
from minitx.workflows.tokenize import learned_tokenizer

_LENGTHS = {"shortest": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "longest": 1.0}
_SHOWN_DOCUMENTS, _SHOWN_TOKENS = 3, 40
_MOST_SCRIPTS = 8

# UTF-8 that was read as Latin-1 or Windows-1252 once: é as Ã©, a quotation mark as â€œ.
_TWICE_ENCODED = re.compile("[ÃÂ][\x80-\xbf]|â[\x80€]")


@dataclass(frozen=True)
class PartStudy:
    """Size of one part, in documents, bytes, characters and tokens."""

    documents: int
    bytes: int
    characters: int
    tokens: int


@dataclass(frozen=True)
class CorpusStudy:
    """What is in a corpus.

    Attributes:
        formats: how many files were read as each format; none of the embedded default.
        split: how the holdout was chosen: tail, hash, or its file.
        parts: train part and holdout, by name.
        lengths: of documents, in characters: shortest, 10th percentile (p10) ..., longest.
        duplicates: documents that stand in the corpus already.
        left_out, skipped: documents that are in no part, by reason, and records, by file.
        distinct: how many different characters there are.
        classes: share of letters, digits, white space and other characters.
        scripts: share of the letters, by writing system, the largest first.
        problems: of encoding, and how often: characters that a conversion lost (U+FFFD), UTF-8
            that was encoded twice, control characters, and line ends of Windows.
        tokenizer: kind and number of ids, as the text alone asks for; a training also looks at its
            time.
        shown: the beginnings of a few documents, as pieces that the model will see.
        audit: what the parts have in common; None without a holdout.
    """

    name: str
    formats: dict[str, int]
    split: str
    parts: dict[str, PartStudy]
    lengths: dict[str, int]
    duplicates: int
    left_out: dict[str, int]
    skipped: dict[str, int]
    distinct: int
    classes: dict[str, float]
    scripts: dict[str, float]
    problems: dict[str, int]
    tokenizer: tuple[str, int]
    shown: tuple[tuple[str, tuple[str, ...]], ...]
    audit: Audit | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        values = asdict(self)
        kind, vocab_size = self.tokenizer
        shown = [{"document": name, "pieces": pieces} for name, pieces in self.shown]
        return {**values, "tokenizer": {"kind": kind, "vocab_size": vocab_size}, "shown": shown}


def study_corpus(
    data: DataConfig,
    tokenizer: Overrides,
    stdin: BinaryIO | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> CorpusStudy:
    """Read a corpus as a training would, compare all of its parts, and count.

    Args:
        tokenizer: keys of `TokenizerConfig` that are fixed.
        progress: is told what is being done, and how many bytes are done, of how many: of 0 if that
            is not known.

    Raises:
        BadInputError: it can't be read.
    """
    with tempfile.TemporaryDirectory() as directory:
        progress("reading the corpus", 0, 0)
        corpus = read_corpus(data.corpus, stdin, reading=Reading.of(data))
        split = split_corpus(
            corpus, data, Path(directory), progress=partial(progress, "reading the corpus")
        )
        counts, twice_encoded, lengths = _counted(split, partial(progress, "counting characters"))
        classes = _shares(counts, _class)
        progress("training the tokenizer", 0, 0)
        size = TextSize.of(part for document in split.train.documents() for part in document)
        planned, _ = plan_tokenizer(size, tokenizer)
        trained = learned_tokenizer(split, planned.kind, planned.vocab_size)
        stage = "encoding the corpus"
        progress(stage, 0, 0)
        n_workers = data.workers or os.cpu_count() or 1
        encoded = encode_corpus(
            split, trained, n_workers=n_workers, progress=partial(progress, stage)
        )
        stage = "comparing the holdout with the train part"
        progress(stage, 0, 0)
        audited = audit(split, None, partial(progress, stage))
        parts = {
            part.name: PartStudy(len(part.table()), own.bytes, own.characters, own.tokens)
            for part, own in ((split.train, encoded.train), (split.holdout, encoded.holdout))
        }
        hashes = np.concatenate([part.table()["hash"] for part in (split.train, split.holdout)])
        return CorpusStudy(
            name=corpus.name,
            formats=dict(split.formats),
            split=split.method,
            parts=parts,
            lengths=lengths,
            duplicates=len(hashes) - len(np.unique(hashes)),
            left_out=dict(split.left_out),
            skipped=dict(split.skipped),
            distinct=len(counts),
            classes=classes,
            scripts=_shares(counts, _script),
            problems={
                "lost": counts["\ufffd"],
                "twice_encoded": twice_encoded,
                "controls": sum(n for c, n in counts.items() if _is_control(c)),
                "carriage_returns": counts["\r"],
            },
            tokenizer=(trained.kind, trained.vocab_size),
            shown=_shown(split, trained),
            audit=audited,
        )


def _counted(
    split: SplitCorpus, progress: Callable[[int, int], None]
) -> tuple[Counter[str], int, dict[str, int]]:
    """How often each character stands in a corpus, and how often one that was encoded twice; and
    the lengths of its documents."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    twice_encoded, lengths = 0, []
    done, total = 0, split.train.n_bytes + split.holdout.n_bytes
    for document in chain(split.train.documents(), split.holdout.documents()):
        lengths.append(0)
        for text in document:
            np.add.at(counts, np.frombuffer(text.encode("utf-32-le"), "<u4"), 1)
            twice_encoded += len(_TWICE_ENCODED.findall(text))
            lengths[-1] += len(text)
            done += len(text.encode("utf-8"))
            progress(done, total)
    characters = Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})
    quantiles = np.quantile(lengths, list(_LENGTHS.values()), method="nearest")
    return characters, twice_encoded, dict(zip(_LENGTHS, map(int, quantiles), strict=True))


def _shares(counts: Counter[str], kind_of: Callable[[str], str | None]) -> dict[str, float]:
    """Share of each kind of character, the largest first, of those that are of one."""
    kinds: Counter[str] = Counter()
    for character, n in counts.items():
        if (kind := kind_of(character)) is not None:
            kinds[kind] += n
    return {kind: n / kinds.total() for kind, n in kinds.most_common(_MOST_SCRIPTS)}


def _class(character: str) -> str:
    if character.isspace():
        return "white_space"
    return {"L": "letters", "M": "letters", "N": "digits"}.get(
        unicodedata.category(character)[0], "others"
    )


def _script(character: str) -> str | None:
    """The writing system of a letter: the first word of its Unicode name."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "unnamed").split()[0].capitalize()
    return "Han" if name == "Cjk" else name


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc" and character not in "\t\n\r\f\v"


def _shown(split: SplitCorpus, tokenizer: Tokenizer) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The beginnings of documents that lie evenly in the train part, and their ends if short."""
    part, table = split.train, split.train.table()
    shown = []
    for number in sorted({i * len(table) // _SHOWN_DOCUMENTS for i in range(_SHOWN_DOCUMENTS)}):
        start = int(table["end"][number - 1]) if number else 0
        end = int(table["end"][number])
        cut = min(end, start + 64 * _SHOWN_TOKENS)
        text = "".join(map("".join, part.pieces(start, cut, number, number)))
        ids = tokenizer.encode(text, "replace").tolist()
        if split.has_several and tokenizer.end_id is not None and len(ids) < _SHOWN_TOKENS:
            ids.append(tokenizer.end_id)
        pieces = tuple(tokenizer.piece(i) for i in ids[:_SHOWN_TOKENS])
        shown.append((split.name_of(part, start), pieces))
    return tuple(shown)
