"""Conversations as text: the marks between their turns, and the template that other programs run.

    <|system|>Be brief.<|user|>Hello<|assistant|>Hi!<|endoftext|><|user|>...

A turn is its role's token and its text. An answer ends with the end of a text, so that whatever
writes texts stops there. In a text, a mark stands for the token of a role: a Unicode noncharacter,
which is never in a text that is meant to be read (Unicode, section 23.7). So no message can spell a
token, and a conversation is kept, split and compared like any other document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")

MARKS: dict[str, str] = {role: chr(0xFDD0 + i) for i, role in enumerate(ROLES)}
"""What begins a turn in a text, by its role."""

TOKENS: dict[str, str] = {role: f"<|{role}|>" for role in ROLES}
"""How a vocabulary names the token of each role."""

MARK = re.compile(f"([{''.join(MARKS.values())}])")

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('the roles are system, user and assistant') }}{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The same in Jinja, as transformers, vLLM and llama.cpp run it."""


def conversation_text(messages: Iterable[Mapping[str, Any]], is_asked: bool = False) -> str:
    """A conversation as one text, in which a mark begins each turn.

    Args:
        messages: each with `role` and `content`.
        is_asked: whether the answer to the last one is to be written.

    Raises:
        ValueError: saying what of a message can't be.
    """
    turns = [_checked(message, number) for number, message in enumerate(messages, start=1)]
    text = "".join(MARKS[role] + content for role, content in turns)
    return text + MARKS["assistant"] if is_asked else text


def _checked(message: Any, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"message {number} is no object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"message {number} has the role {role!r}, and they are {', '.join(ROLES)}")
    if more := [key for key in message if key not in ("role", "content") and message[key]]:
        raise ValueError(f"message {number} has {more[0]}, which minitx does not know")
    if not isinstance(content, str):
        raise ValueError(f"the content of message {number} is no text")
    if mark := MARK.search(content):
        raise ValueError(
            f"message {number} has U+{ord(mark[0]):04X}, a noncharacter that stands for a role"
        )
    return str(role), content


def without_marks(text: str) -> str:
    """A text as a person reads it: with the names of the tokens in place of the marks."""
    return MARK.sub(lambda mark: TOKENS[ROLES[ord(mark[0]) - 0xFDD0]], text)


def messages_in(text: str) -> tuple[list[dict[str, str]], bool]:
    """The messages of a conversation that is kept as a text, and whether an answer is asked for.

    Raises:
        ValueError: it begins with no mark.
    """
    before, *turns = MARK.split(text)
    if before or not turns:
        raise ValueError("a conversation begins with a role, and this text does not")
    role_of = {mark: role for role, mark in MARKS.items()}
    messages = [
        {"role": role_of[mark], "content": content}
        for mark, content in zip(turns[::2], turns[1::2], strict=True)
    ]
    is_asked = messages[-1] == {"role": "assistant", "content": ""}
    return messages[: len(messages) - is_asked], is_asked


FIELDS = ("messages", "conversations")
"""Where a record of a corpus has its messages: as OpenAI has them, or with `from` and `value`."""

_ROLE_OF = {"human": "user", "gpt": "assistant"}


def messages_of(record: Mapping[str, Any]) -> Sequence[Any] | None:
    """The messages of a record of a corpus, each with `role` and `content`; None if it has none."""
    for field in FIELDS:
        messages = record.get(field)
        if isinstance(messages, list):
            return [_with_role(message) for message in messages]
    return None


def _with_role(message: Any) -> Any:
    if not isinstance(message, Mapping) or "from" not in message or message.get("role"):
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value", "role")}
    role = _ROLE_OF.get(str(message["from"]), message["from"])
    return {**rest, "role": role, "content": message.get("value")}


def turns_of(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts of all turns of conversations, to learn a tokenizer from."""
    for text in [texts] if isinstance(texts, str) else texts:
        yield from (turn for turn in MARK.split(text) if turn and not MARK.match(turn))
