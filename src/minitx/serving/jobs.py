"""A request as the engine sees it: continuations to generate, and updates about them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from minitx.errors import BadInputError
from minitx.generation import Row
from minitx.generation.requests import check_settings
from minitx.model import Transformer
from minitx.serving.api_errors import APIError
from minitx.serving.completion_request import CompletionRequest, Prompt
from minitx.serving.token_info import TokenInfo
from minitx.tokenizer import Tokenizer


@dataclass(eq=False)
class Choice:
    """One continuation of a job.

    Attributes:
        index: in the answer.
        prompt: index of the job's prompt that it continues.
        row: in the batch; None where only the prompt is read.
        n_characters: of its text so far, held back or not.
    """

    index: int
    prompt: int
    row: Row | None
    n_characters: int = 0


@dataclass(eq=False)
class Job:
    """A request that fits the model.

    Attributes:
        choices: the continuations asked for; those of a prompt side by side.
        arrived: `time.perf_counter()` when it was made.
        first_token: the same at its first token; None before.
        n_new: tokens generated so far.
    """

    request: CompletionRequest
    prompt_ids: list[list[int]]
    prompt_texts: list[str]
    choices: list[Choice]
    arrived: float = field(default_factory=time.perf_counter)
    first_token: float | None = None
    n_new: int = 0

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(map(len, self.prompt_ids))


@dataclass(frozen=True, slots=True)
class Update:
    """What is new of a job after a step.

    Attributes:
        choice: index of the continuation.
        text: new text that can no longer change.
        tokens: new tokens, if log-probabilities were asked for.
        prompt_tokens: tokens of the prompt, once, if they were asked for.
        n_new: how many tokens are new.
        finish_reason: `stop` or `length` with the last update of a continuation.
        failure: ends the job instead.
    """

    job: Job
    choice: int = 0
    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    prompt_tokens: tuple[TokenInfo, ...] = ()
    n_new: int = 0
    finish_reason: str | None = None
    failure: APIError | None = None


def make_job(
    request: CompletionRequest,
    model: Transformer,
    tokenizer: Tokenizer,
    max_prompt_tokens: int | None = None,
) -> Job:
    """Fit a request to a model: prompts to ids, settings to the vocabulary.

    Raises:
        APIError: 400; a prompt or a setting does not fit.
    """
    longest = min(model.config.context_length, max_prompt_tokens or model.config.context_length)
    ids = [_prompt_ids(prompt, tokenizer, longest) for prompt in request.prompts]
    texts = [
        prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        for prompt in request.prompts
    ]
    try:
        check_settings(model, request.sampling)
    except BadInputError as error:
        raise APIError(400, _sentence(error.what)) from None
    choices = []
    for index in range(request.n_choices):
        prompt, sample = divmod(index, request.n)
        row = Row(ids[prompt], request.sampling, sample, record=request.logprobs is not None)
        choices.append(Choice(index, prompt, row if request.max_tokens > 0 else None))
    return Job(request, ids, texts, choices)


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


_longest_tokens: dict[str, int] = {}


def _longest_token(tokenizer: Tokenizer) -> int:
    # Characters that one token can stand for, at most.
    if tokenizer.digest not in _longest_tokens:
        lengths = (len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        _longest_tokens[tokenizer.digest] = max(1, *lengths)
    return _longest_tokens[tokenizer.digest]


def _sentence(what: str) -> str:
    return f"{what[:1].upper()}{what[1:]}."
