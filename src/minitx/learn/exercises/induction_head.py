"""Finding an induction head

"Ada Quimby wrote to her aunt. Ada Q": what follows? Look where it stood before, and copy what came
after. A transformer finds that rule by itself: an induction head looks at the token *after* the
earlier occurrence of the present one. To find it, let the model read random tokens that repeat, so
that nothing else can be of help:

    ids        a b c d a b c d          period 4
    position 5 (b) should look at position 2: one after the earlier b, which stands at 5 - 4

    score of a head = mean weight of positions P .. 2P - 1 on position (own position - P + 1)

A head at random scores about 1 / T, an induction head almost 1. It needs a head in an earlier layer
that looks at the previous token, so one layer is not enough.

Paper: Olsson et al. 2022, section 2; Elhage et al. 2021.
In minitx: inspection/roles/looked_at.py: induction
"""

from __future__ import annotations

import torch
from torch import Tensor


def repeated(ids: Tensor) -> Tensor:
    """Ids `(P,)` twice, one behind the other: `(2 * P,)`."""
    return torch.cat((ids, ids))


def induction_scores(weights: Tensor) -> Tensor:
    """Of each head, from weights `(H, 2 * P, 2 * P)` on repeated tokens: `(H,)`."""
    period = weights.size(-1) // 2
    queries = torch.arange(period, 2 * period)
    return weights[:, queries, queries - period + 1].mean(dim=-1)


def strongest_head(layers: list[Tensor]) -> tuple[int, int]:
    """Layer and head with the highest score; `layers` has the weights of each layer."""
    scores = torch.stack([induction_scores(weights) for weights in layers])
    layer, head = divmod(int(scores.argmax()), scores.size(1))
    return layer, head


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal, token_ids
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "weights[:, queries, keys] with two index tensors of one length picks one weight for each "
    "pair, in every head.",
    "argmax of a table counts through its rows: divmod by the number of heads gives layer and "
    "head.",
)
SLIPS = """
The ids are interleaved, each twice in a row: the whole text comes twice.
    torch.cat((ids, ids)) -> ids.repeat_interleave(2)
It looks at the earlier occurrence itself, as a duplicate-token head does: induction is one position
after it.
    queries - period + 1 -> queries - period
It looks one position too far: the token right after the earlier occurrence.
    queries - period + 1 -> queries - period + 2
Query and key are swapped: rows of the weights are who looks.
    weights[:, queries, queries - period + 1] -> weights[:, queries - period + 1, queries]
It is the mean over all positions: only those of the second half have an earlier occurrence.
    .mean(dim=-1) -> .sum(dim=-1) / weights.size(-1)
It is the mean over heads: each head has its score.
    weights[:, queries, queries - period + 1].mean(dim=-1)
    -> weights[:, queries, queries - period + 1].mean(dim=0)
Layer and head are swapped.
    return layer, head -> return head, layer
It is the weakest head.
    scores.argmax() -> scores.argmin()
It begins one position early: position P - 1 belongs to the first half, and nothing stood before.
    torch.arange(period, 2 * period) -> torch.arange(period - 1, 2 * period)
The place of the largest is divided by the number of layers: a row of the table is one layer, with
as many scores as heads.
    scores.size(1)) -> scores.size(0))
"""


def _scores(weights: Tensor) -> Tensor:
    period = weights.size(-1) // 2
    total = torch.zeros(len(weights), dtype=torch.float64)
    for query in range(period, 2 * period):
        total += weights[:, query, query - period + 1].double()
    return (total / period).float()


def _strongest(layers: list[Tensor]) -> tuple[int, int]:
    table = {(i, j): score for i, x in enumerate(layers) for j, score in enumerate(_scores(x))}
    return max(table, key=lambda place: float(table[place]))


REFERENCE = Code(
    repeated=lambda ids: ids.repeat(2), induction_scores=_scores, strongest_head=_strongest
)


def trials(answer: Code) -> Calls:
    """Four layers of three heads that look at random, one of which does induction."""
    yield Trial("repeated(ids), ids (5,)", answer.repeated, (token_ids(5, vocab_size=50),))
    layers = [normal(3, 10, 10, seed=seed).tril().softmax(-1) for seed in range(4)]
    yield Trial(
        "induction_scores(weights), weights (3, 10, 10)", answer.induction_scores, (layers[0],)
    )
    layers[1][2, torch.arange(5, 10), torch.arange(1, 6)] = 0.9
    yield Trial("strongest_head(4 layers of 3 heads)", answer.strongest_head, (layers,))
