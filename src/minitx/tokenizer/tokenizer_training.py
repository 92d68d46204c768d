"""Training a tokenizer on a text: the same text and settings give the same file, byte for byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from minitx.config.checks import require_one_of
from minitx.config.run_config import TOKENIZER_KINDS, TokenizerKind
from minitx.errors import BadInputError
from minitx.tokenizer.base import Tokenizer
from minitx.tokenizer.bpe import train_bpe
from minitx.tokenizer.word_level import train_char, train_word

_TRAINERS: dict[TokenizerKind, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": train_bpe,
    "char": train_char,
    "word": train_word,
}


def train_tokenizer(text: str | Iterable[str], kind: TokenizerKind, vocab_size: int) -> Tokenizer:
    """Train a tokenizer; of several texts, none is joined to the next.

    `vocab_size` is the most ids. For `char` and `word` 0 means all characters or words, and the
    unknown token is counted.

    Raises:
        BadInputError: the kind is unknown, the vocabulary too small for it, or the text has a
            lone surrogate.
    """
    require_one_of("kind", kind, TOKENIZER_KINDS)
    try:
        return _trained(_TRAINERS[kind], [text] if isinstance(text, str) else text, vocab_size)
    except (UnicodeEncodeError, TypeError):
        # What the library says of a lone surrogate is that it wants a str.
        raise BadInputError(
            "the training text has a lone surrogate, which is not valid Unicode",
            "Give the text as UTF-8",
        ) from None


def _trained(
    train: Callable[[Iterable[str], int], Tokenizer], texts: Iterable[str], vocab_size: int
) -> Tokenizer:
    # In a thread: the library hears of no Ctrl-C for minutes, but who waits for it does. A daemon,
    # so that the end of the process does not wait for it either.
    outcome: Future[Tokenizer] = Future()

    def work() -> None:
        try:
            outcome.set_result(train(texts, vocab_size))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="tokenizer", daemon=True).start()
    return outcome.result()
