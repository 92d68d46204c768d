"""Does the future leak? Change later tokens, and see whether any earlier logit moves.

A causal model's logits at a position depend on that position and those before it, and on nothing
else. So for a cut at every position, all tokens after it are replaced, and every logit up to it
must be the same to the bit: the same numbers are multiplied and added in the same order, and a
masked weight is exactly zero. The comparison is made for every way a text can go through the
model: at once, with its attention weights visible or not, in pieces through the key/value cache,
after rewinding the cache, and beside other rows of a batch. What trains a model and what generates
with it may compute another way than the model's own code, so each is checked by itself.

When a logit does move, the inputs of every layer and the outputs of every head are compared in
order, and the first that differs is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint.own_model import OwnModel
from minitx.compute import Compute
from minitx.engine import choose_engine, decoder, loss_function
from minitx.evaluation.arrays import IdArray
from minitx.generation.text_reader import TextReader
from minitx.model import KVCache, Trace, Transformer, attention_layers, evaluating
from minitx.model.transformer import IGNORED
from minitx.shown import Shown

MAX_LENGTH = 256
MAX_CUTS = 64
ENGINE_CUTS = 8
_ROWS = 16
_FED = 4  # tokens after the cut
_SHORT = 48  # tokens of a first check
_REACH = 24  # ... and of a look at how far ahead is seen


@dataclass(frozen=True)
class Leak:
    """A logit that moved when only later tokens changed.

    Attributes:
        position: the earliest position whose logits moved.
        cut: tokens after this position were changed.
        largest_change: of any logit that should not have moved.
        layer: where the leak comes in; None if it is outside the layers.
        heads: heads of that layer whose output moved; empty if it is not in attention.
        place: the same in words.
    """

    position: int
    cut: int
    largest_change: float
    layer: int | None
    heads: tuple[int, ...]
    place: str


@dataclass(frozen=True)
class PathCheck:
    """One way through the model, checked with `cuts` cuts and by comparing so many `logits`.

    `leak` is the first found, or None: not one bit moved.
    """

    path: str
    cuts: int
    logits: int
    leak: Leak | None


@dataclass(frozen=True)
class MaskCheck(Shown):
    """All ways through the model, checked on texts of `length` tokens."""

    length: int
    paths: tuple[PathCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether no logit moved anywhere."""
        return all(path.leak is None for path in self.paths)


@dataclass(frozen=True, eq=False)
class CutTexts:
    """Pairs of texts that are equal up to a cut.

    Attributes:
        base, changed: `(rows, length)` ids.
        cuts: `(rows,)` last position at which both are equal, never the last of the text.
    """

    base: Tensor
    changed: Tensor
    cuts: Tensor

    def rows(self, rows: slice | list[int]) -> CutTexts:
        """Some of the pairs."""
        return CutTexts(self.base[rows], self.changed[rows], self.cuts[rows])

    def after_cut(self, most: int) -> tuple[Tensor, Tensor]:
        """Positions behind the cut, at most so many, and the unchanged tokens there, (rows, n)."""
        n_tokens = min(most, self.base.size(1) - 1 - int(self.cuts.max()))
        positions = self.cuts[:, None] + 1 + torch.arange(n_tokens, device=self.base.device)
        return positions, self.base.gather(1, positions)


@dataclass(frozen=True, eq=False)
class _Pass:
    """Logits of everything fed, (rows, fed, vocab), and at which position each was fed."""

    logits: Tensor
    positions: Tensor
    must_not_move: Tensor


_Way = Callable[[Transformer, Tensor, CutTexts], _Pass]
"""From the text to feed, one side of the pairs, to its logits."""


def check_mask(
    model: Transformer,
    text_ids: IdArray | None = None,
    seed: int = 0,
    compute: Compute | None = None,
    engine: str = "auto",
) -> MaskCheck:
    """Prove, by trying, that no logit depends on a later token.

    Args:
        model: any, also one's own; left as it was.
        text_ids: (tokens,) real text for every second trial; the others, and what is missing,
            are random tokens.
        seed: of the random tokens.
        compute: device and number format in which it is trained; float32 if left out.
        engine: that trains it.

    Returns:
        What was compared, and the first leak of each way through the model. A model with a
        context of one token, or with one token in its vocabulary, has nothing to compare.
    """
    config = model.config
    length = min(MAX_LENGTH, config.context_length)
    if length < 2 or config.vocab_size < 2:
        return MaskCheck(length, ())
    texts = _draw_texts(model, length, text_ids, seed)
    n_cuts = len(texts.cuts)
    parts = [slice(start, start + _ROWS) for start in range(0, n_cuts, _ROWS)]
    with torch.inference_mode(), evaluating(model):
        checks = [_check(model, name, way, texts, parts) for name, way in _WAYS.items()]
    few = texts.rows(
        np.unique(np.linspace(0, n_cuts - 1, ENGINE_CUTS).round().astype(int)).tolist()
    )
    compute = compute or Compute(texts.base.device, torch.float32)
    checks.append(check_training(model, few, compute, engine))
    checks.append(check_generating(model, few))
    return MaskCheck(length, tuple(checks))


def _draw_texts(model: Transformer, length: int, text_ids: IdArray | None, seed: int) -> CutTexts:
    vocab_size, device = model.config.vocab_size, model.embedding.weight.device
    random = torch.Generator().manual_seed(seed)
    texts = torch.randint(vocab_size, (2, length), generator=random)
    if text_ids is not None:
        real = torch.from_numpy(np.asarray(text_ids[:length], dtype=np.int64))
        texts[0, : len(real)] = real
    cuts = np.unique(np.linspace(0, length - 2, min(MAX_CUTS, length - 1)).round().astype(int))
    base = texts[torch.arange(len(cuts)) % 2]
    changed = base.clone()
    for row, cut in enumerate(cuts):
        # Adding 1 .. vocab - 1 changes every token for sure.
        shift = torch.randint(1, vocab_size, (length - cut - 1,), generator=random)
        changed[row, cut + 1 :] = (base[row, cut + 1 :] + shift) % vocab_size
    return CutTexts(base.to(device), changed.to(device), torch.from_numpy(cuts).to(device))


def check_training(model: Transformer, texts: CutTexts, compute: Compute, engine: str) -> PathCheck:
    """Whether what trains a model lets the loss of a target, at the cut, depend on later tokens."""
    device = texts.base.device
    choice = chosen = choose_engine(model, compute, engine).engine
    if choice == "torch-compile" or device.type != "cpu":
        # To compile or to record a pass takes longer than all else here.
        choice = "plain"
    instead = "" if choice == chosen else f", in place of {chosen}"
    loss = loss_function(model, compute, choice)

    def losses(model: Transformer, ids: Tensor, texts: CutTexts) -> _Pass:
        by_row = []
        for row, cut in enumerate(texts.cuts.tolist()):
            targets = torch.full_like(texts.base, IGNORED)
            targets[row, cut] = texts.base[row, cut]
            torch.manual_seed(0)  # the same dropout for both
            by_row.append(loss(ids, targets).detach())
        positions = texts.cuts[:, None]
        return _Pass(torch.stack(by_row)[:, None, None], positions, positions >= 0)

    was_training = model.training
    name = f"as it is trained, {choice} engine{instead}"
    place = f"in what trains it, the {choice} engine"
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.train()
        check = _check(model, name, losses, texts, [slice(None)], place)
        model.train(was_training)
    return check


def check_generating(model: Transformer, texts: CutTexts) -> PathCheck:
    """Whether what generates lets a logit depend on what lies beyond the end of its cache.

    A text is read, all after the cut is forgotten, and the unchanged text goes on token by token,
    alone and beside others. What was forgotten must not show.
    """

    def fed(model: Transformer, ids: Tensor, texts: CutTexts) -> _Pass:
        reader = TextReader(model)
        reader.read(ids.tolist())
        reader.cache.truncate(texts.cuts + 1)
        positions, tokens = texts.after_cut(_FED)
        logits = [reader.feed(column).clone() for column in tokens.T.tolist()]
        return _Pass(torch.stack(logits, dim=1), positions, positions >= 0)

    last = len(texts.cuts)
    parts: list[slice | list[int]] = [[0], [last // 2], slice(last)]
    place = "in what generates, beyond the end of the cache"
    with torch.inference_mode(), evaluating(model):
        faster = decoder(model)
        name = f"as it generates, {'plain' if faster is None else faster.engine} engine"
        return _check(model, name, fed, texts, parts, place)


def moved_bits(before: Tensor, after: Tensor) -> Tensor:
    """Where two tensors differ in any bit; 0 and -0 are one number, and so is every NaN."""
    return (before != after) & ~(before.isnan() & after.isnan())


def _check(
    model: Transformer,
    name: str,
    way: _Way,
    texts: CutTexts,
    parts: Sequence[slice | list[int]],
    place: str | None = None,
) -> PathCheck:
    """Go one way, with some rows at a time; `place` is where a leak is, or None to look for it."""
    compared = 0
    for rows in parts:
        part = texts.rows(rows)
        before, after = way(model, part.base, part), way(model, part.changed, part)
        compared += int(before.must_not_move.sum()) * before.logits.shape[-1]
        moved = moved_bits(before.logits, after.logits).any(dim=-1) & before.must_not_move
        if moved.any():
            change = (before.logits - after.logits).abs().amax(dim=-1)
            change = change.masked_fill(~moved, 0.0).nan_to_num(nan=float("inf"))
            row = int(moved.any(dim=1).nonzero()[0])
            position = int(before.positions[row][moved[row]].min())
            entry = (None, (), place) if place else _entry(model, way, part, before.must_not_move)
            leak = Leak(position, int(part.cuts[row]), float(change.max()), *entry)
            return PathCheck(name, len(texts.cuts), compared, leak)
    return PathCheck(name, len(texts.cuts), compared, None)


def _pieces(model: Transformer, ids: Tensor, texts: CutTexts) -> _Pass:
    """Pieces of 1, 2, 3, ... tokens, so that a piece starts and ends in many places."""
    cache = _empty_cache(model, ids)
    parts, start, size = [], 0, 1
    while start < ids.size(1):
        parts.append(model(ids[:, start : start + size], cache=cache))
        start, size = start + size, size + 1
    return _continued(model, torch.cat(parts, dim=1), texts)


def _rewound(model: Transformer, ids: Tensor, texts: CutTexts) -> _Pass:
    """Feed everything, forget all after the cut, then feed the unchanged text one by one.

    The rows stand at different lengths from then on; what was forgotten must not show.
    """
    cache = _empty_cache(model, ids)
    logits = model(ids, cache=cache)
    cache.truncate(texts.cuts + 1)
    return _continued(model, logits, texts, cache, _FED)


def _ragged(model: Transformer, ids: Tensor, texts: CutTexts) -> _Pass:
    """Each row ends at its cut: what stands after it is padding. Then one more token for each."""
    cache = _empty_cache(model, ids)
    logits = model(ids, cache=cache, lengths=texts.cuts + 1)
    return _continued(model, logits, texts, cache, 1)


_WAYS: dict[str, _Way] = {
    "whole text": lambda model, ids, texts: _continued(model, model(ids), texts),
    "whole text, with its attention weights visible": lambda model, ids, texts: _continued(
        model, model(ids, trace=Trace()), texts
    ),
    "in pieces through the cache": _pieces,
    "after rewinding the cache": _rewound,
    "beside rows of other lengths": _ragged,
}


def _continued(
    model: Transformer,
    logits: Tensor,
    texts: CutTexts,
    cache: KVCache | None = None,
    most: int = 0,
) -> _Pass:
    """Logits of a text, and of at most so many unchanged tokens, fed behind the cut."""
    positions = torch.arange(logits.size(1), device=logits.device).expand(logits.shape[:2])
    more, tokens = texts.after_cut(most)
    parts = [logits, *(model(token[:, None], cache=cache) for token in tokens.unbind(1))]
    still = torch.cat([positions <= texts.cuts[:, None], more >= 0], dim=1)
    return _Pass(torch.cat(parts, dim=1), torch.cat([positions, more], dim=1), still)


def _empty_cache(model: Transformer, ids: Tensor) -> KVCache:
    weight = model.embedding.weight
    return KVCache(model.config, ids.size(0), ids.size(1), weight.device, weight.dtype)


def _entry(
    model: Transformer, way: _Way, texts: CutTexts, still: Tensor
) -> tuple[int | None, tuple[int, ...], str]:
    """Go that way again, listening inside: layer, heads and name of the first that moved."""
    if isinstance(model, OwnModel):
        return None, (), _own_entry(model, texts)
    base = _inside(model, way, texts.base, texts)
    changed = _inside(model, way, texts.changed, texts)
    n_heads = model.config.n_heads
    for (layer, part), before in base.items():
        moved = moved_bits(before, changed[layer, part]) & still[..., None]
        if not moved.any():
            continue
        if part == "heads":
            by_head = moved.view(*moved.shape[:2], n_heads, -1).any(dim=-1)
            heads = tuple(by_head.flatten(0, 1).any(dim=0).nonzero()[:, 0].tolist())
            names = f"head{'s' if len(heads) > 1 else ''} {', '.join(map(str, heads))}"
            names = "all heads" if len(heads) == n_heads > 1 else names
            return layer, heads, f"layer {layer}, {names}"
        if layer == 0:
            return None, (), "before layer 0, in the embedding"
        return layer - 1, (), f"layer {layer - 1}, outside its attention heads"
    return None, (), f"after the heads of layer {model.config.n_layers - 1}, the last"


def _own_entry(model: OwnModel, texts: CutTexts) -> str:
    """The first module of a model of one's own that gives out what moved, in the whole text."""
    heard: list[dict[str, Tensor]] = []

    def note(name: str) -> Callable[[torch.nn.Module, tuple[object, ...], object], None]:
        def hook(_: torch.nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.shape[:2] == texts.base.shape:
                heard[-1].setdefault(name, output.detach().clone())

        return hook

    with ExitStack() as hooks:
        for name, module in model.module.named_modules():
            hooks.enter_context(module.register_forward_hook(note(name)))
        for ids in (texts.base, texts.changed):
            heard.append({})
            model(ids)
    before, after = heard
    positions = torch.arange(texts.base.size(1), device=texts.base.device)
    still = positions <= texts.cuts[:, None]
    for name, output in before.items():
        if name in after and (moved_bits(output, after[name]).flatten(2).any(-1) & still).any():
            return f"{name or 'the module'}, of {model.code.file}"
    return f"outside the modules of {model.code.file}"


def future_seen(model: Transformer) -> int:
    """How many tokens ahead the first position sees, at most; 0 if it sees none.

    With a mask that is shifted by one, that is a token for each layer.
    """
    length = min(_REACH, model.config.context_length)
    ids = torch.arange(length, device=model.embedding.weight.device) % model.config.vocab_size
    changed = ids.repeat(length, 1)
    changed.diagonal().copy_((ids + 1) % model.config.vocab_size)
    with torch.no_grad(), evaluating(model):
        before, after = model(ids.repeat(length, 1))[:, 0], model(changed)[:, 0]
    moved = moved_bits(before, after).any(-1)[1:].nonzero()
    return int(moved.max()) + 1 if len(moved) else 0


def first_leak(model: Transformer, compute: Compute) -> Leak | None:
    """As `check_mask`, of a short text, and only as it is read whole and as it is trained."""
    length = min(_SHORT, model.config.context_length)
    if length < 2 or model.config.vocab_size < 2:
        return None
    texts = _draw_texts(model, length, None, seed=0)
    with torch.no_grad(), evaluating(model):
        checked = _check(model, "whole text", _WAYS["whole text"], texts, [slice(None)])
    if checked.leak is not None:
        return checked.leak
    return check_training(model, texts.rows(slice(None, None, 8)), compute, "plain").leak


def _inside(
    model: Transformer, way: _Way, ids: Tensor, texts: CutTexts
) -> dict[tuple[int, str], Tensor]:
    """What enters each layer, and what its heads hand to their output matrix, in this order."""
    heard: dict[tuple[int, str], list[Tensor]] = defaultdict(list)

    def note(key: tuple[int, str]) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: heard[key].append(inputs[0].detach().clone())

    with ExitStack() as hooks:
        for layer, attention in enumerate(attention_layers(model)):
            for key, module in (("input", model.blocks[layer]), ("heads", attention.output)):
                hooks.enter_context(module.register_forward_pre_hook(note((layer, key))))
        way(model, ids, texts)
    return {key: torch.cat(parts, dim=1) for key, parts in heard.items()}
