"""What `POST /v1/chat/completions` takes and answers, as the completion of a conversation's text.

Fields and bounds are those of `/v1/completions`, but for the messages, the default length (as long
as the context allows) and the form of log-probabilities. What is not there is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minitx.errors import BadInputError, as_sentence
from minitx.generation.answer_end import ending_answers
from minitx.serving.answers import Answer, event
from minitx.serving.api_errors import APIError
from minitx.serving.completion_request import (
    MOST_LOGPROBS,
    CompletionRequest,
    parse_completion,
)
from minitx.serving.jobs import Job, ServedModel
from minitx.tokenizer.conversation import conversation_text

_NOT_OF_CHATS = ("prompt", "echo", "best_of", "suffix")
_AS_IF_LEFT_OUT: dict[str, Sequence[Any]] = {
    "tools": ([],), "functions": ([],), "tool_choice": ("none",), "function_call": ("none",),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "store": (False,),
    "parallel_tool_calls": (True, False), "metadata": ({},), "service_tier": ("auto", "default"),
}  # fmt: skip


def parse_chat(
    content: Mapping[str, Any], max_tokens: int, served: ServedModel
) -> CompletionRequest:
    """Check the fields of a request, and write its messages as one text.

    Raises:
        APIError: 400, naming the field; 404 if the model was not trained on conversations.
    """
    tokenizer, context = served.tokenizer, served.model.config.context_length
    if not tokenizer.writes_chats:
        raise APIError(404, "This model continues text and does not chat: /v1/completions")
    fields = {name: value for name, value in content.items() if value is not None}
    for name, values in _AS_IF_LEFT_OUT.items():
        if name in fields and fields.pop(name) not in values:
            raise APIError(400, f"{name} is not supported here.", name)
    for name in _NOT_OF_CHATS:
        if name in fields:
            raise APIError(400, f"Unrecognized request argument supplied: {name}", name)
    text = _text(fields.pop("messages", None))
    try:
        left = max(1, context - len(tokenizer.encode(text)))
    except BadInputError as error:
        raise APIError(
            400, as_sentence(error.what[:1].upper() + error.what[1:]), "messages"
        ) from None
    asked = fields.pop("max_completion_tokens", fields.get("max_tokens"))
    if asked is not None and (not isinstance(asked, int) or isinstance(asked, bool) or asked < 1):
        raise APIError(400, "max_completion_tokens must be an integer of at least 1.")
    wants_logprobs, most = fields.pop("logprobs", False), fields.pop("top_logprobs", 0)
    if not isinstance(wants_logprobs, bool):
        raise APIError(400, "logprobs must be true or false.", "logprobs")
    if type(most) is not int or not 0 <= most <= MOST_LOGPROBS:
        raise APIError(400, f"top_logprobs must be from 0 to {MOST_LOGPROBS}.", "top_logprobs")
    if most and not wants_logprobs:
        raise APIError(400, "top_logprobs is only allowed when logprobs is true.", "top_logprobs")
    longest = min(left, max_tokens)
    fields["max_tokens"] = longest if asked is None else min(asked, longest)
    if wants_logprobs:
        fields["logprobs"] = most
    parsed = parse_completion({**fields, "prompt": text}, longest)
    sampling = ending_answers(parsed.sampling, tokenizer, served.model.config.end_id)
    return replace(parsed, sampling=sampling)


def _text(messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        raise APIError(400, "messages must be a list of at least one message.", "messages")
    try:
        return conversation_text(map(_plain, messages), is_asked=True)
    except ValueError as error:
        raise APIError(400, f"messages: {error}.", "messages") from None


def _plain(message: Any) -> Any:
    """A message with its content as one text, and the names that OpenAI gives its parts."""
    if not isinstance(message, dict):
        return message
    content, role = message.get("content"), message.get("role")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        for kind in kinds:
            if kind != "text":
                raise ValueError(f"a content part of the type {kind!r} is not supported here")
        content = "".join(str(part.get("text", "")) for part in content)
    return {**message, "content": content, "role": "system" if role == "developer" else role}


class ChatAnswer(Answer):
    """The answer to a conversation, as it grows."""

    def __init__(self, job: Job, served: ServedModel) -> None:
        super().__init__(job, served)
        self._head["id"] = str(self._head["id"]).replace("cmpl-", "chatcmpl-")
        self._has_begun = [False] * len(job.choices)

    def whole(self) -> dict[str, Any]:
        """As in `Answer`."""
        choices = [
            {
                "index": piece["index"],
                "message": {"role": "assistant", "content": piece["text"], "refusal": None},
                "logprobs": _logprobs(piece["logprobs"]),
                "finish_reason": piece["finish_reason"],
            }
            for piece in self.pieces()
        ]
        return {
            **self._head, "object": "chat.completion", "choices": choices, "usage": self._usage(),
        }  # fmt: skip

    def events(self) -> bytes:
        """As in `Answer`: first the role, then the text, and last why it ended."""
        events = []
        for piece in self.pieces():
            index, deltas = piece["index"], list[tuple[dict[str, Any], Any, Any]]()
            if not self._has_begun[index]:
                self._has_begun[index] = True
                deltas.append(({"role": "assistant", "content": ""}, None, None))
            if piece["text"] or piece["logprobs"]:
                deltas.append(({"content": piece["text"]}, _logprobs(piece["logprobs"]), None))
            if piece["finish_reason"] is not None:
                deltas.append(({}, None, piece["finish_reason"]))
            for delta, logprobs, reason in deltas:
                choice = {"index": index, "delta": delta, "logprobs": logprobs}
                events.append(self._event([{**choice, "finish_reason": reason}], None))
        return b"".join(events)

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        content = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._job.request.include_usage:
            content["usage"] = usage
        return event(content)


def _logprobs(described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if described is None:
        return None
    lists = (described[name] for name in ("tokens", "token_logprobs", "top_logprobs"))
    content = [
        {
            **_token(name, logprob),
            "top_logprobs": [
                _token(*pair)
                for pair in sorted((likeliest or {}).items(), key=lambda pair: -pair[1])
            ],
        }
        for name, logprob, likeliest in itertools.zip_longest(*lists)
    ]
    return {"content": content, "refusal": None}


def _token(name: str, logprob: float) -> dict[str, Any]:
    escaped = name.removeprefix("bytes:")
    content = bytes.fromhex(escaped.replace("\\x", "")) if escaped != name else name.encode()
    return {"token": name, "logprob": logprob, "bytes": list(content)}
