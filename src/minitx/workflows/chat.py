"""A conversation with a model that was trained on conversations: `minitx chat`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from minitx.config import SamplingConfig
from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input, shell_word
from minitx.generation import stream
from minitx.generation.answer_end import ending_answers
from minitx.tokenizer import Tokenizer
from minitx.tokenizer.conversation import conversation_text
from minitx.workflows.interactive import SETTINGS, changed, settings_text
from minitx.workflows.load import LoadedModel

HELP = """\
Write, and the model answers. A line that begins with / is a command:
  /system Be brief.     set the system text, and begin anew; /system alone takes it away
  /reset                begin anew
  /undo                 take back your last message and its answer
  /save talk.jsonl      write the conversation as a line that can be trained on
  /temperature 0.5      change a setting (or /set temperature 0.5); /top-k off
  /settings             show all settings
  /help                 show this help
  /quit                 leave (or Ctrl-D; Ctrl-C stops an answer, and keeps what was said)
"""

_SETTINGS = [name for name in SETTINGS if name != "num_samples"]

_LEAST_ROOM = 4
"""One part in so many of a context is kept for an answer, at most as much as it may have."""

Message = dict[str, str]


def require_chat(tokenizer: Tokenizer, name: str) -> None:
    """Refuse a model that never saw a conversation.

    Raises:
        BadInputError: saying how it would learn.
    """
    if not tokenizer.roles and tokenizer.kept_files:
        tokenizer.require_template()
    if not tokenizer.writes_chats:
        raise BadInputError(
            f"{name} was not trained on conversations",
            f"Train it on some: minitx train chats.jsonl --from {shell_word(name)}; or continue a "
            "text with minitx generate",
        )


def fitting(
    messages: list[Message], model: LoadedModel, config: SamplingConfig
) -> tuple[list[Message], SamplingConfig]:
    """The newest messages that fit the model's context with room for an answer, and the system
    text; and how long an answer may be.

    Whole exchanges are left out, the oldest first.
    """
    context, end_id = model.model.config.context_length, model.model.config.end_id
    config = ending_answers(config, model.tokenizer, end_id)
    room = min(config.max_new_tokens, max(1, context // _LEAST_ROOM))
    system = messages[:1] if messages[:1] and messages[0]["role"] == "system" else []
    turns = messages[len(system) :]
    while True:
        n_ids = n_tokens([*system, *turns], model.tokenizer)
        if n_ids + room <= context or len(turns) < 3:
            break
        turns = turns[2:]
    left = max(1, context - n_ids)
    return [*system, *turns], replace(config, max_new_tokens=min(config.max_new_tokens, left))


def n_tokens(messages: list[Message], tokenizer: Tokenizer) -> int:
    """How many tokens a model reads before it answers; of no messages, none."""
    if not messages:
        return 0
    return len(tokenizer.encode(_text(messages)))


def _text(messages: list[Message]) -> str:
    try:
        return conversation_text(messages, is_asked=True)
    except ValueError as error:
        raise BadInputError(str(error), "Leave that character out") from None


@dataclass(eq=False)
class Chat:
    """What `minitx chat` does with each line that a person types.

    Attributes:
        messages: all that were said, the system text first.
        is_watched: whether a person is told what to do.

    Raises:
        BadInputError: the model was not trained on conversations.
    """

    model: LoadedModel
    config: SamplingConfig
    system: str | None = None
    is_watched: bool = True
    messages: list[Message] = field(init=False)
    repeats_prompt = False

    def __post_init__(self) -> None:
        require_chat(self.model.tokenizer, str(self.model.directory))
        self._begin(self.system)

    @property
    def greeting(self) -> str:
        """What is said first."""
        return "Write to the model, or /help\n" if self.is_watched else ""

    @property
    def cue(self) -> str:
        """What stands before a line that is typed: how many tokens of the context are left."""
        if not self.is_watched:
            return ""
        kept, _ = fitting(self.messages, self.model, self.config)
        context = self.model.model.config.context_length
        left = max(0, context - n_tokens(kept, self.model.tokenizer))
        forgotten = "" if len(kept) == len(self.messages) else ", the oldest messages forgotten"
        return f"({left:,} tokens left{forgotten}) > "

    def answer(self, line: str) -> str | Iterator[str] | None:
        """Answer a message, in pieces, or obey a command; None if that was to leave.

        Raises:
            BadInputError: there is no such command, or the message can't be answered.
        """
        command, _, given = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return None
        if not line.startswith("/"):
            return self._answer(line) if line.strip() else ""
        if command == "/help":
            return HELP
        if command == "/reset":
            self._begin(self.system)
        elif command == "/system":
            self._begin(given.strip() or None)
        elif command == "/undo":
            last = max(
                (i for i, m in enumerate(self.messages) if m["role"] == "user"), default=None
            )
            if last is None:
                raise BadInputError("nothing was said that could be taken back", "Write something")
            del self.messages[last:]
        elif command == "/save":
            return self._save(given.strip())
        elif command in ("/settings", "/set"):
            return settings_text(self.config, settings=_SETTINGS)
        else:
            self.config = changed(self.config, line.strip(), _SETTINGS)
        return ""

    def _begin(self, system: str | None) -> None:
        messages = [{"role": "system", "content": system}] if system else []
        context = self.model.model.config.context_length
        if (n := n_tokens(messages, self.model.tokenizer)) >= context:  # Also if it can't be read.
            raise BadInputError(
                f"the system text takes {n:,} tokens, and the context of this model is {context:,}",
                "Shorten it",
            )
        self.system, self.messages = system, messages

    def _answer(self, line: str) -> Iterator[str]:
        messages = [*self.messages, {"role": "user", "content": line}]
        kept, config = fitting(messages, self.model, self.config)
        pieces = stream(self.model.model, self.model.tokenizer, _text(kept), config)
        self.messages = messages

        def noted() -> Iterator[str]:
            said = ""
            try:
                for piece in pieces:
                    said += piece
                    yield piece
            finally:  # Also of an answer that was stopped.
                messages.append({"role": "assistant", "content": said})

        return noted()

    def _save(self, name: str) -> str:
        if not name:
            raise BadInputError("/save needs a name", "Give one: /save talk.jsonl")
        with (
            os_errors_as_bad_input(f"{name} can't be written", "Choose another name"),
            Path(name).open("x", encoding="utf-8") as file,
        ):
            file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        return f"wrote {len(self.messages)} messages to {name}\n"
