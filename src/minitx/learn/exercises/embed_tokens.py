"""From ids to vectors: the embedding

An id is a name, not a quantity: 7 is not more than 6. So each id gets a vector of its own, a row of
a table that training fills in. To look up a row is to multiply by a one-hot vector, which is 1 at
the id and 0 elsewhere:

    one_hot(id) @ table == table[id]

The product says why the table learns like any other matrix; indexing does the same without
multiplying by zeros. What comes out is the first state of the residual stream, of width D.

    ids (B, T)  ->  vectors (B, T, D)

Paper: Bengio et al. 2003, section 2; Vaswani et al. 2017, section 3.4.
In minitx: model/transformer.py: Transformer.residual_stream
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(ids: Tensor, vocab_size: int) -> Tensor:
    """`(..., vocab_size)` float32: 1 at each id, 0 elsewhere. `ids` is `(...)`."""
    return (ids[..., None] == torch.arange(vocab_size)).float()


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """The row of each id: ids `(...)` and a table `(vocab_size, D)` to `(..., D)`."""
    return table[ids]


# ---- what the judge reads ------------------------------------------------------------------------

from torch.nn import functional as F

from minitx.learn.seeded import normal, token_ids
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "A tensor can be indexed by a tensor. For one_hot, ask of every column: is it the id's? One "
    "comparison answers for all ids at once, if ids get a last axis of size 1.",
    "ids[..., None] == torch.arange(vocab_size) gives a row of booleans for each id; .float() "
    "makes 1.0 and 0.0 of them.",
)
SLIPS = """
The rows are one id off: ids begin at 0, as the table's rows do.
    table[ids] -> table[ids - 1]
The vectors are multiplied by the root of the width. Vaswani et al. 2017 do that, in section 3.4;
GPT and its successors don't.
    table[ids] -> table[ids] * table.size(-1) ** 0.5
It takes columns of the table: the ids are its rows.
    table[ids] -> table.T[ids]
It is made of True and False: float32 is what can be multiplied by a table.
    (ids[..., None] == torch.arange(vocab_size)).float()
    -> ids[..., None] == torch.arange(vocab_size)
The vocabulary stands in front of the positions: it is the last axis.
    (ids[..., None] == torch.arange(vocab_size)).float()
    -> (ids[..., None] == torch.arange(vocab_size)).float().movedim(-1, 0)
"""
REFERENCE = Code(
    one_hot=lambda ids, vocab_size: F.one_hot(ids, vocab_size).float(),
    embed=lambda ids, table: F.embedding(ids, table),
)


def trials(answer: Code) -> Calls:
    """A square table, in which columns could be taken for rows, and another."""
    ids = token_ids(2, 5, vocab_size=4)
    yield Trial("one_hot(ids, 6), ids (2, 5)", answer.one_hot, (ids, 6))
    yield Trial("one_hot(ids, 8), ids (5,)", answer.one_hot, (ids[0], 8))
    for table in (normal(6, 6), normal(7, 4)):
        about = f"embed(ids, table), ids (2, 5), table {tuple(table.shape)}"
        yield Trial(about, answer.embed, (ids, table))
