"""From updates to the objects of OpenAI's completions API."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from minitx.serving.jobs import Job, ServedModel, TokenInfo, Update
from minitx.tokenizer import Tokenizer

_LOWEST = -9999.0
"""Stands for the logarithm of zero, which JSON has no number for."""


class Answer:
    """The answer to one job, as it grows.

    A token's log-probability comes with the piece of text in which the token begins; a token that
    begins after a stop string is left out. So nothing sent is ever taken back, and the pieces of a
    stream, joined, are the answer without a stream.
    """

    def __init__(self, job: Job, served: ServedModel) -> None:
        self._job = job
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }
        self._choices = [
            _UnsentText(choice.echoed, job.request.logprobs, served.tokenizer)
            for choice in job.choices
        ]

    def take(self, updates: Iterable[Update]) -> None:
        """Take updates of the job, in order."""
        for update in updates:
            self._choices[update.choice].take(update)

    def pieces(self) -> list[dict[str, Any]]:
        """What can be sent now and was not yet; of an answer that is done, all of the rest."""
        pieces = ((index, choice.piece()) for index, choice in enumerate(self._choices))
        return [{"index": index, **piece} for index, piece in pieces if piece is not None]

    @property
    def done(self) -> bool:
        """Whether all continuations have ended."""
        return all(choice.finish_reason is not None for choice in self._choices)

    def whole(self) -> dict[str, Any]:
        """The answer without a stream, when it is done."""
        return {**self._head, "choices": self.pieces(), "usage": self._usage()}

    def events(self) -> bytes:
        """`pieces` as events of a stream."""
        return b"".join(self._event([piece], None) for piece in self.pieces())

    def end(self) -> bytes:
        """The last events of a stream that went well, with the count of tokens if asked for."""
        usage = self._event([], self._usage()) if self._job.request.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        # The tokens of a stop string count, too.
        read, new = self._job.n_prompt_tokens, self._job.n_new
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        content: dict[str, Any] = {**self._head, "choices": choices}
        if self._job.request.include_usage:
            content["usage"] = usage
        return event(content)


class _UnsentText:
    """Text and tokens of one continuation that were not sent yet."""

    def __init__(self, text: str, logprobs: int | None, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._text, self._n_sent = text, 0
        self._tokens: list[TokenInfo] = []
        self.finish_reason: str | None = None
        self._ended = False

    def take(self, update: Update) -> None:
        self._text += update.text
        self._tokens += update.tokens
        self.finish_reason = update.finish_reason

    def piece(self) -> dict[str, Any] | None:
        text, self._text = self._text, ""
        self._n_sent += len(text)
        if self._ended or not (text or self.finish_reason):
            return None
        self._ended = self.finish_reason is not None
        logprobs = None
        if self._logprobs is not None:
            ready = [token for token in self._tokens if token.offset < self._n_sent]
            self._tokens = self._tokens[len(ready) :]
            logprobs = self._described(ready)
        return {"text": text, "logprobs": logprobs, "finish_reason": self.finish_reason}

    def _described(self, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [
                token.chosen and _for_json(token.chosen.log_probability) for token in tokens
            ],
            "top_logprobs": [self._likeliest(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _likeliest(self, token: TokenInfo) -> dict[str, float] | None:
        if token.chosen is None:
            return None
        likeliest = {
            self._name(id): _for_json(math.log(probability) if probability > 0 else -math.inf)
            for id, probability in token.chosen.alternatives[: self._logprobs]
            if id < self._tokenizer.vocab_size
        }
        likeliest[self._name(token.id)] = _for_json(token.chosen.log_probability)
        return likeliest

    def _name(self, token: int) -> str:
        # As OpenAI names a part of a character: bytes:\xe2\x82
        content = self._tokenizer.token_bytes(token)
        try:
            return content.decode("utf-8") or self._tokenizer.piece(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def to_json(content: Any) -> bytes:
    """JSON in UTF-8."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, which a client may have sent, has no UTF-8; it becomes JSON's escape.
    return text.encode("utf-8", "backslashreplace")


def event(content: Any) -> bytes:
    """A server-sent event with a JSON object."""
    return b"data: " + to_json(content) + b"\n\n"


def _for_json(log_probability: float) -> float:
    return max(_LOWEST, log_probability)
