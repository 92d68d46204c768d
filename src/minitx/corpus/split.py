"""Train part and holdout: what a model learns from, and what it is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from minitx.config import DataConfig
from minitx.corpus.sources import Corpus, read_corpus
from minitx.errors import BadInputError


@dataclass(frozen=True)
class Split:
    """The two parts of a text; nothing, not even the tokenizer, learns from the holdout."""

    train: str
    holdout: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 over both parts, in hexadecimal; moves when either does."""
        parts = (self.train.encode("utf-8"), self.holdout.encode("utf-8"))
        return digest_of_parts(hashlib.sha256(part).hexdigest() for part in parts)


def digest_of_parts(digests: Iterable[str]) -> str:
    """`Split.digest`, from the SHA-256 (in hexadecimal) of train part and holdout."""
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def split_corpus(corpus: Corpus, data: DataConfig) -> Split:
    """Cut off the tail of a corpus as its holdout, or read the holdout from its own file.

    A contiguous tail is harder than random lines, and more honest: neighbouring lines give each
    other away.

    Raises:
        BadInputError: the holdout file can't be read, or nothing is left to train on.
    """
    if data.holdout is not None:
        return Split(corpus.text, read_corpus([data.holdout]).text)
    cut = int(len(corpus.text) * (1.0 - data.holdout_fraction))
    if cut == 0:
        raise BadInputError(
            f"a corpus of {len(corpus.text)} characters is too short to split",
            "Give a longer text, or --holdout-fraction 0",
        )
    return Split(corpus.text[:cut], corpus.text[cut:])
