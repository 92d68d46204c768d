"""Temperature and top-k

The model gives logits; which token is written is a choice. Temperature divides the logits before
the softmax: below 1 the likely gets likelier, above 1 all get closer, and the order never changes.
Top-k rules out all but the k likeliest: a vocabulary has thousands of unlikely tokens, together
they are not unlikely at all, and one of them derails a text.

    with_temperature(logits, t) = logits / t
    keep_top_k(logits, k)       -inf for every token but the k likeliest

e^-inf is 0, so the softmax that follows shares the rest out among those that are left. Tokens that
are exactly as likely as the k-th may stay. Both work on logits of any shape `(..., vocab_size)`.

Paper: Ackley et al. 1985 (temperature); Fan et al. 2018, section 5.4 (top-k).
In minitx: generation/filters.py: keep_top_k
"""

from __future__ import annotations

import math

from torch import Tensor


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits at a temperature above 0."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits with -inf for all but the k likeliest; k is at most the vocabulary."""
    lowest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -math.inf)


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.generation import filters
from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "logits.topk(k, dim=-1).values has the k largest, the smallest of them last.",
    "Keep that last axis with [..., -1:], so that it broadcasts; what is below becomes -math.inf "
    "by masked_fill.",
)
SLIPS = """
It multiplies by the temperature: a low one should make the likely likelier. Divide.
    logits / temperature -> logits * temperature
It returns probabilities: the softmax comes later.
    logits / temperature -> (logits / temperature).softmax(-1)
It keeps one token too few: the k-th is still in.
    logits < lowest -> logits <= lowest
Tokens that are ruled out get 0, and e^0 is 1: they need -inf.
    -math.inf -> 0.0
It returns the k logits alone: keep the vocabulary's shape, with -inf for the others.
    return logits.masked_fill(logits < lowest, -math.inf) -> return logits.topk(k, dim=-1).values
"""
REFERENCE = Code(
    with_temperature=lambda logits, temperature: logits.double().div(temperature).float(),
    keep_top_k=filters.keep_top_k,
)


def trials(answer: Code) -> Calls:
    """Cold and hot; one token, some, and all."""
    for temperature in (0.5, 2.0):
        about = f"with_temperature(logits, {temperature}), logits (2, 6)"
        yield Trial(about, answer.with_temperature, (normal(2, 6), temperature))
    for shape, k in (((6,), 1), ((2, 6), 3), ((2, 2, 5), 5)):
        yield Trial(
            f"keep_top_k(logits, {k}), logits {shape}", answer.keep_top_k, (normal(*shape), k)
        )
