"""What every kind of tokenizer does, and the files it is kept in.

A tokenizer is its `tokenizer.json`, in the format of the Hugging Face `tokenizers` library: what
the file says is what encodes.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from minitx.config.run_config import TokenizerKind
from minitx.errors import BadInputError
from minitx.files import json_bytes, os_errors_as_bad_input, write_atomically
from minitx.tokenizer.chat_template import (
    SETTINGS_FILE,
    ChatTemplate,
    kept_template,
    learned_template,
)
from minitx.tokenizer.chunks import Border, chunks
from minitx.tokenizer.conversation import MARK, MARKS, TEMPLATE, TOKENS, without_marks

Ids = npt.NDArray[np.int32]
Unknown = Literal["error", "replace"]

TOKENIZER_FILE = "tokenizer.json"

UNKNOWN = "<unk>"
"""How `char` and `word` vocabularies name the unknown token. No text encodes to it by that name:
their pieces hold a punctuation mark alone."""

END_OF_TEXT = "<|endoftext|>"
"""How a vocabulary names the token that stands after a document. It stands for no text, and no text
encodes to it by that name: merges and words end between its letters and its marks."""

_ANSWERED = MARKS["assistant"]
"""Before the mark that follows an answer: the answer ends there."""

# Small enough that the work of a batch is a few MB, large enough to be worth a batch.
_CHUNK = 16_384
_CHUNKS_AT_ONCE = 16
_NAMED = 5


class Tokenizer(ABC):
    """Text to token ids and back, as the sound content of a `tokenizer.json` defines it.

    Attributes:
        backend: the `tokenizers` object that does the work.
        vocab_size: every id is below it.
        json_bytes: content of `tokenizer.json`, the same bytes for the same tokenizer.
        digest: SHA-256 of `json_bytes`, in hexadecimal.
        unknown_id: the id for what the vocabulary lacks; None where nothing can be lacking.
        end_id: the id that ends a document; None in tokenizers of earlier versions.
        roles: the id of each role of a conversation; empty where it knows none of minitx's.
        kept_files: its files as another program made them; empty for one of ours.
    """

    kind: ClassVar[TokenizerKind]

    def __init__(self, definition: dict[str, Any]) -> None:
        self.json_bytes = json_bytes(_in_our_form(definition))
        self.digest = sha256(self.json_bytes).hexdigest()
        self._file_digest = sha256(json_bytes(definition)).hexdigest()
        self.backend = Backend.from_str(self.json_bytes.decode("utf-8"))
        self.vocab_size = self.backend.get_vocab_size()
        self.unknown_id: int | None = None
        self.end_id: int | None = self.backend.token_to_id(END_OF_TEXT)
        self.kept_files: dict[str, bytes] = {}
        self.roles: dict[str, int] = {}
        self._ids_of_mark: dict[str, Ids] = {}

    def add_roles(self) -> None:
        """Let it encode conversations: each role is a new id, the end of an answer is `end_id`."""
        self._border  # noqa: B018  (is kept; it follows from the tokens before)
        content = json.loads(self.json_bytes)
        for role, name in TOKENS.items():
            self.roles[role] = self.vocab_size
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            token = {"id": self.vocab_size, "content": name, **flags, "special": True}
            content["added_tokens"].append(token)
            self.vocab_size += 1
        self.__dict__.pop("_bytes_of", None)  # Of the ids before.
        self.json_bytes = json_bytes(content)
        self.digest = self._file_digest = sha256(self.json_bytes).hexdigest()
        for role, i in self.roles.items():
            own = [i] if self.end_id is None else [self.end_id, i]
            self._ids_of_mark[MARKS[role]] = np.array([i], np.int32)
            self._ids_of_mark[_ANSWERED + MARKS[role]] = np.array(own, np.int32)

    def keep(self, files: dict[str, bytes]) -> None:
        """Note that another program made it, with these files."""
        self.kept_files = files
        if (template := kept_template(files)) is not None:
            self.digest = sha256(self.json_bytes + template.encode("utf-8")).hexdigest()

    @cached_property
    def template(self) -> ChatTemplate | None:
        """How it writes conversations, if another program made it; None if it writes none."""
        with contextlib.suppress(BadInputError):
            return self.require_template()
        return None

    def require_template(self) -> ChatTemplate:
        """The same.

        Raises:
            BadInputError: saying why it writes none.
        """
        added = self.backend.get_added_tokens_decoder().keys()
        return learned_template(self.kept_files, self._backend_ids, added, self._may_cut)

    @property
    def writes_chats(self) -> bool:
        """Whether it encodes conversations."""
        return bool(self.roles) or self.template is not None

    @property
    def answer_marks(self) -> tuple[list[int], list[int]]:
        """Of conversations, the ids that stand before each answer, and those that each may end
        with; nothing of one that writes none."""
        if self.template is not None:
            return self.template.opening, [self.template.end_id]
        if self.roles and self.end_id is not None:
            return [self.roles["assistant"]], [self.end_id, *self.roles.values()]
        return [], []

    def end_with(self, end_id: int) -> None:
        """Let an id end a document of which the kept files do not say that it does."""
        self.end_id = end_id
        settings = json.loads(self.kept_files[SETTINGS_FILE])
        settings["eos_token"] = self.special_token
        self.kept_files[SETTINGS_FILE] = json_bytes(settings)

    def has_digest(self, digest: str) -> bool:
        """Whether it is the tokenizer of a digest; earlier versions took that of the file."""
        known = {self.digest, self._file_digest, sha256(self.json_bytes).hexdigest()}
        return digest in known

    def files(self, context_length: int | None = None) -> dict[str, bytes]:
        """What a directory needs, by name, to be opened by `load_tokenizer` and `AutoTokenizer`.

        The latter is told of a token for padding, the beginning and the end, and of the model's
        context. Those of another program are given out as they are.
        """
        if self.kept_files:
            return self.kept_files
        special = self.special_token
        config = {
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict.fromkeys(("bos_token", "eos_token", "pad_token"), special),
            # So that its name in a text is read as text; but a template spells tokens.
            "split_special_tokens": not (self.roles or self.backend.get_added_tokens_decoder()),
            "padding_side": "left",
        }
        if self.roles:
            config["chat_template"] = TEMPLATE
        if context_length is not None:
            config["model_max_length"] = context_length
        return {TOKENIZER_FILE: self.json_bytes, SETTINGS_FILE: json_bytes(config)}

    @property
    def special_token(self) -> str:
        """The entry that stands for no text.

        It ends a document; in tokenizers of earlier versions it is the unknown token or the byte
        FF, in those of other programs another special one.
        """
        if self.end_id is not None:
            return str(self.backend.id_to_token(self.end_id))
        added = self.backend.get_added_tokens_decoder().values()
        fallback = UNKNOWN if self.unknown_id is not None else "\u00ff"
        return next((token.content for token in added if token.special), fallback)

    @property
    def first_token(self) -> str:
        """The entry that begins a text, in the words of other programs; ours ends one, too."""
        named = json.loads(self.kept_files.get(SETTINGS_FILE, b"{}")).get("bos_token")
        name = named.get("content") if isinstance(named, dict) else named
        is_known = isinstance(name, str) and self.backend.token_to_id(name) is not None
        return str(name) if is_known else self.special_token

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Turn a text into ids, (tokens,) of int32.

        Raises:
            BadInputError: the text has a lone surrogate, or (named) what the vocabulary lacks, if
                that is not to be replaced by the unknown token.
        """
        parts = list(self.encode_parts(text, unknown))
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def encode_parts(self, texts: str | Iterable[str], unknown: Unknown = "error") -> Iterator[Ids]:
        """Give the ids of a text, which may come in parts, cut anywhere, in several arrays.

        They are those of the text as a whole. Few of them are in memory at once.

        Raises:
            BadInputError: as in `encode`, after the parts before.
        """
        pieces = self._pieces([texts] if isinstance(texts, str) else texts)
        while ready := list(islice(pieces, _CHUNKS_AT_ONCE)):
            yield np.concatenate(self._encode_chunks(ready, unknown))

    def encode_documents(
        self, documents: Iterable[Iterable[str]], n_ends: int, unknown: Unknown = "error"
    ) -> Iterator[Ids]:
        """Give the ids of documents, each of which comes in parts, in several arrays.

        After each of the first `n_ends` stands `end_id`, if there is one. Few ids are in memory at
        once.

        Raises:
            BadInputError: as in `encode`.
        """
        end = np.array([] if self.end_id is None else [self.end_id], np.int32)
        ready: list[str] = []
        ends: list[bool] = []  # Of each chunk, whether its document ends with it.
        size = 0
        for number, document in enumerate(documents):
            for piece in self._pieces(document):
                ready.append(piece)
                ends.append(False)
                size += len(piece)
                if size >= _CHUNK * _CHUNKS_AT_ONCE:
                    # The last may be the end of its document, which is not known yet.
                    yield self._with_ends(ready[:-1], ends[:-1], end, unknown)
                    ready, ends, size = ready[-1:], ends[-1:], len(piece)
            if number < n_ends:
                if not ready or ends[-1]:  # Its text is empty, or was given out.
                    ready.append("")
                    ends.append(False)
                ends[-1] = True
        if ready:
            yield self._with_ends(ready, ends, end, unknown)

    def _with_ends(self, ready: list[str], ends: list[bool], end: Ids, unknown: Unknown) -> Ids:
        ids = self._encode_chunks(ready, unknown)
        parts = [part for own, ended in zip(ids, ends, strict=True)
                 for part in ((own, end) if ended else (own,))]  # fmt: skip
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def written(self, text: str) -> str:
        """What is encoded: of a conversation what its template writes, else the text itself.

        Raises:
            BadInputError: as in `encode`.
        """
        return "".join(piece for part in self._written([text]) for piece in part)

    def _pieces(self, texts: Iterable[str]) -> Iterator[str]:
        """A text that comes in parts, in pieces whose ids are those of the text as a whole."""
        if not self.roles:
            for part in self._written(texts):
                yield from self._pieces_of_turn(part)
            return
        parts = (part for text in texts for part in MARK.split(text) if part)
        before = ""
        for is_mark, turn in groupby(parts, lambda part: part in self._ids_of_mark):
            if not is_mark:
                yield from self._pieces_of_turn(turn)
                continue
            for mark in turn:
                yield before + mark
                before = _ANSWERED if mark == _ANSWERED else ""

    def _written(self, texts: Iterable[str]) -> Iterator[Iterable[str]]:
        """A text as it is, or a conversation as another program writes it, in parts."""
        waiting = iter(texts)
        first = next(filter(None, waiting), "")
        if not MARK.match(first) or self.template is None:
            yield chain([first], waiting)
            return
        conversation = first + "".join(waiting)
        try:
            yield from ([part] for part in self.template.parts(conversation))
        except ValueError as error:
            beginning = without_marks(conversation[:60]).replace("\n", " ")
            raise BadInputError(
                f"a conversation can't be written for this model: {error}",
                f"Leave it out, or change it; it begins: {beginning}",
            ) from None

    def _pieces_of_turn(self, texts: Iterable[str]) -> Iterator[str]:
        rest = ""
        for text in texts:
            *ready, rest = chunks(rest + text, _CHUNK, self._border, self._starts) or [""]
            yield from ready
        if rest:
            yield rest

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Turn ids into text; bytes that are no UTF-8 become U+FFFD, as do unknown tokens.

        The end of a document is no text.

        Raises:
            BadInputError: an id is not in the vocabulary.
        """
        table = self._bytes_of
        return b"".join([table[i] for i in self._checked(ids).tolist()]).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that an id stands for; none for the end of a document.

        Raises:
            BadInputError: the id is not in the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            self._checked([token_id])
        return self._bytes_of[token_id]

    def piece(self, token_id: int) -> str:
        """The text of one id, for display.

        Bytes of part of a character look like ``<0xE2>``; the unknown token is ``<unk>``, the
        end of a document ``<|endoftext|>``. Errors are those of `token_bytes`.
        """
        if token_id in (self.unknown_id, self.end_id):
            return UNKNOWN if token_id == self.unknown_id else self.special_token
        if token_id in self.roles.values():
            return next(TOKENS[role] for role, i in self.roles.items() if i == token_id)
        text = self.token_bytes(token_id).decode("utf-8", "surrogateescape")
        return "".join(
            f"<0x{ord(character) - 0xDC00:02X}>" if "\ud800" <= character <= "\udfff" else character
            for character in text
        )

    def safe_cut(self, text: str) -> int | None:
        """Where a text may be cut, not at its beginning, without changing any ids, whatever stands
        before and after it; None if it is not known."""
        border = None if self.writes_chats else self._border
        match = border and border.search(text, 2, max(2, len(text) - 1))
        return match.start() if match else None

    def unknown_characters(self, text: str) -> list[str]:
        """What of a text would become the unknown token: each once, in order.

        Characters for `char`, words for `word`; nothing is unknown to `bpe`.
        """
        return []

    def save(self, directory: Path) -> None:
        """Write its files, making the directory if needed.

        Raises:
            BadInputError: it can't be written.
        """
        what = f"the tokenizer can't be written to {directory}"
        with os_errors_as_bad_input(what, "Choose a directory where you may write"):
            directory.mkdir(parents=True, exist_ok=True)
            for name, content in self.files().items():
                write_atomically(directory / name, content)

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        # Where it is an added token, as other programs make it, a text can spell it.
        silent = {self.end_id} - self.backend.get_added_tokens_decoder().keys()
        entries = self._vocabulary()[: self.vocab_size - len(self.roles)]
        return [
            *(b"" if i in silent else self._bytes_of_entry(i, e) for i, e in enumerate(entries)),
            *(MARKS[role].encode("utf-8") for role in self.roles),
        ]

    @abstractmethod
    def _bytes_of_entry(self, token_id: int, entry: str) -> bytes:
        """Bytes of an id, from its vocabulary entry."""

    def _vocabulary(self) -> list[str]:
        """Entry of each id."""
        return [self.backend.id_to_token(i) or "" for i in range(self.vocab_size)]

    @property
    def _border(self) -> Border | None:
        """Where a text may be cut without changing its ids; None for nowhere."""
        return None

    def _starts(self, text: str) -> list[int]:
        """Where pieces start of which all tokens are known, whatever text follows."""
        added = self.backend.get_added_tokens_decoder().values()
        known = len(text) - max((len(token.content) for token in added), default=0)
        # A lone surrogate is refused where the ids are made.
        sound = text.encode("utf-8", "replace").decode("utf-8")
        encoding = self.backend.encode(sound, add_special_tokens=False)
        starts: dict[int | None, int] = {}
        for word, (start, _) in zip(encoding.word_ids, encoding.offsets, strict=True):
            starts.setdefault(word, start)
        return [start for start in starts.values() if start <= known]

    def _encode_chunks(self, texts: list[str], unknown: Unknown) -> list[Ids]:
        marks = self._ids_of_mark
        if marks and any(text in marks for text in texts):
            others = [text for text in texts if text not in marks]
            encoded = iter(self._encode_chunks(others, unknown) if others else ())
            return [marks[text] if text in marks else next(encoded) for text in texts]
        ids = self._ids_of(texts)
        lacks = self.unknown_id is not None and unknown == "error"
        if lacks and any((own == self.unknown_id).any() for own in ids):
            lacking = _named(self.unknown_characters("".join(texts)))
            raise BadInputError(
                f"the {self.kind} tokenizer never saw {lacking} in its training text",
                "Leave it out, or train with --kind bpe",
            )
        return ids

    def _backend_ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    _may_cut: ClassVar[bool] = True
    """Whether parts of a text that are encoded apart have the ids of the whole."""

    def _ids_of(self, texts: list[str]) -> list[Ids]:
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            lone = next(c for text in texts for c in text if "\ud800" <= c <= "\udfff")
            raise BadInputError(
                f"the text has a lone surrogate (U+{ord(lone):04X}), which is not valid Unicode",
                "Give the text as UTF-8",
            ) from None
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def _checked(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        fix = f"Use ids from 0 to {self.vocab_size - 1}"
        try:
            array = np.asarray(ids, dtype=np.int64).reshape(-1)
        except OverflowError:
            raise BadInputError("a token id is too large for any vocabulary", fix) from None
        outside = array[(array < 0) | (array >= self.vocab_size)]
        if len(outside):
            raise BadInputError(
                f"token id {outside[0]} is not in the vocabulary of {self.vocab_size:,}", fix
            )
        return array


def silent_ids(tokenizer: Tokenizer, end_id: int | None) -> list[int]:
    """Ids that a model is never asked to write: they stand for no text, and it does not end by
    them (with `end_id`)."""
    own_end = tokenizer.end_id
    if own_end is not None and tokenizer.token_bytes(own_end):
        own_end = None  # An added token, which texts of earlier runs could spell.
    silent = {tokenizer.unknown_id, own_end, *tokenizer.roles.values()}
    return sorted(i for i in silent if i not in (None, end_id))


def _in_our_form(definition: dict[str, Any]) -> dict[str, Any]:
    """A `tokenizer.json` as we write it, from any that means the same ids.

    Other programs and versions leave out defaults, and write a merge as one text. What adds to the
    ids of a text, or cuts them, is not in it.
    """
    model = _ordered(definition["model"], _MODEL_KEYS[definition["model"]["type"]])
    model["vocab"] = dict(sorted(model["vocab"].items(), key=itemgetter(1)))
    if "merges" in model:
        model["merges"] = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    unused = dict.fromkeys(("truncation", "padding", "post_processor"))
    return _ordered({"version": "1.0", **definition, "model": model, **unused}, _KEYS)


def _ordered(content: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {**{key: False if key in _FLAGS else None for key in keys}, **content}


_KEYS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
         "post_processor", "decoder", "model")  # fmt: skip
_FLAGS = ("fuse_unk", "byte_fallback", "ignore_merges")
_MODEL_KEYS = {
    "BPE": ("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
            *_FLAGS, "vocab", "merges"),
    "WordLevel": ("type", "vocab", "unk_token"),
}  # fmt: skip


def _named(unknown: list[str]) -> str:
    shown = [
        f"{text!r} (U+{ord(text):04X})" if len(text) == 1 else repr(text)
        for text in unknown[:_NAMED]
    ]
    more = len(unknown) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
