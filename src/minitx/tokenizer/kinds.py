"""A tokenizer of any kind: trained on a text, or opened from its file.

The same text and settings give the same file, byte for byte. A file is data to be checked before
use: any of them may be damaged.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from minitx.config.checks import require_one_of
from minitx.config.run_config import TOKENIZER_KINDS, TokenizerKind
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import json_bytes, os_errors_as_bad_input, read_bounded, read_json
from minitx.tokenizer.base import (
    END_OF_TEXT,
    TOKENIZER_FILE,
    UNKNOWN,
    Tokenizer,
)
from minitx.tokenizer.bpe import (
    BYTE_OF_CHARACTER,
    CHARACTER_OF_BYTE,
    SPELLS_BYTES,
    BytePairTokenizer,
    train_bpe,
)
from minitx.tokenizer.chat_template import SETTINGS_FILE, TEMPLATE_FILE, kept_template
from minitx.tokenizer.conversation import TEMPLATE
from minitx.tokenizer.sentence_pieces import SentencePieceTokenizer
from minitx.tokenizer.word_level import CharTokenizer, WordTokenizer, train_char, train_word

_TRAINERS: dict[TokenizerKind, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": train_bpe,
    "char": train_char,
    "word": train_word,
}


def train_tokenizer(text: str | Iterable[str], kind: TokenizerKind, vocab_size: int) -> Tokenizer:
    """Train a tokenizer; of several texts, none is joined to the next.

    `vocab_size` is the most ids. For `char` and `word` 0 means all characters or words. The
    unknown token and the end of a document are counted.

    Raises:
        BadInputError: the kind is unknown, the vocabulary too small for it, or the text has a
            lone surrogate.
    """
    require_one_of("kind", kind, TOKENIZER_KINDS)
    outcome: Future[Tokenizer] = Future()

    def work() -> None:
        try:
            texts = [text] if isinstance(text, str) else text
            outcome.set_result(_TRAINERS[kind](texts, vocab_size))
        except BaseException as error:
            outcome.set_exception(error)

    # In a thread: the library hears of no Ctrl-C for minutes, but who waits for it does. A daemon,
    # so that the end of the process does not wait for it either.
    threading.Thread(target=work, name="tokenizer", daemon=True).start()
    try:
        return outcome.result()
    except (UnicodeEncodeError, TypeError):
        # What the library says of a lone surrogate is that it wants a str.
        raise BadInputError(
            "the training text has a lone surrogate, which is not valid Unicode",
            "Give the text as UTF-8",
        ) from None


def with_end_of_text(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with an end of a document that no text can spell.

    One of an earlier version gets it as its last id. In one from another program it may be there
    as an added token, which is found in a text by its name; then it keeps its id.

    Raises:
        BadInputError: this tokenizer takes any text at all for one piece.
    """
    content = json.loads(tokenizer.json_bytes)
    vocabulary, added = content["model"]["vocab"], content["added_tokens"]
    others = [token for token in added if token["content"] != END_OF_TEXT]
    if tokenizer.end_id is not None and len(others) == len(added):
        return tokenizer
    # The library counts its added tokens on from the vocabulary, so that they are in there too.
    for token in added:
        vocabulary.setdefault(token["content"], token["id"])
    vocabulary.setdefault(END_OF_TEXT, tokenizer.vocab_size)
    ended = type(tokenizer)({**content, "added_tokens": others})
    if ended.end_id in ended.encode(END_OF_TEXT, "replace"):
        raise BadInputError(
            f"this tokenizer makes one token of the text {END_OF_TEXT}",
            "Use another tokenizer, or train a new one",
        )
    return ended


def with_roles(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, which encodes conversations, too: as its own chat template does, if it
    has one, else with the roles of minitx as new ids.

    In a tokenizer of another program that gets these, no text spells a special token any more.

    Raises:
        BadInputError: answers can't be found in what its template writes, or it has none and is
            one of SentencePiece.
    """
    if kept_template(tokenizer.kept_files) is not None:
        tokenizer.require_template()
    if tokenizer.writes_chats:
        return tokenizer
    if isinstance(tokenizer, SentencePieceTokenizer):
        raise BadInputError(
            "the corpus has conversations, and the model to begin with has a SentencePiece "
            "tokenizer without a chat template",
            "Begin with one that was tuned to answer, or with a model of minitx",
        )
    content = json.loads(tokenizer.json_bytes)
    vocabulary, added = content["model"]["vocab"], content["added_tokens"]
    vocabulary |= {token["content"]: token["id"] for token in added}
    ended = with_end_of_text(type(tokenizer)({**content, "added_tokens": []}))
    talking = type(ended)(json.loads(ended.json_bytes))
    talking.add_roles()
    return talking


LARGEST_FILE = 64 * 2**20
"""Bytes; the largest tokenizers in use take about half of that."""

_LARGEST_VOCABULARY = 2**24
_MOST_ADDED = 2**16
_MOST_VALUES = 2**22

Content = dict[str, Any]


def load_tokenizer(directory: Path) -> Tokenizer:
    """Open the tokenizer of a directory: one of ours, or a BPE such as GPT-2's or Llama's.

    Raises:
        BadInputError: there is none, or it is of a kind that minitx does not run.
        DamagedFileError: the file is not a sound `tokenizer.json`.
    """
    path = directory / TOKENIZER_FILE
    raw = _read(path, directory)
    content = _parse(path, raw)
    try:
        settings = _settings(directory)
        has_roles = _template(directory, settings) == TEMPLATE
        if has_roles:  # Of minitx: they come back with `add_roles`.
            content["added_tokens"] = []
        _drop_names(content, settings)
        model = content["model"]
        # Files from before the library wrote types have none for BPE, which alone has merges.
        model.setdefault("type", "BPE" if "merges" in model else None)
        if model["type"] not in ("BPE", "WordLevel"):
            raise _foreign(path, f"its model is {model['type']}")
        _require_vocabulary(content)
        open_kind = _word_level if model["type"] == "WordLevel" else _byte_level
        tokenizer = open_kind(content, path)
        if content["added_tokens"]:
            _keep(tokenizer, directory, raw, settings)
        if has_roles:
            tokenizer.add_roles()
        tokenizer.token_bytes(0)
    except (BadInputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        # The library tells a bad file with plain exceptions, and a panic with a BaseException.
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        raise _damaged(path, lacks + (str(error) or type(error).__name__)) from None
    return tokenizer


def _read(path: Path, directory: Path) -> bytes:
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise BadInputError(
            f"tokenizer directory {directory} {what}", f"Name a directory with {TOKENIZER_FILE}"
        )
    if not path.is_file():
        raise BadInputError(
            f"{directory} has no {TOKENIZER_FILE}", "Make one with: minitx tokenize TEXT --out DIR"
        )
    try:
        with os_errors_as_bad_input(f"{path} can't be read", "Restore access"):
            return read_bounded(path, LARGEST_FILE)
    except ValueError as error:
        raise _damaged(path, str(error)) from None


def _parse(path: Path, raw: bytes) -> Content:
    # Counted before anything is parsed: each small value of a file made to fill the memory
    # becomes an object many times its size.
    if raw.count(b",") > _MOST_VALUES or raw.count(b"{") > 2 * _MOST_ADDED:
        raise _damaged(path, "it has more values than any tokenizer")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _damaged(path, reason) from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise _damaged(path, "it has no model")
    # The library writes these always, others leave them out where they are empty.
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        content.setdefault(key, None)
    content["added_tokens"] = content.get("added_tokens") or []
    return content


def _settings(directory: Path) -> Content:
    with contextlib.suppress(OSError, ValueError):
        return read_json(directory / SETTINGS_FILE)
    return {}


def _keep(tokenizer: Tokenizer, directory: Path, raw: bytes, settings: Content) -> None:
    """Note the files of a tokenizer that another program made, and the end of a text it names."""
    beside = {n: read_bounded(directory / n) for n in _BESIDE if (directory / n).is_file()}
    tokenizer.keep({TOKENIZER_FILE: raw, SETTINGS_FILE: json_bytes(settings), **beside})
    end = settings.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    if isinstance(end, str) and tokenizer.backend.token_to_id(end) is not None:
        tokenizer.end_id = tokenizer.backend.token_to_id(end)


def _template(directory: Path, settings: Content) -> Any:
    # transformers moves it out of the settings when it saves a tokenizer again.
    path = directory / TEMPLATE_FILE
    return read_bounded(path).decode("utf-8") if path.is_file() else settings.get("chat_template")


_BESIDE = ("special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE)
"""Files that other programs keep beside these two."""


def _drop_names(content: Content, settings: Content) -> None:
    """Leave out special tokens that no text is cut at: transformers writes them down as added."""
    if settings.get("split_special_tokens") is True:
        content["added_tokens"] = [
            token for token in content["added_tokens"] if not token.get("special")
        ]


def _require_vocabulary(content: Content) -> None:
    """Refuse ids that are not 0, 1, 2, ...: tables as long as the largest id are made of them."""
    vocabulary, added = content["model"].get("vocab"), content["added_tokens"]
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("its vocabulary is not a table of ids")
    if not isinstance(added, list) or len(added) > _MOST_ADDED:
        raise ValueError("its added tokens are not a list of a sensible length")
    ids = set(vocabulary.values()) | {token["id"] for token in added}
    n = len(set(vocabulary) | {token["content"] for token in added})
    if not all(type(i) is int for i in ids) or n > _LARGEST_VOCABULARY:
        raise ValueError("its vocabulary has something else than ids")
    if len(ids) != n or min(ids) != 0 or max(ids) != n - 1:
        raise ValueError(f"its {n:,} tokens do not have the ids from 0 to {n - 1:,}")


def _byte_level(content: Content, path: Path) -> Tokenizer:
    model = content["model"]
    if model.get("byte_fallback"):
        return _pieces(content, path)
    steps = _steps(content["pre_tokenizer"], "pretokenizers")
    if "ByteLevel" not in {step["type"] for step in steps}:
        raise _foreign(path, "its BPE is not over bytes")
    decoder = _steps(content["decoder"], "decoders")
    if [step["type"] for step in decoder] != ["ByteLevel"]:
        raise _foreign(path, "its decoder is not that of bytes")
    if (content["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise _foreign(path, f"it normalizes text ({content['normalizer']['type']})")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _foreign(path, f"it has {key}")
    added = {token["content"] for token in content["added_tokens"]}
    _require_bytes(model["vocab"].keys() - added)
    if not model["vocab"].keys() >= set(CHARACTER_OF_BYTE.values()):
        raise _foreign(path, "its vocabulary lacks some of the 256 bytes")
    return BytePairTokenizer(content)


def _pieces(content: Content, path: Path) -> Tokenizer:
    """A BPE of SentencePiece, as Llama 2 and Mistral have it."""
    known = {
        "normalizer": ("Prepend", "Replace"), "pre_tokenizer": ("Metaspace",),
        "decoder": ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"),
    }  # fmt: skip
    lists = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    for key, types in known.items():
        for step in _steps(content[key], lists[key]):
            if step["type"] not in types:
                raise _foreign(path, f"its {key} is {step['type']}")
    if not all(f"<0x{byte:02X}>" in content["model"]["vocab"] for byte in range(256)):
        raise _foreign(path, "its vocabulary lacks some of the 256 bytes")
    return SentencePieceTokenizer(content)


def _require_bytes(entries: Iterable[str]) -> None:
    for entry in entries:
        if not BYTE_OF_CHARACTER.keys() >= set(entry):
            raise ValueError(f"its token {entry!r} does not stand for bytes")


_WORD_LEVEL = {str({"Regex": kind.pattern}): kind for kind in (CharTokenizer, WordTokenizer)}


def _word_level(content: Content, path: Path) -> Tokenizer:
    vocabulary, unknown = content["model"]["vocab"], content["model"].get("unk_token")
    split, *spelling = _steps(content["pre_tokenizer"], "pretokenizers") or [{}]
    kind = _WORD_LEVEL.get(str(split.get("pattern")))
    plain = content["normalizer"] is None and not content["added_tokens"]
    in_bytes = [{**step, **SPELLS_BYTES} == step for step in spelling]
    known = split.get("behavior") == "Isolated" and in_bytes in ([], [True])
    if not plain or not known or kind is None or unknown != UNKNOWN:
        raise _foreign(path, "its words are cut in another way")
    if UNKNOWN not in vocabulary:
        raise ValueError(f"its vocabulary has no {UNKNOWN}")
    if in_bytes:
        _require_bytes(vocabulary)
    return kind(content)


def _steps(step: Content | None, key: str) -> list[Content]:
    if step is None:
        return []
    return list(step[key]) if step["type"] == "Sequence" else [step]


def _foreign(path: Path, why: str) -> BadInputError:
    return BadInputError(
        f"{path} is of a kind that minitx does not run: {why}",
        "Use a tokenizer of minitx tokenize, or a byte-level BPE such as GPT-2's or Llama's",
    )


def _damaged(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is damaged or no tokenizer.json: {why.splitlines()[0]}",
        "Restore it from a copy, or train the tokenizer again",
    )
