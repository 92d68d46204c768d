"""What is known of a generation: its tokens, and what stood beside each of them."""

from __future__ import annotations

from dataclasses import dataclass, field

ALTERNATIVES = 5
"""Likeliest tokens noted at each position that is recorded."""


@dataclass(frozen=True)
class Chosen:
    """One generated token and what stood beside it.

    Attributes:
        log_probability: under the model's own distribution, nats.
        sampled_log_probability: under the distribution it was drawn from, after all settings.
        entropy: of the model's own distribution, nats.
        kept: tokens that the settings left to draw from.
        alternatives: the likeliest tokens and their probabilities in the model's distribution.
    """

    id: int
    log_probability: float
    sampled_log_probability: float
    entropy: float
    kept: int
    alternatives: tuple[tuple[int, float], ...]


@dataclass
class Generation:
    """One continuation.

    Attributes:
        sample: which continuation of the prompt, from 0.
        ids, text: the new tokens, and what they say, a stop string left out.
        finish_reason: `stop` at a stop string, `length` at `max_new_tokens`.
        chosen: a record of each new token; empty unless asked for.
        seconds_to_first_token, seconds: from the start of its batch, the latter to its end.
    """

    prompt: str
    prompt_ids: list[int]
    sample: int
    ids: list[int]
    text: str
    finish_reason: str = "length"
    chosen: list[Chosen] = field(default_factory=list)
    seconds_to_first_token: float = 0.0
    seconds: float = 0.0
