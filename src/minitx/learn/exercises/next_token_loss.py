"""Cross-entropy and perplexity

The model says at each position how likely every token is to come next. The loss asks how likely it
found the one that came: its negative logarithm, the mean over all positions that have a next token.

    loss = mean over t of  -log softmax(logits[t])[ ids[t + 1] ]          in nats

Logits of position t are compared with the token of position t + 1: the last logits have nothing to
be compared with, and the first token is foretold by nobody. A model that knows nothing has a loss
of ln(vocab_size).

    perplexity = e^loss           as unsure as when choosing evenly among that many tokens

Paper: Shannon 1948 (entropy); Bengio et al. 2003, section 2.
In minitx: model/transformer.py: Transformer.loss
"""

from __future__ import annotations

import math

from torch import Tensor


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits `(B, T, vocab_size)` and the ids `(B, T)` that they were made from to a scalar."""
    log_probabilities = logits[:, :-1].log_softmax(dim=-1)
    targets = ids[:, 1:]
    return -log_probabilities.gather(-1, targets[..., None]).mean()


def perplexity(loss: float) -> float:
    """Of a loss in nats."""
    return math.exp(loss)


# ---- what the judge reads ------------------------------------------------------------------------

import torch
from torch.nn import functional as F

from minitx.learn.seeded import normal, token_ids
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "Cut both to T - 1 positions: logits without the last, ids without the first. Then position t "
    "of one belongs to position t of the other.",
    "log_softmax(dim=-1), .gather(-1, targets[..., None]) picks one number for each position, "
    "mean, minus. (Or torch.nn.functional.cross_entropy, once you have seen it by hand.)",
)
SLIPS = """
Nothing is shifted: each position is asked for its own token, which it has seen. Logits of position
t belong to token t + 1.
    logits[:, :-1] -> logits
    ids[:, 1:] -> ids
The targets are the inputs: position t is asked for token t, which it has seen.
    ids[:, 1:] -> ids[:, :-1]
The loss looks one token too far: logits of position t are compared with token t + 2.
    logits[:, :-1] -> logits[:, :-2]
    ids[:, 1:] -> ids[:, 2:]
It is shifted the wrong way: each position is asked for the token before it.
    logits[:, :-1] -> logits[:, 1:]
    ids[:, 1:] -> ids[:, :-1]
The losses are summed: take the mean, so that a longer text is not a worse one.
    .mean() -> .sum()
The sum is divided by the rows alone: it is the mean over all positions.
    .mean() -> .sum() / len(ids)
The minus is missing: a likely token has a small loss.
    return -log_ -> return log_
It is in bits, by the logarithm to base 2: nats are wanted, the natural logarithm.
    .mean() -> .mean() / math.log(2)
The softmax is over positions: it is over the vocabulary, the last axis.
    log_softmax(dim=-1) -> log_softmax(dim=1)
Perplexity is a power of 2: the loss is in nats, so it is e^loss.
    math.exp(loss) -> 2**loss
Perplexity's sign is turned: it is e^loss, at least 1.
    math.exp(loss) -> math.exp(-loss)
The last position is compared with the text's first token, which roll brings round: leave it out.
    logits[:, :-1] -> logits
    ids[:, 1:] -> ids.roll(-1, dims=1)
It is the logarithm of the mean probability: take the logarithm first, then the mean.
    targets[..., None]).mean() -> targets[..., None]).exp().mean().log()
"""


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


REFERENCE = Code(
    next_token_loss=_loss, perplexity=lambda loss: torch.tensor(loss).double().exp().item()
)


def trials(answer: Code) -> Calls:
    """Random logits; and some of a size at which a softmax by hand overflows."""
    for seed, size in ((0, 1.0), (1, 100.0)):
        logits, ids = size * normal(2, 5, 7, seed=seed), token_ids(2, 5, vocab_size=7, seed=seed)
        about = f"next_token_loss(logits, ids), logits (2, 5, 7) of size {size:g}"
        yield Trial(about, answer.next_token_loss, (logits, ids))
    for loss in (0.0, 2.5):
        yield Trial(f"perplexity({loss})", answer.perplexity, (loss,))
