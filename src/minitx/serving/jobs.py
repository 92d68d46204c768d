"""A request as the engine sees it: continuations to generate, and updates that wait to be taken."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from minitx.checkpoint import SavedModel
from minitx.errors import BadInputError, as_sentence
from minitx.generation import Row
from minitx.generation.chooser import describe
from minitx.generation.filters import check_settings
from minitx.generation.row import Chosen, TextStream
from minitx.model import Transformer
from minitx.serving.api_errors import APIError
from minitx.serving.completion_request import CompletionRequest, Prompt
from minitx.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class ServedModel(SavedModel):
    """The model that is served, under the name by which clients know it.

    Its weights were `created` so many seconds after 1970; without a manifest they have no
    `fingerprint`.
    """

    name: str
    created: int
    fingerprint: str | None = None


@dataclass(eq=False)
class Job:
    """A request that fits the model, its times as of `time.perf_counter()`."""

    request: CompletionRequest
    n_prompt_tokens: int  # Each prompt is counted once.
    choices: list[Choice] = field(default_factory=list)  # Those of a prompt side by side.
    arrived: float = field(default_factory=time.perf_counter)
    first_token: float | None = None
    n_new: int = 0  # Tokens generated so far.


@dataclass(eq=False, kw_only=True)
class Choice(Row):
    """One continuation of a job."""

    job: Job
    index: int  # In the answer.
    echoed: str = ""  # The prompt, if the answer has it before the continuation.
    n_characters: int = 0  # Of the continuation so far, held back or not.


@dataclass(frozen=True, slots=True)
class Update:
    """What is new of a job after a step: more of a continuation, or what ends the job instead.

    New tokens come if log-probabilities were asked for; once, those of an echoed prompt.
    """

    job: Job
    choice: int = 0  # Index of the continuation.
    text: str = ""  # New, and can no longer change.
    tokens: tuple[TokenInfo, ...] = ()
    finish_reason: str | None = None  # `stop` or `length` with the last update of a continuation.
    failure: APIError | None = None


class UpdateQueue:
    """Updates of one job, at most so many; for use in the event loop's thread.

    Args:
        max_tokens: that may wait; one more fails the queue. None for any number.
        on_failure: called once, when the queue fails for whatever reason.
    """

    def __init__(self, max_tokens: int | None, on_failure: Callable[[], None]) -> None:
        self._max_tokens, self._on_failure = max_tokens, on_failure
        self._updates: list[Update] = []
        self._failure: Exception | None = None
        self._ready = asyncio.Event()

    def put(self, update: Update) -> None:
        """Add an update from the engine."""
        if self._failure is not None:
            return
        if update.failure is not None:
            self.fail(update.failure)
            return
        self._updates.append(update)
        self._ready.set()
        if self._max_tokens is not None and len(self._updates) > self._max_tokens:
            self.fail(APIError(408, "The stream was not read fast enough.", code="slow_client"))

    def fail(self, failure: Exception) -> None:
        """Raise this from `take` from now on; only the first failure counts."""
        if self._failure is None:
            self._failure = failure
            self._updates.clear()
            self._ready.set()
            self._on_failure()

    async def take(self) -> list[Update]:
        """All updates that wait, at least one; raises what was given to `fail`."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        updates, self._updates = self._updates, []
        return updates


def make_job(
    request: CompletionRequest, served: SavedModel, max_prompt_tokens: int | None = None
) -> Job:
    """Fit a request to a model: prompts to ids, settings to the vocabulary.

    Raises:
        APIError: 400; a prompt or a setting does not fit.
    """
    config = served.model.config
    longest = min(config.context_length, max_prompt_tokens or config.context_length)
    ids = [_prompt_ids(prompt, served.tokenizer, longest) for prompt in request.prompts]
    try:
        check_settings(request.sampling, config.vocab_size)
    except BadInputError as error:
        raise APIError(400, _sentence(error.what)) from None
    job = Job(request, sum(map(len, ids)))
    for index in range(request.n_choices):
        number, record = index // request.n, request.logprobs is not None
        prompt = request.prompts[number]
        choice = Choice(ids[number], request.sampling, index, record, job=job, index=index)
        if request.echo:
            choice.echoed = prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)
        job.choices.append(choice)
    return job


def _prompt_ids(prompt: Prompt, tokenizer: Tokenizer, longest: int) -> list[int]:
    if not isinstance(prompt, str):
        if not all(0 <= token < tokenizer.vocab_size for token in prompt):
            raise APIError(
                400, f"prompt must have token ids from 0 to {tokenizer.vocab_size - 1}.", "prompt"
            )
        ids = list(prompt)
    else:
        # A prompt that is far too long is refused before the work of encoding it.
        if len(prompt) > longest * _longest_token(tokenizer):
            raise _too_long(f"more than {longest}", longest)
        try:
            ids = tokenizer.encode(prompt).tolist()
        except BadInputError as error:
            raise APIError(400, _sentence(error.what), "prompt") from None
    if not ids:
        raise APIError(400, "prompt is empty, and the model continues a text.", "prompt")
    if len(ids) > longest:
        raise _too_long(str(len(ids)), longest)
    return ids


def _too_long(n_tokens: str, longest: int) -> APIError:
    return APIError(
        400,
        f"The prompt has {n_tokens} tokens, and at most {longest} are read here.",
        "prompt",
        "context_length_exceeded",
    )


@functools.lru_cache(4)
def _longest_token(tokenizer: Tokenizer) -> int:
    # Characters that one token can stand for, at most.
    return max(1, *(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)))


def _sentence(what: str) -> str:
    return as_sentence(what[:1].upper() + what[1:])


_POSITIONS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token of an answer.

    It begins after `offset` characters of the answer's text. `chosen` is None if not asked for, or
    for the first token of a prompt.
    """

    id: int
    offset: int
    chosen: Chosen | None


def text_offset(content: bytes, before: int, after: int) -> int:
    """Where a token begins in the text, in characters.

    That may be later than the end of the text before it: if that text ended within a character
    which the token does not continue, U+FFFD is inserted for the character first.

    Args:
        content: bytes of the token.
        before, after: characters of the text without and with the token, of whose own there are
            fewer if a stop string cut them.
    """
    try:
        n_characters = len(content.decode())
    except UnicodeDecodeError:
        return before
    return max(before, after - n_characters)


def prompt_tokens(served: SavedModel, choice: Choice) -> tuple[TokenInfo, ...]:
    """The tokens of an echoed prompt, after whose end none begins, with their probabilities."""
    stream, tokens, ids = TextStream(), [], choice.prompt_ids
    for token, chosen in zip(ids, _probabilities(served.model, ids), strict=True):
        before, content = len(stream.text), served.tokenizer.token_bytes(token)
        stream.feed(content)
        offset = text_offset(content, before, len(stream.text))
        tokens.append(TokenInfo(token, min(offset, len(choice.echoed)), chosen))
    return tuple(tokens)


@torch.inference_mode()
def _probabilities(model: Transformer, ids: Sequence[int]) -> list[Chosen | None]:
    """A record of each token given those before it; None for the first, which follows nothing."""
    records: list[Chosen | None] = [None]
    if len(ids) == 1:
        return records
    logits = model(torch.tensor([ids[:-1]], device=model.embedding.weight.device))[0]
    for start in range(0, len(ids) - 1, _POSITIONS_AT_ONCE):
        # In parts: in double precision all positions at once may not fit.
        part = logits[start : start + _POSITIONS_AT_ONCE]
        records += describe(part, ids[start + 1 : start + 1 + len(part)])
    return records
