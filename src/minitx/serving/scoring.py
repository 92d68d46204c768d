"""How likely a model finds each token of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minitx.generation.chooser import describe
from minitx.generation.generated import Chosen
from minitx.model import Transformer

_POSITIONS_AT_ONCE = 64


@torch.inference_mode()
def score(model: Transformer, ids: Sequence[int]) -> list[Chosen | None]:
    """A record of each token given those before it; None for the first, which follows nothing.

    Args:
        model: in eval mode.
        ids: at least one, at most the context.
    """
    found: list[Chosen | None] = [None]
    if len(ids) == 1:
        return found
    device = model.embedding.weight.device
    logits = model(torch.tensor([ids[:-1]], device=device))[0]
    for start in range(0, len(ids) - 1, _POSITIONS_AT_ONCE):
        # In parts: in double precision all positions at once may not fit.
        some = logits[start : start + _POSITIONS_AT_ONCE]
        found += describe(some, ids[start + 1 : start + 1 + len(some)])
    return found
