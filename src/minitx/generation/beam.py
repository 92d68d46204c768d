"""Beam search: keep the few likeliest texts at every step, instead of drawing one.

It finds likelier texts than greedy choice, and duller ones than sampling: the likeliest text is
seldom one that a person would write (Holtzman et al. 2020, section 3).
"""

from __future__ import annotations

import torch

from minitx.errors import BadInputError
from minitx.generation.generate_text import prompt_ids
from minitx.generation.row import Generation
from minitx.model import KVCache, Transformer, evaluating
from minitx.tokenizer import Tokenizer


def beam_search(
    model: Transformer, tokenizer: Tokenizer, prompt: str, beams: int, max_new_tokens: int
) -> list[Generation]:
    """Find likely continuations of one length.

    All texts have the same length, so their log-probabilities compare without a length penalty.

    Args:
        model, tokenizer, prompt: what to continue, and with what.
        beams: texts kept at each step.
        max_new_tokens: length of the continuations.

    Returns:
        `beams` generations (fewer if there are not as many texts), the likeliest first; `sample`
        is the rank.

    Raises:
        BadInputError: the prompt does not fit, or prompt and continuation exceed the context.
    """
    ids = prompt_ids(model, tokenizer, prompt)
    context, vocab_size = model.config.context_length, tokenizer.vocab_size
    if len(ids) + max_new_tokens > context:
        raise BadInputError(
            f"beam search over {len(ids):,} + {max_new_tokens:,} tokens exceeds the context of "
            f"{context:,}",
            f"Use --max-new-tokens {max(1, context - len(ids))} or a shorter prompt",
        )
    if not 1 <= beams <= 1024:
        raise BadInputError(f"beams is {beams}", "Choose --beams from 1 to 1024")
    weight = model.embedding.weight
    with torch.inference_mode(), evaluating(model):
        cache = KVCache(model.config, 1, context, weight.device, weight.dtype)
        logits = model(torch.tensor([ids], device=weight.device), cache=cache, last_only=True)
        totals = torch.zeros(1, dtype=torch.float64, device=weight.device)
        texts: list[list[int]] = [[]]
        for step in range(max_new_tokens):
            steps = logits[:, -1, :vocab_size].double().log_softmax(dim=-1)
            if tokenizer.unknown_id is not None:
                steps[:, tokenizer.unknown_id] = -torch.inf
            candidates = (totals[:, None] + steps).flatten()
            kept = int(min(beams, int((candidates > -torch.inf).sum())))
            if not kept:
                raise BadInputError("the model gives NaN logits", "Use another checkpoint")
            totals, best = candidates.topk(kept)
            rows = (best // vocab_size).tolist()
            tokens = (best % vocab_size).tolist()
            texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=True)]
            if step < max_new_tokens - 1:
                cache.select(rows)
                newest = torch.tensor(tokens, device=weight.device)[:, None]
                logits = model(newest, cache=cache)
    return [
        Generation(prompt, ids, rank, ids=text, text=tokenizer.decode(text))
        for rank, text in enumerate(texts)
    ]
