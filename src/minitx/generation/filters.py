"""From logits to the distribution that is drawn from, and the draw.

Each filter takes logits `(rows, vocab_size)` and returns logits; a token that is ruled out has
minus infinity. They are applied in the order in which `SamplingConfig` lists them: first what
changes a token's logit for a reason of its own (penalties, bias), then temperature, then what
cuts off the tail. It is the order of transformers, so that the same settings mean the same.

A draw follows from a hash of seed, sample and position, so that it is the same in any batch: a
generator with a state would give a sample other numbers when another is drawn beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minitx.config import SamplingConfig
from minitx.errors import BadInputError


def penalize(logits: Tensor, counts: Tensor, config: SamplingConfig) -> Tensor:
    """Make tokens less likely that the text already has, `counts` times, `(rows, vocab_size)`.

    The repetition penalty divides positive logits and multiplies negative ones (Keskar et al. 2019,
    section 4.1). The frequency penalty is subtracted once per occurrence, that of presence once.
    """
    there, repetition = counts > 0, config.repetition_penalty
    if repetition != 1.0:
        scaled = torch.where(logits < 0, logits * repetition, logits / repetition)
        logits = torch.where(there, scaled, logits)
    return logits - config.frequency_penalty * counts - config.presence_penalty * there


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens (and those as likely as the last of them), or all there are."""
    if k >= logits.size(-1):
        return logits
    lowest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most likely tokens up to a probability of p in all (Holtzman et al. 2020).

    The token that passes p is kept too, so there is always one.
    """
    ordered, index = logits.sort(dim=-1)
    # Summed from the least likely, as in transformers: what stays below 1 - p is cut.
    tail = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - p
    tail[..., -1] = False
    return logits.masked_fill(tail.scatter(-1, index, tail), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = logits.softmax(dim=-1)
    lowest = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < lowest, -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keep tokens whose surprise is nearest the entropy, up to p (Meister et al. 2022)."""
    log_probabilities = logits.log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    entropy = -(log_probabilities * probabilities).nansum(dim=-1, keepdim=True)
    distance = (-log_probabilities - entropy).abs()
    ordered, index = distance.sort(dim=-1)
    mass = probabilities.gather(-1, index).cumsum(dim=-1)
    last = (mass < p).sum(dim=-1, keepdim=True).clamp(max=logits.size(-1) - 1)
    return logits.masked_fill(distance > ordered.gather(-1, last), -math.inf)


def check_settings(config: SamplingConfig, vocab_size: int) -> None:
    """Refuse settings that don't fit a vocabulary.

    Raises:
        BadInputError: naming the setting.
    """
    for token in config.logit_bias:
        if not 0 <= token < vocab_size:
            raise BadInputError(
                f"logit bias names token {token}, and the vocabulary has {vocab_size:,}",
                f"Choose ids from 0 to {vocab_size - 1}",
            )


def bias_tensor(config: SamplingConfig, vocab_size: int, device: torch.device) -> Tensor | None:
    """The logit bias as a row `(vocab_size,)`; None if there is none."""
    if not config.logit_bias:
        return None
    bias = torch.zeros(vocab_size, device=device)
    for token, value in config.logit_bias.items():
        bias[token] = value
    return bias


def reads_text(config: SamplingConfig) -> bool:
    """Whether `penalize` is needed."""
    penalties = (config.repetition_penalty, config.frequency_penalty, config.presence_penalty)
    return penalties != (1.0, 0.0, 0.0)


def is_plain(config: SamplingConfig) -> bool:
    """Whether temperature and top-k are all that shapes the distribution."""
    cuts = config.top_p < 1.0 or config.min_p > 0.0 or config.typical_p < 1.0
    return not (cuts or reads_text(config) or config.logit_bias or config.banned_strings)


def reshape(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Temperature, then the cuts: `(rows, vocab_size)` to the same. Temperature 0 is greedy."""
    if config.is_greedy:
        # The first of the likeliest, where several are.
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -math.inf).scatter(-1, best, logits.gather(-1, best))
    if config.temperature != 1.0:
        logits = logits / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p < 1.0:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p > 0.0:
        logits = keep_min_p(logits, config.min_p)
    if config.typical_p < 1.0:
        logits = keep_typical(logits, config.typical_p)
    return logits


_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def source(seed: int, sample: int) -> int:
    """What all numbers of a continuation follow from."""
    return _mix(_mix(seed + _GOLDEN) ^ (sample * _GOLDEN + 1) & _MASK)


def number(origin: int, position: int) -> float:
    """A number from [0, 1), with 53 random bits, for a new token of the `source` of a text."""
    return (_mix(origin ^ (position * _GOLDEN + 2) & _MASK) >> 11) / 2**53


def draw(logits: Tensor, numbers: Sequence[float]) -> list[int]:
    """Draw a token in each row.

    The distribution is laid out along a line in the order of ids, in double precision, and the
    row's number points at a token.

    Args:
        logits: `(rows, vocab_size)`; minus infinity rules a token out.
        numbers: one from [0, 1) for each row.

    Returns:
        Ids; `vocab_size` for a row with NaN or infinity, or in which every token is ruled out.
    """
    # How long the line is does not matter: numbers are taken as parts of it.
    wide = logits.double()
    cumulative = (wide - wide.amax(dim=-1, keepdim=True)).exp_().cumsum(dim=-1)
    parts = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    points = parts * cumulative[:, -1:]
    chosen: list[int] = torch.searchsorted(cumulative, points, right=True)[:, 0].tolist()
    return chosen


def _mix(z: int) -> int:
    # The finalizer of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
    z &= _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
