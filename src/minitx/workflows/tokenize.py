"""Train a tokenizer, and see what one does to a text: `minitx tokenize` as library calls.

tokenizer = train_on(["corpus.txt"], {"kind": "bpe", "vocab_size": 1024})[0]
print(tokenization(tokenizer, "To be or not to be").bytes_per_token)
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from minitx.checkpoint.rundir import named_run, resolve_checkpoint, use_checkpoint
from minitx.config import DataConfig, TokenizeRequest
from minitx.config.overrides import Overrides
from minitx.config.run_config import TokenizerKind
from minitx.corpus import SplitCorpus, read_corpus, split_corpus
from minitx.corpus.documents import Reading
from minitx.corpus.sources import piped_text
from minitx.errors import BadInputError
from minitx.tokenizer import Tokenizer, load_tokenizer, train_tokenizer, with_roles
from minitx.tokenizer.base import Ids, Unknown
from minitx.tokenizer.conversation import turns_of
from minitx.training.tokenizer_planning import TextSize, learned_from, plan_tokenizer

MOST_CHARACTERS = 1 << 24
"""Of a corpus, how much is encoded at once and shown: its beginning, if it is longer."""

_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, eq=False)
class Tokenization:
    """A text as a tokenizer sees it.

    Of its `(tokens,)` ids, `n_unknown` stand for what the vocabulary lacks; words are runs of
    letters and digits. `round_trip` says whether decoding gives the text back exactly.
    """

    text: str
    ids: Ids
    n_bytes: int
    n_words: int
    n_unknown: int
    round_trip: bool

    @property
    def n_tokens(self) -> int:
        """How many tokens."""
        return len(self.ids)

    @property
    def bytes_per_token(self) -> float:
        """Compression: how much text one token stands for."""
        return self.n_bytes / max(1, self.n_tokens)

    @property
    def fertility(self) -> float:
        """Tokens for each word; 1 would be a token a word."""
        return self.n_tokens / max(1, self.n_words)

    @property
    def unknown_rate(self) -> float:
        """Part of the tokens that are unknown."""
        return self.n_unknown / max(1, self.n_tokens)

    def figures(self) -> dict[str, Any]:
        """The figures as a JSON object, without text and ids."""
        return {
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "words": self.n_words,
            "bytes_per_token": self.bytes_per_token,
            "fertility": self.fertility,
            "unknown_tokens": self.n_unknown,
            "unknown_rate": self.unknown_rate,
            "round_trip": self.round_trip,
        }


@dataclass(frozen=True)
class Tokenized:
    """What `minitx tokenize` finds: texts as a tokenizer sees them, by name; or decoded ids."""

    tokenizer: Tokenizer
    parts: dict[str, Tokenization]
    decoded: tuple[list[int], str] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with all ids; with pieces where there is one text."""
        if self.decoded is not None:
            return dict(zip(("ids", "text"), self.decoded, strict=True))
        parts = {
            name: {**part.figures(), "ids": part.ids.tolist()} for name, part in self.parts.items()
        }
        values: dict[str, Any] = {
            "kind": self.tokenizer.kind,
            "vocab_size": self.tokenizer.vocab_size,
            "digest": self.tokenizer.digest,
            "parts": parts,
        }
        if len(parts) == 1:
            (part,) = parts.values()
            values["pieces"] = [self.tokenizer.piece(token) for token in part["ids"]]
        return values


def tokenize(request: TokenizeRequest, stdin: TextIO) -> Tokenized:
    """Train or load a tokenizer, save it if asked to, and encode or decode with it.

    With no text, corpus or ids in the request, a text is read from `stdin`.

    Raises:
        BadInputError: the corpus, the text, the ids or a setting can't be used.
    """
    for name in ("config.json", "run.toml"):
        if request.out is not None and (request.out / name).exists():
            raise BadInputError(
                f"{request.out} has a {name}: a tokenizer there would be taken for the model's",
                "Choose another directory",
            )
    parts: dict[str, Tokenization] = {}
    if request.tokenizer is None and (request.corpus or request.fixed or request.out):
        with tempfile.TemporaryDirectory() as directory:
            tokenizer, split, _ = train_on(
                request.corpus, request.fixed, Path(directory), stdin=stdin.buffer
            )
            if request.text is None and request.decode is None:
                parts = dict(
                    _part(tokenizer, name, part.documents())
                    for name, part in (("train part", split.train), ("holdout", split.holdout))
                )
    else:
        tokenizer = open_tokenizer(request.tokenizer)
        if request.corpus:
            corpus = read_corpus(request.corpus, stdin.buffer)
            documents = (document.parts for document in corpus.documents())
            parts = dict([_part(tokenizer, corpus.name, documents)])
    decoded = None
    if request.decode is not None:
        ids = parse_ids(_piped(stdin) if request.decode == "-" else request.decode)
        decoded = (ids, tokenizer.decode(ids))
    elif request.text is not None or not parts:
        text = _piped(stdin) if request.text is None else request.text
        parts = {"text": tokenization(tokenizer, text)}
    if request.out is not None:
        tokenizer.save(request.out)
    return Tokenized(tokenizer, parts, decoded)


def _part(
    tokenizer: Tokenizer, name: str, documents: Iterable[Iterable[str]]
) -> tuple[str, Tokenization]:
    """A text, or the beginning of one that is too long to be held in memory, and its name."""
    taken, left = [], MOST_CHARACTERS
    for stretch in chain.from_iterable(documents):
        taken.append(stretch[:left])
        if len(stretch) > left:
            name = f"{name}, its beginning"
            break
        left -= len(stretch)
    return name, tokenization(tokenizer, "".join(taken), "replace")


def _piped(stdin: TextIO) -> str:
    fix = 'Name a corpus, give --text "To be", or pipe a text in'
    return piped_text(stdin, "nothing is piped in", fix)


def train_on(
    sources: Sequence[str],
    given: Overrides,
    directory: Path,
    data: Overrides | None = None,
    stdin: BinaryIO | None = None,
) -> tuple[Tokenizer, SplitCorpus, dict[str, str]]:
    """Train a tokenizer on the train part of a corpus, as `minitx train` would.

    Both parts are kept in `directory`. `given` and `data` are keys of `TokenizerConfig` and
    `DataConfig` that are fixed; those that are planned come back with their reasons.

    Raises:
        BadInputError: the corpus or a setting can't be used.
    """
    config = DataConfig(tuple(sources), **(data or {}))
    corpus = read_corpus(sources, stdin, reading=Reading.of(config))
    split = split_corpus(corpus, config, directory)
    text = TextSize.of(part for document in split.train.documents() for part in document)
    planned, reasons = plan_tokenizer(text, given)
    return learned_tokenizer(split, planned.kind, planned.vocab_size), split, reasons


def learned_tokenizer(split: SplitCorpus, kind: TokenizerKind, vocab_size: int) -> Tokenizer:
    """Train a tokenizer on the train part of a corpus; that of conversations knows the roles.

    Raises:
        BadInputError: as in `train_tokenizer`, or as `has_chats`.
    """
    learned = learned_from(split.train, kind)
    if not has_chats(split):
        return train_tokenizer(learned, kind, vocab_size)
    return with_roles(train_tokenizer(turns_of(learned), kind, vocab_size))


def has_chats(split: SplitCorpus) -> bool:
    """Whether a corpus is of conversations.

    Raises:
        BadInputError: a part of it is.
    """
    kinds = dict(split.formats).keys()
    if "chats" in kinds and len(kinds) > 1:
        raise BadInputError(
            f"the corpus has conversations and other texts ({', '.join(sorted(kinds))}), and of "
            "conversations only the answers are learned",
            "Train on the other texts first, and on the conversations --from that run",
        )
    return "chats" in kinds


def open_tokenizer(path: Path | None) -> Tokenizer:
    """Load the tokenizer of a directory that has one, or of a run; None for the newest run.

    Raises:
        BadInputError: there is none.
    """
    if path is not None and (named_run(path) / "tokenizer.json").is_file():
        return load_tokenizer(named_run(path))
    return use_checkpoint(lambda: resolve_checkpoint(path, "last"), load_tokenizer)


def tokenization(tokenizer: Tokenizer, text: str, unknown: Unknown = "error") -> Tokenization:
    """Encode a text, and decode it again; what the vocabulary lacks is refused or replaced.

    Raises:
        BadInputError: the text has something unknown.
    """
    ids, unknown_id = tokenizer.encode(text, unknown), tokenizer.unknown_id
    return Tokenization(
        text=text,
        ids=ids,
        n_bytes=len(text.encode("utf-8")),
        n_words=sum(1 for _ in _WORD.finditer(text)),
        n_unknown=0 if unknown_id is None else int(np.count_nonzero(ids == unknown_id)),
        round_trip=tokenizer.decode(ids) == tokenizer.written(text),
    )


def parse_ids(text: str) -> list[int]:
    """Read token ids, separated by spaces or commas, with or without brackets.

    Raises:
        BadInputError: something in it is no number.
    """
    words = text.replace(",", " ").strip().strip("[]").split()
    fix = "Give numbers, like 18 47 56"
    for word in words:
        if not word.isascii() or not word.isdigit():
            raise BadInputError(f"{word!r} is no token id", fix)
    if not words:
        raise BadInputError("there are no token ids", fix)
    # Python itself refuses to read thousands of digits; no vocabulary needs more than ten.
    return [min(int(word.lstrip("0")[:11] or "0"), 2**31) for word in words]
