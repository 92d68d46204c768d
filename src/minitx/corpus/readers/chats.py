"""Conversations: records of JSON with `messages`, one a line or in a list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from minitx.corpus.documents import Document, Reading
from minitx.corpus.readers import READERS, CorpusReader
from minitx.corpus.readers.json_records import JSONList, numbered_records
from minitx.corpus.readers.plain_text import BOM
from minitx.corpus.readers.records import is_encodable
from minitx.tokenizer.conversation import conversation_text, messages_of

_MESSAGES = re.compile(rb'[{,]\s*"messages"\s*:\s*\[')


@READERS.register("chats")
class Chats(CorpusReader):
    """A conversation a record: `messages`, each with `role` and `content`."""

    is_special = True

    def recognises(self, name: str, beginning: bytes) -> bool:
        """By the messages of its first record, whatever the name."""
        first = beginning if JSONList.is_list(beginning) else beginning.partition(b"\n")[0]
        begins = first.removeprefix(BOM).lstrip()[:1]
        return begins in (b"{", b"[") and bool(_MESSAGES.search(first))

    def documents(self, file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
        """As in `CorpusReader`."""
        unit, records = numbered_records(file, name, reading)
        for number, record in records:
            try:
                text = _text(record)
            except ValueError as error:
                reading.pass_over(name, f"{unit} {number:,}", str(error))
            else:
                yield Document([text], name, unit, number)


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
