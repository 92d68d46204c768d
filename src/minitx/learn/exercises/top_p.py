"""Top-p

Top-k does not ask how sure the model is: where one token is certain, ten are too many, and where
twenty would do, ten are too few. Top-p (nucleus sampling) keeps the likeliest tokens until their
probabilities add up to p, and rules out the rest. The token with which the sum reaches p is kept
too, so there is always one.

    sort the probabilities, largest first; add them up
    token i of that order is kept if the sum of those before it is less than p

What was decided in the sorted order must go back to the tokens' own places: scatter, or sort again.

Paper: Holtzman et al. 2020, section 3.1.
In minitx: generation/filters.py: keep_top_p
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits `(..., vocab_size)` with -inf for all but the nucleus of p, above 0 and up to 1."""
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(cut, -math.inf)


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.generation import filters
from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "sort gives values and places. The sum before a token is the running sum (cumsum) minus its "
    "own probability.",
    "cut.scatter(-1, order, flags) writes flags, which stand in sorted order, to the places in "
    "`order`. Then masked_fill.",
)
SLIPS = """
The token with which the sum reaches p is cut off: ask for the sum of those before it.
    before >= p -> probabilities.cumsum(dim=-1) >= p
The likeliest tokens are cut off: sort the largest first.
    descending=True -> descending=False
What was decided in the sorted order is applied to tokens in their own: scatter it back.
    torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p) -> before >= p
Logits are added up: p is a probability, so softmax first.
    logits.softmax(dim=-1).sort -> logits.sort
Tokens that are cut off get 0, and e^0 is 1: they need -inf.
    -math.inf -> 0.0
It returns probabilities: logits are wanted, and the softmax comes later.
    logits.masked_fill(cut, -math.inf) -> logits.masked_fill(cut, -math.inf).softmax(-1)
The places are used the wrong way round: `order` says where a sorted token comes from, so scatter by
it, or gather by its inverse.
    torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    -> (before >= p).gather(-1, order)
"""
REFERENCE = Code(keep_top_p=filters.keep_top_p)


def trials(answer: Code) -> Calls:
    """A flat and a peaked distribution, in no order; p small, middling and large; many tokens."""
    logits = torch.tensor([[2.0, 4.0, 1.0, 3.0, -1.0, 2.5], [0.1, 0.0, 0.5, 0.3, 0.2, 0.4]])
    for p in (0.1, 0.5, 0.8, 0.999):
        yield Trial(f"keep_top_p(logits, {p}), logits (2, 6)", answer.keep_top_p, (logits, p))
    yield Trial("keep_top_p(logits, 0.8), logits (6,)", answer.keep_top_p, (logits[0], 0.8))
    yield Trial("keep_top_p(logits, 0.7), logits (5, 30)", answer.keep_top_p, (normal(5, 30), 0.7))
