"""The check of the causal mask for the engines: what trains a model, and what generates with it.

Both may compute another way than the model's own code, so each is checked by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from minitx.compute import Compute
from minitx.engine import choose_engine, decoder, loss_function
from minitx.generation.text_reader import TextReader
from minitx.inspection.leak import Leak, PathCheck, moved_bits
from minitx.model import Transformer, evaluating
from minitx.model.transformer import IGNORED

_FED = 4  # tokens after the cut


def check_training(
    model: Transformer,
    compute: Compute,
    engine: str,
    base: torch.Tensor,
    changed: torch.Tensor,
    cuts: npt.NDArray[np.int64],
) -> PathCheck:
    """Whether what trains a model lets the loss of a target, at the cut, depend on later tokens.

    Args:
        model: left as it was.
        compute: device and number format in which it is trained.
        engine: that trains it.
        base, changed: `(rows, length)` texts that are equal up to each row's cut.
        cuts: `(rows,)`.
    """
    choice = choose_engine(model, compute, engine).engine
    if choice == "torch-compile" or base.device.type != "cpu":
        # To compile or to record a pass takes longer than all else here.
        choice = "plain"
    loss = loss_function(model, compute, choice)
    was_training, leak = model.training, None
    with torch.enable_grad(), torch.random.fork_rng([base.device] if base.is_cuda else []):
        model.train()
        for row, cut in enumerate(cuts):
            targets = torch.full_like(base, IGNORED)
            targets[row, cut] = base[row, cut]
            losses = []
            for ids in (base, changed):
                torch.manual_seed(0)  # the same dropout for both
                losses.append(loss(ids, targets).detach())
            if leak is None and bool(moved_bits(*losses)):
                change = float((losses[0] - losses[1]).abs())
                place = f"in what trains it, the {choice} engine"
                leak = Leak(int(cut), int(cut), change, None, (), place)
        model.train(was_training)
    return PathCheck(f"as it is trained, {choice} engine", len(cuts), len(cuts), leak)


def check_generating(
    model: Transformer, base: torch.Tensor, changed: torch.Tensor, cuts: npt.NDArray[np.int64]
) -> PathCheck:
    """Whether what generates lets a logit depend on what lies beyond the end of its cache.

    A text is read, all after the cut is forgotten, and the unchanged text goes on token by token,
    alone and beside others. What was forgotten must not show.

    Args:
        model: left as it was.
        base, changed: `(rows, length)` texts that are equal up to each row's cut.
        cuts: `(rows,)`, each before the last token.
    """

    def logits(texts: torch.Tensor, rows: list[int]) -> torch.Tensor:
        reader = TextReader(model)
        reader.read(texts[rows].tolist())
        kept = torch.as_tensor(cuts[rows]) + 1
        reader.cache.truncate(kept)
        parts = []
        for step in range(min(_FED, base.shape[1] - int(kept.max()))):
            tokens = base[rows, kept.to(base.device) + step]
            parts.append(reader.feed(tokens.tolist()).clone())
        return torch.stack(parts, dim=1) if parts else base.new_zeros(len(rows), 0, 1)

    leak, compared = None, 0
    with torch.inference_mode(), evaluating(model):
        engine = "plain" if decoder(model) is None else "native"
        for rows in ([0], [len(cuts) // 2], list(range(len(cuts)))):
            before, after = logits(base, rows), logits(changed, rows)
            compared += before.numel()
            moved = moved_bits(before, after)
            if leak is None and moved.any():
                row = rows[int(moved.any(-1).any(-1).nonzero()[0])]
                change = float((before - after).abs().max())
                place = "in what generates, beyond the end of the cache"
                leak = Leak(int(cuts[row]) + 1, int(cuts[row]), change, None, (), place)
    return PathCheck(f"as it generates, {engine} engine", len(cuts), compared, leak)
