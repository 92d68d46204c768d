"""How text is drawn from a model's next-token distribution."""

from __future__ import annotations

from dataclasses import dataclass, field

from minitx.config.checks import require_range


@dataclass(frozen=True)
class SamplingConfig:
    """Controls of generation, applied in the order in which they are listed.

    Attributes:
        repetition_penalty: divides (or multiplies, if negative) logits of tokens already in the
            text (Keskar et al. 2019, CTRL, section 4.1); 1 is off.
        frequency_penalty: subtracted once per earlier occurrence of a token; 0 is off.
        presence_penalty: subtracted once if a token occurred at all; 0 is off.
        logit_bias: added to the logits of given token ids.
        banned_strings: texts that never appear in the output.
        required_strings: texts that must appear before generation may end.
        min_new_tokens: no end and no stop string before this many tokens.
        temperature: logits are divided by it; 0 is greedy (the most likely token each time).
        top_k: keep the k most likely tokens; None is off.
        top_p: keep the smallest set with at least this probability mass (Holtzman et al. 2020);
            1 is off.
        min_p: keep tokens at least this fraction as likely as the likeliest (Nguyen et al.
            2024); 0 is off.
        typical_p: keep the tokens whose surprise is nearest the entropy, up to this mass
            (Meister et al. 2022); 1 is off.
        max_new_tokens: stop after this many tokens.
        stop_strings: stop when the text ends with one of these; it is not part of the output.
        num_samples: continuations drawn of each prompt.
        seed: every draw follows from it, the sample's index and the position alone.
    """

    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    banned_strings: tuple[str, ...] = ()
    required_strings: tuple[str, ...] = ()
    min_new_tokens: int = 0
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    max_new_tokens: int = 256
    stop_strings: tuple[str, ...] = ()
    num_samples: int = 1
    seed: int = 1337

    def __post_init__(self) -> None:
        require_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        require_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        require_range("presence_penalty", self.presence_penalty, -100.0, 100.0)
        require_range("min_new_tokens", self.min_new_tokens, 0, 10**9)
        require_range("temperature", self.temperature, 0.0, 100.0)
        if self.top_k is not None:
            require_range("top_k", self.top_k, 1, 2**24)
        require_range("top_p", self.top_p, 1e-9, 1.0)
        require_range("min_p", self.min_p, 0.0, 1.0)
        require_range("typical_p", self.typical_p, 1e-9, 1.0)
        require_range("max_new_tokens", self.max_new_tokens, 1, 10**9)
        require_range("num_samples", self.num_samples, 1, 100_000)
        require_range("seed", self.seed, 0, 2**63 - 1)
