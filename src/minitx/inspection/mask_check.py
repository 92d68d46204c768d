"""Does the future leak? Change later tokens, and see whether any earlier logit moves.

A causal model's logits at a position depend on that position and those before it, and on nothing
else. So for a cut at every position, all tokens after it are replaced, and every logit up to it
must be the same to the bit: the same numbers are multiplied and added in the same order, and a
masked weight is exactly zero. The comparison is made for every way a text can go through the
model: at once, with its attention weights visible or not, in pieces through the key/value cache,
after rewinding the cache, and beside other rows of a batch. It is made for what trained the model
as well, where a later token must not move the loss of an earlier one, and for what generates.

When a logit does move, the inputs of every layer and the outputs of every head are compared in
order, and the first that differs is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from minitx.inspection.leak import Leak, MaskCheck, PathCheck, moved_bits

if TYPE_CHECKING:
    import torch

    from minitx.compute import Compute
    from minitx.model import KVCache, Transformer

__all__ = ["Leak", "MaskCheck", "PathCheck", "check_mask"]

MAX_LENGTH = 256
MAX_CUTS = 64
_ROWS = 16
ENGINE_CUTS = 8


@dataclass(frozen=True)
class _Run:
    """Logits of everything fed, (rows, fed, vocab), and at which position each was fed."""

    logits: torch.Tensor
    positions: torch.Tensor
    must_not_move: torch.Tensor


def check_mask(
    model: Transformer,
    text_ids: npt.NDArray[np.integer] | None = None,
    seed: int = 0,
    compute: Compute | None = None,
    engine: str = "auto",
) -> MaskCheck:
    """Prove, by trying, that no logit depends on a later token.

    Args:
        model: any minitx model; left as it was.
        text_ids: (tokens,) real text for every second trial; the others, and what is missing,
            are random tokens.
        seed: of the random tokens.
        compute: device and number format in which it is trained; float32 if left out.
        engine: that trains it.

    Returns:
        What was compared, and the first leak of each way through the model. A model with a
        context of one token, or with one token in its vocabulary, has nothing to compare.
    """
    import torch

    from minitx.compute import Compute
    from minitx.inspection.engine_check import check_generating, check_training
    from minitx.model import evaluating

    config = model.config
    length = min(MAX_LENGTH, config.context_length)
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(seed)
    if length < 2 or config.vocab_size < 2:
        return MaskCheck(length, ())
    texts = torch.randint(config.vocab_size, (2, length), generator=random)
    if text_ids is not None:
        real = torch.from_numpy(np.asarray(text_ids[:length], dtype=np.int64))
        texts[0, : len(real)] = real
    cuts = np.unique(np.linspace(0, length - 2, min(MAX_CUTS, length - 1)).round().astype(int))
    base = texts[torch.arange(len(cuts)) % 2]
    changed = base.clone()
    for row, cut in enumerate(cuts):
        # Adding 1 .. vocab - 1 changes every token for sure.
        shift = torch.randint(1, config.vocab_size, (length - cut - 1,), generator=random)
        changed[row, cut + 1 :] = (base[row, cut + 1 :] + shift) % config.vocab_size
    base, changed = base.to(device), changed.to(device)

    ways: dict[str, Callable[..., _Run]] = {
        "whole text": _whole,
        "whole text, with its attention weights visible": _traced,
        "in pieces through the cache": _pieces,
        "after rewinding the cache": _rewound,
        "beside rows of other lengths": _ragged,
    }
    checks = []
    for name, run in ways.items():
        with torch.inference_mode(), evaluating(model):
            checks.append(_check(model, name, run, base, changed, cuts))
    few = np.unique(np.linspace(0, len(cuts) - 1, ENGINE_CUTS).round().astype(int))
    compute = compute or Compute(device, torch.float32)
    checks.append(check_training(model, compute, engine, base[few], changed[few], cuts[few]))
    checks.append(check_generating(model, base[few], changed[few], cuts[few]))
    return MaskCheck(length, tuple(checks))


def _check(
    model: Transformer,
    name: str,
    run: Callable[..., _Run],
    base: torch.Tensor,
    changed: torch.Tensor,
    cuts: npt.NDArray[np.int64],
) -> PathCheck:
    compared = 0
    for start in range(0, len(cuts), _ROWS):
        part = slice(start, start + _ROWS)
        arguments = (base[part], cuts[part])
        before = run(model, base[part], *arguments)
        after = run(model, changed[part], *arguments)
        still = before.must_not_move
        compared += int(still.sum()) * before.logits.shape[-1]
        moved = moved_bits(before.logits, after.logits).any(dim=-1) & still
        if moved.any():
            leak = _locate(model, run, base[part], changed[part], cuts[part], before, after, moved)
            return PathCheck(name, len(cuts), compared, leak)
    return PathCheck(name, len(cuts), compared, None)


# Each way through the model takes the text to feed, the unchanged text, and the cut of each row,
# and says which of its logits may not depend on what comes after the cut.


def _whole(
    model: Transformer, ids: torch.Tensor, base: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> _Run:
    import torch

    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return _Run(model(ids), positions, positions <= _column(cuts, ids))


def _traced(
    model: Transformer, ids: torch.Tensor, base: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> _Run:
    import torch

    from minitx.model import Trace

    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return _Run(model(ids, trace=Trace()), positions, positions <= _column(cuts, ids))


def _pieces(
    model: Transformer, ids: torch.Tensor, base: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> _Run:
    """Pieces of 1, 2, 3, ... tokens, so that a piece starts and ends in many places."""
    import torch

    rows, length = ids.shape
    cache = _empty_cache(model, rows, length)
    parts, start, size = [], 0, 1
    while start < length:
        parts.append(model(ids[:, start : start + size], cache=cache))
        start, size = start + size, size + 1
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    return _Run(torch.cat(parts, dim=1), positions, positions <= _column(cuts, ids))


def _rewound(
    model: Transformer, ids: torch.Tensor, base: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> _Run:
    """Feed everything, forget all after the cut, then feed the unchanged text one by one.

    The rows stand at different lengths from then on; what was forgotten must not show.
    """
    import torch

    rows, length = ids.shape
    cache = _empty_cache(model, rows, length)
    first = torch.arange(length, device=ids.device).expand_as(ids)
    parts, positions = [model(ids, cache=cache)], [first]
    still = [first <= _column(cuts, ids)]
    kept = torch.as_tensor(cuts, device=ids.device) + 1
    cache.truncate(kept)
    for _ in range(min(4, length - 1 - int(cuts.max()))):
        token = base.gather(1, kept[:, None])
        parts.append(model(token, cache=cache))
        positions.append(kept[:, None].clone())
        still.append(torch.ones_like(token, dtype=torch.bool))
        kept = kept + 1
    return _Run(torch.cat(parts, 1), torch.cat(positions, 1), torch.cat(still, 1))


def _ragged(
    model: Transformer, ids: torch.Tensor, base: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> _Run:
    """Each row ends at its cut: what stands after it is padding. Then one more token for each."""
    import torch

    rows, length = ids.shape
    cache = _empty_cache(model, rows, length)
    kept = torch.as_tensor(cuts, device=ids.device) + 1
    first = torch.arange(length, device=ids.device).expand_as(ids)
    parts = [model(ids, cache=cache, lengths=kept)]
    token = base.gather(1, kept[:, None])
    parts.append(model(token, cache=cache))
    still = torch.cat([first < kept[:, None], torch.ones_like(token, dtype=torch.bool)], 1)
    return _Run(torch.cat(parts, 1), torch.cat([first, kept[:, None]], 1), still)


def _empty_cache(model: Transformer, rows: int, capacity: int) -> KVCache:
    from minitx.model import KVCache

    weight = next(model.parameters())
    return KVCache(model.config, rows, capacity, weight.device, weight.dtype)


def _column(cuts: npt.NDArray[np.int64], ids: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.as_tensor(cuts, device=ids.device)[:, None]


def _locate(
    model: Transformer,
    run: Callable[..., _Run],
    base: torch.Tensor,
    changed: torch.Tensor,
    cuts: npt.NDArray[np.int64],
    before: _Run,
    after: _Run,
    moved: torch.Tensor,
) -> Leak:
    """Run both texts again, listening inside, and name the first place that moved."""
    change = (before.logits - after.logits).abs().amax(dim=-1)
    change = change.masked_fill(~moved, 0.0).nan_to_num(nan=float("inf"))
    row = int(moved.any(dim=1).nonzero()[0])
    position = int(before.positions[row][moved[row]].min())
    with _listening(model) as heard:
        run(model, base, base, cuts)
        one = heard.copy()
        heard.clear()
        run(model, changed, base, cuts)
        other = heard.copy()
    layer, heads, place = _firstmoved_bits(model, one, other, before.must_not_move)
    return Leak(position, int(cuts[row]), float(change.max()), layer, heads, place)


_Heard = dict[tuple[int, str], "list[torch.Tensor]"]


def _firstmoved_bits(
    model: Transformer, one: _Heard, other: _Heard, still: torch.Tensor
) -> tuple[int | None, tuple[int, ...], str]:
    import torch

    def differs(key: tuple[int, str]) -> torch.Tensor:
        a, b = torch.cat(one[key], dim=1), torch.cat(other[key], dim=1)
        return moved_bits(a, b) & still[..., None]

    for layer in range(model.config.n_layers):
        if differs((layer, "input")).any():
            if layer == 0:
                return None, (), "before layer 0, in the embedding"
            return layer - 1, (), f"layer {layer - 1}, outside its attention heads"
        moved = differs((layer, "heads"))
        if moved.any():
            by_head = moved.view(*moved.shape[:2], model.config.n_heads, -1).any(dim=-1)
            heads = tuple(int(h) for h in by_head.any(dim=0).any(dim=0).nonzero()[:, 0])
            return layer, heads, _in_words(layer, heads, model.config.n_heads)
    last = model.config.n_layers - 1
    return None, (), f"after the heads of layer {last}, the last"


def _in_words(layer: int, heads: tuple[int, ...], n_heads: int) -> str:
    if len(heads) == n_heads and n_heads > 1:
        return f"layer {layer}, all heads"
    plural = "s" if len(heads) > 1 else ""
    return f"layer {layer}, head{plural} {', '.join(map(str, heads))}"


@contextmanager
def _listening(model: Transformer) -> Iterator[_Heard]:
    """Write down what enters each layer, and what its heads hand to their output matrix."""
    from minitx.model import attention_layers

    heard: _Heard = {}

    def note(key: tuple[int, str]) -> Callable[..., None]:
        def hook(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            heard.setdefault(key, []).append(inputs[0].detach().clone())

        return hook

    hooks = []
    for layer, (block, attention) in enumerate(
        zip(model.blocks, attention_layers(model), strict=True)
    ):
        hooks.append(block.register_forward_pre_hook(note((layer, "input"))))
        hooks.append(attention.output.register_forward_pre_hook(note((layer, "heads"))))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
