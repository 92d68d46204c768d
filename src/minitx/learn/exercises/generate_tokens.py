"""The loop that writes

A model gives the distribution of one next token. To write a text is to choose one, put it behind
the others, and ask again. Only the logits of the last position are of use. When the text is longer
than the model's context, it reads the last `context` tokens.

    repeat:  logits = model(last `context` ids)[:, -1]
             ids    = ids with choose(logits) behind it

`choose` turns logits `(B, vocab_size)` into ids `(B,)`: greedily, or with your filters and a draw.

Paper: Radford et al. 2019 (GPT-2), section 2; Graves 2013, section 4 (writing by sampling).
In minitx: generation/generate_text.py: generate
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def generate(
    model: Callable[[Tensor], Tensor], ids: Tensor, n_new: int, context: int,
    choose: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Ids `(B, T)` and `n_new` more behind them, `(B, T + n_new)`."""
    with torch.no_grad():
        for _ in range(n_new):
            logits = model(ids[:, -context:])[:, -1]
            ids = torch.cat((ids, choose(logits)[:, None]), dim=1)
    return ids


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial

HINTS = (
    "ids[:, -context:] are the last tokens, or all if there are fewer. The model's result at [:, "
    "-1] is about what follows the last of them.",
    "choose(logits) is (B,); [:, None] makes a column of it, which torch.cat((ids, column), "
    "dim=1) puts behind.",
)
SLIPS = r"""
It reads the first tokens of the context: the last ones matter.
    ids[:, -context:] -> ids[:, :context]
It takes the logits of the first position: what comes next stands at the last, [:, -1].
    [:, -1]\n -> [:, 0]\n
The text is read in full: it must be cut to the last `context` tokens, as the model knows no later
positions.
    ids[:, -context:] -> ids
Only the last token is read: the model then knows nothing of what stands before.
    ids[:, -context:] -> ids[:, -1:]
One token too few is written.
    range(n_new) -> range(n_new - 1)
The new token is put in front: it belongs behind.
    (ids, choose(logits)[:, None]) -> (choose(logits)[:, None], ids)
Only the new tokens are returned: give the whole text.
    return ids\n -> return ids[:, -n_new:]\n
The likeliest token is taken, whatever `choose` says.
    choose(logits) -> logits.argmax(-1)
The text is cut to the context: only what the model reads is cut, and the whole text is returned.
    return ids\n -> return ids[:, -context:]\n
"""


def _written(
    model: Callable[[Tensor], Tensor], ids: Tensor, n_new: int, context: int,
    choose: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    rows = []
    for row in ids:
        text = row.tolist()
        for _ in range(n_new):
            window = torch.tensor([text[max(0, len(text) - context) :]])
            text.append(int(choose(model(window)[:, len(window[0]) - 1])))
        rows.append(text)
    return torch.tensor(rows)


def _model(ids: Tensor) -> Tensor:
    # What follows depends on all tokens of the window and their places.
    table = normal(64, 9)
    places = torch.arange(1, ids.size(1) + 1)
    return table[(ids * places).cumsum(1) % 64] + table[ids]


def _second(logits: Tensor) -> Tensor:
    return logits.topk(2, dim=-1).indices[:, 1]


REFERENCE = Code(generate=_written)


def trials(answer: Code) -> Calls:
    """Short of the context and beyond it, with a choice that is not the likeliest."""
    for n_tokens, context in ((3, 20), (5, 4)):
        ids = torch.arange(2 * n_tokens).view(2, -1) % 9
        about = f"generate(model, ids, 6, {context}, choose), ids (2, {n_tokens})"
        yield Trial(about, answer.generate, (_model, ids, 6, context, _second))
