"""One continuation: what it continues, how it is drawn, what it has said, and how it ended."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from torch import Tensor

from minitx.config import SamplingConfig
from minitx.generation.filters import is_plain, source

ALTERNATIVES = 5
"""Likeliest tokens noted at each position that is recorded."""

_NOT_OF_THE_DISTRIBUTION = {
    "seed", "num_samples", "max_new_tokens", "min_new_tokens", "stop_strings", "required_strings",
    "logit_bias",
}  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """One generated token and what stood beside it, in the model's own distribution, in nats."""

    id: int
    log_probability: float
    sampled_log_probability: float  # In the distribution it was drawn from, after all settings.
    entropy: float
    kept: int  # Tokens that the settings left to draw from.
    alternatives: tuple[tuple[int, float], ...]  # The likeliest tokens, and their probabilities.


@dataclass
class Generation:
    """One continuation.

    Attributes:
        sample: which continuation of the prompt, from 0.
        ids, text: the new tokens, and what they say, a stop string left out.
        finish_reason: `stop` at a stop string or the end of the document, `length` at
            `max_new_tokens`.
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


@dataclass(eq=False)
class Row:
    """One continuation in a `TextBatch`, with settings of its own.

    Args:
        prompt_ids: at least one, at most the context.
        config: how to draw; `num_samples` is ignored.
        sample: its position among all that are asked for at once; the draws follow from it, the
            seed and the token's position.
        record: note a `Chosen` of each token.

    Of the new tokens it has the `ids`, the text (in `stream`) and the records in `chosen`. `piece`
    is the text that is certain since the newest one. It goes on until it has a `finish_reason`,
    `stop` or `length`, or a `failure`. How often the text has each token is in `counts`,
    `(vocab_size,)`, if a setting asks; what required strings it ends with, in `forced`.
    """

    prompt_ids: list[int]
    config: SamplingConfig
    sample: int = 0
    record: bool = False

    def __post_init__(self) -> None:
        self.ids: list[int] = []
        self.stream = TextStream(self.config.stop_strings)
        self.chosen: list[Chosen] = []
        self.piece = ""
        self.finish_reason: str | None = None
        self.failure: Exception | None = None
        self.forced: list[int] = []
        self.counts: Tensor | None = None
        self.seconds_to_first_token = self.seconds = 0.0
        # Equal for rows whose logits are reshaped alike.
        values = (v for k, v in vars(self.config).items() if k not in _NOT_OF_THE_DISTRIBUTION)
        self.distribution = (*values, *sorted(self.config.logit_bias.items()))
        self.plain = is_plain(self.config)
        self.source = source(self.config.seed, self.sample)

    @property
    def text(self) -> str:
        """All that was said, also what is not yet certain."""
        return self.stream.text + self.stream.held


class TextStream:
    """Turns the bytes of tokens into text that may be shown at once.

    Held back is what may still change: the first bytes of a character, and an ending that may
    become a stop string. A stop string ends the text before it, also where it spans tokens.
    `text` is all that was given out, `held` what is held back.
    """

    def __init__(self, stop_strings: tuple[str, ...] = ()) -> None:
        self.stops = tuple(stop for stop in stop_strings if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""
        self.text = ""
        self.stopped = False

    def feed(self, content: bytes, may_stop: bool = True) -> str:
        """Take the bytes of one token; return the text that is now certain.

        Stop strings count only if it may stop yet.
        """
        self.held += self._decoder.decode(content)
        if may_stop:
            starts = [start for stop in self.stops if (start := self.held.find(stop)) >= 0]
            if starts:
                self.stopped = True
                return self._give(min(starts), drop_rest=True)
        # Also while they don't count yet: the stop string may be completed when they do.
        return self._give(len(self.held) - self._undecided())

    def finish(self) -> str:
        """Return what was held back; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        self.held += self._decoder.decode(b"", final=True)
        return self._give(len(self.held))

    def _undecided(self) -> int:
        # Length of the longest ending that begins a stop string.
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self.held)), longest, -1):
                if self.held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _give(self, size: int, drop_rest: bool = False) -> str:
        given = self.held[:size]
        self.held = "" if drop_rest else self.held[size:]
        self.text += given
        return given
