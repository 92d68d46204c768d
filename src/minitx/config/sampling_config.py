"""How text is drawn from a model's next-token distribution, and what `minitx generate` asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from minitx.config.checks import parse_bias, require
from minitx.config.options import (
    COUNT,
    COUNT_OR_NONE,
    DRAWING,
    FRACTION,
    PROMPT,
    SHOWN,
    WISHES,
    Config,
    option,
)


@dataclass(frozen=True)
class SamplingConfig(Config):
    """Controls of generation, applied in the order in which they are listed."""

    # fmt: off
    repetition_penalty: float = option(
        1.0, "Above 1: less of what the text already has.", DRAWING, (0.01, 100.0),
        details="Divides (or multiplies, if negative) the logits of its tokens; Keskar et al. "
        "2019, CTRL, section 4.1.",
    )
    frequency_penalty: float = option(
        0.0, "Subtracted from a token's logit for each earlier use.", DRAWING, (-100.0, 100.0)
    )
    presence_penalty: float = option(
        0.0, "Subtracted from a token's logit if it was used at all.", DRAWING, (-100.0, 100.0)
    )
    logit_bias: dict[int, float] = option(
        {}, "Added to a token's logit.", DRAWING, metavar="ID:VALUE", parse=parse_bias
    )
    banned_strings: tuple[str, ...] = option((), "Never write this text.", WISHES, flag="ban")
    required_strings: tuple[str, ...] = option(
        (), "Write this text before the end.", WISHES, flag="require"
    )
    ignore_eos: bool = option(
        False, "Go on where a document would end: the end-of-text token is never drawn.", WISHES
    )
    min_new_tokens: int = option(
        0, "No end and no stop text before this many tokens.", WISHES, COUNT_OR_NONE
    )
    temperature: float = option(
        0.8, "Below 1 less random, above 1 more, 0 the most likely token each time.", DRAWING,
        (0.0, 100.0), details="Logits are divided by it; below 0.00001 it counts as 0.",
    )
    top_k: int | None = option(None, "Keep only the k most likely tokens.", DRAWING, (1, 2**24))
    top_p: float = option(
        1.0, "Keep only the most likely tokens, up to this total probability; 1 is off.", DRAWING,
        (1e-9, 1.0), details="Holtzman et al. 2020.",
    )
    min_p: float = option(
        0.0, "Keep only tokens with at least this fraction of the highest probability; 0 is off.",
        DRAWING, FRACTION, details="Nguyen et al. 2024.",
    )
    typical_p: float = option(
        1.0, "Keep only the tokens that surprise about as much as expected; 1 is off.", DRAWING,
        (1e-9, 1.0),
        details="Those whose surprise is nearest the entropy, up to this total probability; "
        "Meister et al. 2022.",
    )
    max_new_tokens: int = option(256, "Longest continuation, in tokens.", PROMPT, COUNT)
    stop_strings: tuple[str, ...] = option(
        (), "End before this text; it is not part of the output.", WISHES, flag="stop"
    )
    num_samples: int = option(1, "Continuations of each prompt.", PROMPT, (1, 100_000))
    seed: int = option(
        1337, "Random seed: the same seed gives the same text.", PROMPT, (0, 2**63 - 1),
        details="Every draw follows from it, the sample's index and the position alone.",
    )
    # fmt: on

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken: a logit over a smaller temperature is infinite."""
        return self.temperature < 1e-5

    def check(self) -> None:
        """Refuse biases that are no numbers, and to require what is banned."""
        for token, bias in self.logit_bias.items():
            are_numbers = type(token) is int and isinstance(bias, (int, float))
            require(
                are_numbers and (-1e30 <= bias <= 1e6 or bias == -math.inf),
                f"logit_bias is {self.logit_bias}",
                "Give token ids and numbers of at most a million",
            )
        for text in self.required_strings:
            for banned in self.banned_strings:
                require(
                    banned == "" or banned not in text,
                    f"{text!r} is required, and {banned!r} is banned",
                    "Leave out one of them",
                )


@dataclass(frozen=True)
class GenerationRequest(Config, named_by_flags=True):
    """Where prompts come from, how text is drawn (`sampling`), and how it is shown.

    Raises:
        BadInputError: two of them exclude each other.
    """

    prompt: str | None = option(None, "Text to continue; read from a pipe if left out.", PROMPT)
    prompt_file: Path | None = option(
        None, "A text file, or JSON lines with a prompt each; answers in JSON lines.", PROMPT
    )
    interactive: bool = option(False, "Ask for prompts.", PROMPT, short_flag="i")
    beams: int = option(0, "Beam search with this many beams, instead of sampling.", DRAWING)
    show_probs: bool = option(False, "Show each token's probability.", SHOWN)
    json: bool = option(False, "One JSON object a line.", SHOWN)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @property
    def as_json(self) -> bool:
        """Whether JSON lines are written: asked for, or as the prompts came."""
        of_lines = self.prompt_file is not None and self.prompt_file.suffix == ".jsonl"
        return self.json or of_lines

    def check(self) -> None:
        """Refuse what contradicts itself."""
        sources = (self.prompt is not None, self.prompt_file is not None, self.interactive)
        require(
            sum(sources) <= 1,
            "--prompt, --prompt-file and --interactive each say where prompts come from",
            "Give one of them",
        )
        require(
            not (self.interactive and self.json),
            "--interactive is for people, and --json for programs",
            "Leave one out",
        )
        require(
            not (
                self.beams
                and (self.interactive or self.show_probs or self.sampling.num_samples > 1)
            ),
            "--beams searches for the likeliest texts of a prompt and draws none",
            "Leave out --interactive, --show-probs and --num-samples",
        )
