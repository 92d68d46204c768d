"""Conversations: records with `messages`, in JSON (one a line or in a list) or in a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from minitx.corpus.documents import Document, Reading
from minitx.corpus.readers import READERS, CorpusReader
from minitx.corpus.readers.json_records import JSONList, numbered_records
from minitx.corpus.readers.plain_text import BOM
from minitx.corpus.readers.records import is_encodable
from minitx.tokenizer.conversation import conversation_text, messages_of

_MESSAGES = re.compile(rb'[{,]\s*"(messages"\s*:\s*\[|conversations"\s*:\s*\[\s*\{)')


@READERS.register("chats")
class Chats(CorpusReader):
    """A conversation a record: `messages`, each with `role` and `content`, or `conversations`,
    each with `from` and `value`."""

    is_special = True

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By the messages of its first record, whatever the name."""
        first = beginning if JSONList.is_list(beginning) else beginning.partition(b"\n")[0]
        begins = first.removeprefix(BOM).lstrip()[:1]
        return begins in (b"{", b"[") and bool(_MESSAGES.search(first))

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        unit, records = numbered_records(file, name, reading)
        yield from conversations(records, unit, name, reading)


def conversations(
    records: Iterable[tuple[int, object]], unit: str, file: str, reading: Reading
) -> Iterator[Document]:
    """A document of each numbered record."""
    for number, record in records:
        try:
            text = _text(record)
        except ValueError as error:
            reading.pass_over(file, f"{unit} {number:,}", str(error))
        else:
            yield Document([text], file, unit, number)


def _text(record: object) -> str:
    if not isinstance(record, Mapping) or (messages := messages_of(record)) is None:
        raise ValueError("has no messages")
    if more := [key for key in ("tools", "functions") if record.get(key)]:
        raise ValueError(f"has {more[0]}, which minitx does not know")
    text = conversation_text(messages)
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("has no answer: a message of the role assistant")
    if not is_encodable(text):
        raise ValueError("has half a character (a lone surrogate)")
    return text
