"""How the model of another program writes conversations: its chat template, which is Jinja.

Nothing in a template says where an answer begins and ends in what it writes. That is found here, by
what it writes of conversations that are known, and believed only if what stands before each answer
is what the model is asked with. So answers are found in ids alone, as in conversations of minitx.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from minitx.errors import BadInputError
from minitx.tokenizer.conversation import TEMPLATE, messages_in

SETTINGS_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_MAP_FILE = "special_tokens_map.json"

Messages = Sequence[Mapping[str, str]]
Encode = Callable[[str], list[int]]

_SAID = ("Is it so?", "7 of 9, (two)", "one more\nline")
_ANSWERED = ("Yes, it is", "No 12", "well: \u00e9t\u00e9.")


class ChatTemplate:
    """A template, and where answers are in what it writes.

    Attributes:
        beginning: the ids that each conversation begins with; may be empty.
        opening: those that stand before each answer.
        end_id: the id that ends each.

    Raises:
        ValueError: saying why answers can't be found in what it writes.
    """

    def __init__(
        self, source: str, names: Mapping[str, str], encode: Encode, special: Collection[int],
        may_cut: bool,
    ) -> None:  # fmt: skip
        self._render, self._names, self._encode = _compiled(source), names, encode
        self._may_cut = may_cut
        self._opening = ""  # Nothing is cut, or counted, until it is known.
        self._has_system = True
        asked = [self.text([_user(said)], True) for said in _SAID]
        known = [self.text([_user(said)], False) for said in _SAID]
        added = {text.removeprefix(before) for text, before in zip(asked, known, strict=True)}
        opening = added.pop() if len(added) == 1 else ""
        opening = opening or asked[0][len(asked[0]) - _common_end(asked) :]
        ids = [encode(text) for text in asked]
        own = encode(opening)
        is_own = all(i[-len(own) :] == own for i in ids)
        self.opening = own if is_own else ids[0][len(ids[0]) - _common_end(ids) :]
        answered = [
            encode(self.text([_user(said), _answer(told)], False))
            for said, told in zip(_SAID, _ANSWERED, strict=True)
        ]
        after = answered[0][len(answered[0]) - _common_end(answered) :]
        ends = [i for i in after if i in special]
        if not self.opening or not opening:
            raise ValueError("nothing that it writes stands before each answer")
        if not ends:
            raise ValueError("no special token ends what it writes of an answer")
        self.end_id, self._opening = ends[0], opening
        self._check()

    def text(self, messages: Messages, is_asked: bool) -> str:
        """What it writes of messages, with the beginning of an answer if that is asked for.

        Raises:
            ValueError: it refuses them, or their text spells its marks.
        """
        if not self._has_system and any(message["role"] == "system" for message in messages):
            raise ValueError("its chat template takes no system text")
        try:
            text = self._render(
                messages=[dict(message) for message in messages], add_generation_prompt=is_asked,
                tools=None, documents=None, **self._names,
            )  # fmt: skip
        except Exception as error:  # A template may do anything.
            told = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"the model's chat template refuses it: {told}") from None
        n_answers = sum(message["role"] == "assistant" for message in messages) + is_asked
        if self._opening and (n := text.count(self._opening)) != n_answers:
            raise ValueError(
                f"{self._opening!r}, which begins an answer in the model's chat template, stands "
                f"{n} times in what it writes of {n_answers} answers"
            )
        return text

    def parts(self, conversation: str) -> Iterator[str]:
        """What it writes of a conversation that is kept as a text, in parts to be encoded apart.

        So the ids before an answer are those that a model is asked with, whatever the answer.

        Raises:
            ValueError: as in `text`.
        """
        yield from self._cut(self.text(*messages_in(conversation)))

    def ids(self, messages: Messages, is_asked: bool) -> list[int]:
        """The ids of messages."""
        return [i for part in self._cut(self.text(messages, is_asked)) for i in self._encode(part)]

    def _cut(self, text: str) -> list[str]:
        if not self._may_cut:
            return [text]
        *before, last = text.split(self._opening)
        return [part for part in (*(part + self._opening for part in before), last) if part]

    def _check(self) -> None:
        said = [_user(text) for text in _SAID]
        told = [_answer(text) for text in _ANSWERED]
        turns = [turn for pair in zip(said, told, strict=True) for turn in pair]
        # Each begins with another text.
        samples = (turns[:2], turns[2:], [*turns[4:], *turns[:4]])
        written = [self._checked(messages) for messages in samples]
        try:
            written.append(self._checked([{"role": "system", "content": "Be brief."}, *turns[:4]]))
        except ValueError:
            self._has_system = False
        self.beginning = written[0][: _common_end([ids[::-1] for ids in written])]

    def _checked(self, messages: Messages) -> list[int]:
        # The ids of a conversation, if before each answer stands what is asked with.
        ids, size = self.ids(messages, False), len(self.opening)
        starts = [i for i in range(size, len(ids)) if ids[i - size : i] == self.opening]
        asked = [
            self.ids(messages[:i], True)
            for i, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if [ids[:start] for start in starts] != asked:
            raise ValueError("what it asks with is not what it writes before an answer")
        ends = [ids.index(self.end_id, start) for start in starts if self.end_id in ids[start:]]
        if len(ends) < len(starts) or any(map(int.__ge__, ends, starts[1:])):
            raise ValueError("no special token ends each answer that it writes")
        return ids


def kept_template(files: Mapping[str, bytes]) -> str | None:
    """The chat template in the files of a tokenizer; None if there is none, or that of minitx."""
    if TEMPLATE_FILE in files:
        # transformers moves it out of the settings when it saves a tokenizer again.
        template: Any = files[TEMPLATE_FILE].decode("utf-8", "replace")
    else:
        template = json.loads(files.get(SETTINGS_FILE, b"{}")).get("chat_template")
    if isinstance(template, list):  # Of several, by name.
        named = [each for each in template if isinstance(each, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    return template if isinstance(template, str) and template != TEMPLATE else None


def learned_template(
    files: Mapping[str, bytes], encode: Encode, special: Collection[int], may_cut: bool
) -> ChatTemplate:
    """The template in the files of a tokenizer of another program.

    Args:
        encode: what gives the ids of a text.
        special: the ids of its special tokens.
        may_cut: whether a text that is encoded in two parts has the same ids.

    Raises:
        BadInputError: there is none, or answers can't be found in what it writes.
    """
    source = kept_template(files)
    if source is None:
        raise BadInputError(
            "the model is another program's and has no chat template",
            "Begin with one that was tuned to answer, or with a model of minitx",
        )
    settings: dict[str, Any] = {}
    for name in (_MAP_FILE, SETTINGS_FILE):
        settings |= json.loads(files.get(name, b"{}"))
    names = {}
    for key, token in settings.items():
        content = token.get("content") if isinstance(token, dict) else token
        if key.endswith("_token") and isinstance(content, str):
            names[key] = content
    try:
        return ChatTemplate(source, names, encode, special, may_cut)
    except ValueError as error:
        raise BadInputError(
            f"answers can't be told in the chat template of this model: {error}",
            "Begin with another model, or mend its chat_template",
        ) from None


def _compiled(source: str) -> Callable[..., str]:
    # As transformers runs it, but for the date: the same seed, the same result.
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.nodes import Scope
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(told: str) -> None:
        raise TemplateError(told)

    class Generation(Extension):
        """What transformers is told to be an answer, for its own masks."""

        tags = {"generation"}  # noqa: RUF012  (Jinja's own form)

        def parse(self, parser: Parser) -> Scope:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, **{"ensure_ascii": False, **how}
    )
    try:
        return environment.from_string(source).render
    except TemplateError as error:
        raise ValueError(f"it is no Jinja ({str(error).splitlines()[0]})") from None


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _common_end(lists: Sequence[Sequence[Any]]) -> int:
    """How many of their last items all have."""
    length = 0
    while (
        all(len(each) > length for each in lists) and len({each[-1 - length] for each in lists}) < 2
    ):
        length += 1
    return length
