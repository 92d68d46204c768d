"""The key/value cache

Writing token 101, the model would compute keys and values of 100 positions that it computed before.
They can't have changed: no position looks ahead. So they are kept, and only the new tokens pass
through the model. Three things must fit: the new keys and values stand *behind* the old ones; the
new queries see all of them, and not what comes after themselves; and the new tokens have the
positions that follow, not 0.

    new tokens have positions  n, n + 1, ...          n: how many the cache holds
    cache["keys"]   (H, n, W)  ->  (H, n + T, W)      keys are kept rotated, theta 10,000
    cache["values"] (H, n, W)  ->  (H, n + T, W)

The cache is a dict, empty at first. Give it what it holds now before you return.

Paper: Shazeer 2019 (fast decoding), section 3.1; Pope et al. 2022, section 3.
In minitx: model/kv_cache.py: KVCache.append
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.learn.exercises.one_head import attention
from minitx.learn.exercises.rotary_positions import rotary_angles, rotate


def attend(queries: Tensor, keys: Tensor, values: Tensor, cache: dict[str, Tensor]) -> Tensor:
    """Attention of T new tokens, `(H, T, W)` each and not rotated yet, to `(H, T, W)`."""
    held = cache["keys"].size(1) if cache else 0
    positions = torch.arange(held, held + queries.size(1))
    angles = rotary_angles(positions, queries.size(-1), 10_000.0)
    queries, keys = rotate(queries, angles), rotate(keys, angles)
    if cache:
        keys = torch.cat((cache["keys"], keys), dim=1)
        values = torch.cat((cache["values"], values), dim=1)
    cache["keys"], cache["values"] = keys, values
    return attention(queries, keys, values)


# ---- what the judge reads ------------------------------------------------------------------------

from functools import partial

from torch.nn import functional as F

from minitx.learn.seeded import normal
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "Rotate first, at positions from how many the cache holds. Then torch.cat the old and the new "
    "along axis 1, the positions, and keep both.",
    "Your attention already fits more keys than queries, if your mask does: attention(queries, "
    "all keys, all values).",
)
SLIPS = r"""
The cache forgets its position: new tokens stand behind those that it holds, not at 0.
    torch.arange(held, held + queries.size(1)) -> torch.arange(queries.size(1))
The position is one too far: with n tokens held, the next has position n.
    torch.arange(held, held + queries.size(1))
    -> torch.arange(held, held + queries.size(1)) + bool(cache)
The new keys and values stand in front: they belong behind the old ones.
    (cache["keys"], keys) -> (keys, cache["keys"])
    (cache["values"], values) -> (values, cache["values"])
The cache is overwritten with the new tokens alone: earlier ones are forgotten.
    cache["keys"], cache["values"] = keys, values
    -> cache["keys"], cache["values"] = keys[:, held:], values[:, held:]
The cache is read and never filled.
    cache["keys"], cache["values"] = keys, values -> pass
The cache is not used: each piece sees itself alone.
    if cache: -> if False:
The cache keeps keys that are not rotated: rotate the new ones first, and the old need it no more.
    torch.arange(held, held + queries.size(1)) -> torch.arange(held + queries.size(1))
    rotate(queries, angles), rotate(keys, angles) -> rotate(queries, angles[held:]), keys
    attention(queries, keys, values) -> attention(queries, rotate(keys, angles), values)
The old keys are rotated again in every call: rotate the new ones alone, before they join the old.
    torch.arange(held, held + queries.size(1)) -> torch.arange(held + queries.size(1))
    rotate(queries, angles), rotate(keys, angles) -> rotate(queries, angles[held:]), keys
    cache["keys"], cache["values"] = keys
    -> keys = rotate(keys, angles)\n    cache["keys"], cache["values"] = keys
"""


def _pieces(code: Code, sizes: list[int]) -> object:
    cache: dict[str, Tensor] = {}
    inputs = [normal(2, sum(sizes), 4, seed=seed) for seed in range(3)]
    parts = zip(*(torch.split(x, sizes, dim=1) for x in inputs), strict=True)
    mixed = [code.attend(*part, cache) for part in parts]
    return {"outputs": mixed, "kept": cache}


class _AtOnce:
    """What the whole text gives without a cache, cut into the pieces that were asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, cache: dict[str, Tensor]
    ) -> Tensor:
        self.seen = [*self.seen, (queries, keys, values)] if cache else [(queries, keys, values)]
        queries, keys, values = (torch.cat(x, dim=1) for x in zip(*self.seen, strict=True))
        table = transformer.rotary_table(torch.arange(queries.size(1)), queries.size(-1), 10_000.0)
        queries, keys = (transformer.rotate(x, *table) for x in (queries, keys))
        cache.update(keys=keys, values=values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return mixed[:, -self.seen[-1][0].size(1) :]


REFERENCE = Code(attend=_AtOnce().attend)


def trials(answer: Code) -> Calls:
    """A prompt and tokens one by one; pieces of several."""
    for sizes in ([4, 1, 1], [2, 3]):
        about = f"attend on a text in pieces of {', '.join(map(str, sizes))} tokens, one cache"
        yield Trial(about, partial(_pieces, answer), (sizes,))
