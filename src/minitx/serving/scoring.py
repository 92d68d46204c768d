"""How likely a model finds each token of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minitx.generation.records import ALTERNATIVES, Chosen
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
        some = logits[start : start + _POSITIONS_AT_ONCE].double().log_softmax(dim=-1)
        probabilities = some.exp()
        entropies = -(probabilities * some).nansum(dim=-1)
        top = probabilities.topk(min(ALTERNATIVES, some.size(-1)), dim=-1)
        for place in range(len(some)):
            token = ids[start + place + 1]
            alternatives = zip(top.indices[place].tolist(), top.values[place].tolist(), strict=True)
            log_probability = float(some[place, token])
            found.append(
                Chosen(
                    id=token,
                    log_probability=log_probability,
                    sampled_log_probability=log_probability,
                    entropy=float(entropies[place]),
                    kept=some.size(-1),
                    alternatives=tuple(alternatives),
                )
            )
    return found
