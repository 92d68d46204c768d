"""What `POST /v1/completions` takes: OpenAI's fields, and a few of our own, each with its bounds.

As in OpenAI's API, a field that is null has its default, and an unknown field is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from minitx.config import SamplingConfig
from minitx.config.options import options_of
from minitx.serving.api_errors import APIError

MOST_LOGPROBS = 5
_MOST_STOPS, _LONGEST_STOP = 16, 1000
_MOST_BIASES = 1024
_MOST_CHOICES = 128

Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class CompletionRequest:
    """A request whose fields are valid by themselves; `make_job` checks them against the model."""

    prompts: tuple[Prompt, ...]  # None is empty.
    model: str | None
    n: int  # Continuations of each prompt.
    max_tokens: int  # Of each continuation; 0 only reads the prompt.
    stream: bool
    include_usage: bool  # Close a stream with the count of tokens.
    echo: bool  # Answer with the prompt before its continuation.
    logprobs: int | None  # How many likeliest tokens to list at each position.
    sampling: SamplingConfig  # Its `max_new_tokens` is `max_tokens`, but at least 1.

    @property
    def n_choices(self) -> int:
        """How many continuations it asks for."""
        return len(self.prompts) * self.n


def parse_json(body: bytes) -> dict[str, Any]:
    """Read the body of a request; APIError 400 if it is not a JSON object."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise APIError(400, "The body of the request is not valid JSON.") from None
    if not isinstance(content, dict):
        raise APIError(400, "The body of the request must be a JSON object.")
    return content


def parse_completion(content: Mapping[str, Any], max_tokens: int) -> CompletionRequest:
    """Check the fields of a request, which may ask for at most `max_tokens`.

    Raises:
        APIError: 400, naming the field.
    """
    for name in content:
        if name not in _KNOWN:
            shown = name if name.isascii() and name.isidentifier() and len(name) <= 64 else "one"
            raise APIError(400, f"Unrecognized request argument supplied: {shown}", shown)
    fields = _Fields(content)
    n = fields.integer("n", 1, 1, _MOST_CHOICES)
    stream = fields.boolean("stream")
    options = fields.value("stream_options", dict)
    if options is not None and not stream:
        _refuse("stream_options", "is only allowed when stream is true")
    inner = _Fields(options or {}, "stream_options.")
    if not set(options or {}) <= {"include_usage", "include_obfuscation"}:
        _refuse("stream_options", "may only have include_usage and include_obfuscation")
    inner.boolean("include_obfuscation")
    fields.value("user", str)
    if fields.integer("best_of", n, 1, _MOST_CHOICES) != n:
        _refuse("best_of", "is not supported here, unless it is equal to n")
    if fields.value("suffix", str):
        _refuse("suffix", "is not supported here: the model continues a text")
    length = fields.integer("max_tokens", min(16, max_tokens), 0, max_tokens)
    logprobs = None
    if content.get("logprobs") is not None:
        logprobs = fields.integer("logprobs", 0, 0, MOST_LOGPROBS)
    seed = fields.integer("seed", secrets.randbits(63), -(2**63), 2**63 - 1)
    sampling = SamplingConfig(
        temperature=fields.number("temperature", default=1.0),
        # As in OpenAI's API, 0 is allowed, and leaves the likeliest token.
        top_p=max(fields.number("top_p", within=(0.0, 1.0)), _range("top_p")[0]),
        # As in other servers, 0 and -1 mean all tokens.
        top_k=max(0, fields.integer("top_k", 0, -1, int(_range("top_k")[1]))) or None,
        min_p=fields.number("min_p"),
        typical_p=fields.number("typical_p"),
        repetition_penalty=fields.number("repetition_penalty"),
        presence_penalty=fields.number("presence_penalty", within=(-2.0, 2.0)),
        frequency_penalty=fields.number("frequency_penalty", within=(-2.0, 2.0)),
        logit_bias=_biases(fields),
        ignore_eos=fields.boolean("ignore_eos"),
        stop_strings=_stops(fields),
        max_new_tokens=max(1, length),
        seed=seed % 2**63,
    )
    return CompletionRequest(
        prompts=_prompts(content.get("prompt")),
        model=fields.value("model", str),
        n=n,
        max_tokens=length,
        stream=stream,
        include_usage=inner.boolean("include_usage"),
        echo=fields.boolean("echo"),
        logprobs=logprobs,
        sampling=sampling,
    )


_THEIRS = (
    "model", "prompt", "n", "best_of", "max_tokens", "temperature", "top_p", "stop", "seed",
    "logprobs", "echo", "stream", "stream_options", "presence_penalty", "frequency_penalty",
    "logit_bias", "suffix", "user",
)  # fmt: skip
_OURS = ("top_k", "min_p", "typical_p", "repetition_penalty", "ignore_eos")
_KNOWN = frozenset((*_THEIRS, *_OURS))

_SAMPLING = {option.name: option for option in options_of(SamplingConfig)}
_TYPE_NAMES: dict[type, str] = {str: "a string", dict: "an object", bool: "true or false"}


class _Fields:
    """The fields of a JSON object, each checked when it is asked for."""

    def __init__(self, content: Mapping[str, Any], prefix: str = "") -> None:
        self._content, self._prefix = content, prefix

    def value(self, name: str, kind: type) -> Any:
        value = self._content.get(name)
        if value is not None and not isinstance(value, kind):
            _refuse(self._prefix + name, f"must be {_TYPE_NAMES[kind]}")
        return value

    def boolean(self, name: str) -> bool:
        return bool(self.value(name, bool))

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._content.get(name)
        if value is None:
            return default
        if not _is_integer(value):
            _refuse(self._prefix + name, "must be an integer")
        if not low <= value <= high:
            _refuse(self._prefix + name, f"must be from {low} to {high}")
        return int(value)

    def number(
        self, name: str, default: float | None = None, within: tuple[float, float] | None = None
    ) -> float:
        """A field of `SamplingConfig`, which knows its default and range unless they are given."""
        value = self._content.get(name)
        if value is None:
            return float(_SAMPLING[name].default) if default is None else default
        return _number(name, value, *(within or _range(name)))


def _range(name: str) -> tuple[float, float]:
    within = _SAMPLING[name].within
    assert within is not None
    return within


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _refuse(name, "must be a number")
    # Compared before float(), for which an integer may be too large; 1e999 reads as infinity.
    if not low <= value <= high:
        _refuse(name, f"must be from {low:g} to {high:g}")
    return float(value)


def _prompts(value: Any) -> tuple[Prompt, ...]:
    if isinstance(value, str):
        value = [value]
    elif _is_list_of(value, _is_integer):
        value = [tuple(value)]
    if _is_list_of(value, lambda prompt: isinstance(prompt, (str, tuple))):
        prompts = tuple(value)
    elif _is_list_of(value, lambda prompt: _is_list_of(prompt, _is_integer)):
        prompts = tuple(tuple(prompt) for prompt in value)
    elif value is None or value == [] or value == [[]]:
        prompts = ((),)
    else:
        _refuse("prompt", "must be a string, a list of strings, token ids, or lists of token ids")
    if not all(prompts):
        _refuse("prompt", "is empty, and the model continues a text")
    return prompts


def _stops(fields: _Fields) -> tuple[str, ...]:
    value = fields._content.get("stop")
    if isinstance(value, str):
        value = [value]
    if value is None or value == []:
        return ()
    if not _is_list_of(value, lambda stop: isinstance(stop, str)):
        _refuse("stop", "must be a string or a list of strings")
    if len(value) > _MOST_STOPS or not all(1 <= len(stop) <= _LONGEST_STOP for stop in value):
        _refuse("stop", f"may have {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters")
    return tuple(value)


def _biases(fields: _Fields) -> dict[int, float]:
    biases = fields.value("logit_bias", dict) or {}
    if len(biases) > _MOST_BIASES:
        _refuse("logit_bias", f"may have {_MOST_BIASES} tokens")
    if not all(key.isascii() and key.isdecimal() and len(key) <= 9 for key in biases):
        _refuse("logit_bias", "must have token ids as its keys")
    return {int(key): _number("logit_bias", bias, -100.0, 100.0) for key, bias in biases.items()}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(fits, value))


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(name: str, why: str) -> NoReturn:
    raise APIError(400, f"{name} {why}.", name)
