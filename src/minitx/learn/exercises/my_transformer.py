"""Your transformer at work: your tokenizer, your model, your loop, your sampler, your map.

Everything here is yours but the text, which comes with Python, and the optimizer. When all
exercises have passed, run it; 400 steps take less than a minute:

    python my_transformer.py
    python my_transformer.py 2000

minitx trains it as well, on any text, and shows it as any other:

    minitx train corpus.txt --model my_transformer.py
"""

from __future__ import annotations

import math
import sys
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from minitx.learn.exercises.attention_map import weight_at_distance
from minitx.learn.exercises.causal_weights import attention_weights, causal_mask
from minitx.learn.exercises.encode_text import decode, encode
from minitx.learn.exercises.generate_tokens import generate
from minitx.learn.exercises.learn_merges import learn_merges
from minitx.learn.exercises.next_token_loss import next_token_loss, perplexity
from minitx.learn.exercises.rotary_positions import rotary_angles, rotate
from minitx.learn.exercises.scaled_scores import scaled_scores
from minitx.learn.exercises.several_heads import split_heads
from minitx.learn.exercises.top_k import keep_top_k, with_temperature
from minitx.learn.exercises.top_p import keep_top_p
from minitx.learn.exercises.warmup_and_decay import train
from minitx.learn.exercises.whole_model import Model

CONTEXT = 64


def model(config: Any) -> Model:
    """What `minitx train --model my_transformer.py` trains."""
    return Model(config.vocab_size, config.d_model, config.n_heads, config.d_ff, config.n_layers)


def draw(logits: Tensor) -> Tensor:
    """Ids `(B,)`, drawn from logits `(B, vocab_size)`."""
    shaped = keep_top_p(keep_top_k(with_temperature(logits, 0.8), 40), 0.95)
    return torch.multinomial(shaped.softmax(-1), 1)[:, 0]


def first_layer_weights(own: Model, ids: Tensor) -> Tensor:
    """Attention weights `(H, T, T)` of the first block on ids `(T,)`."""
    block: Any = own.blocks[0]
    attention = block.attention
    parts = attention.qkv(block.attention_norm(own.embedding(ids[None]))).chunk(3, dim=-1)
    angles = rotary_angles(torch.arange(len(ids)), own.head_dim, 10_000.0)
    queries, keys, _ = (split_heads(part, attention.n_heads) for part in parts)
    queries = rotate(attention.query_norm(queries), angles)
    keys = rotate(attention.key_norm(keys), angles)
    weights = attention_weights(scaled_scores(queries, keys), causal_mask(len(ids), len(ids)))
    return weights[0]


def main(steps: int) -> None:
    """Train, measure, write, and look inside."""
    torch.manual_seed(0)
    text = "".join(topics.values())[:60_000]
    merges = learn_merges(text[:20_000], 128)
    ids = torch.tensor(encode(text, merges))
    print(f"{len(text.encode()):,} bytes are {len(ids):,} tokens of {256 + len(merges)} kinds")
    train_ids, held_out = ids[: -8 * CONTEXT], ids[-8 * CONTEXT :].view(8, CONTEXT)

    own = Model(256 + len(merges), d_model=64, n_heads=4, d_ff=192, n_layers=2)
    starts = torch.randint(len(train_ids) - CONTEXT, (steps, 16))
    batches = [torch.stack([train_ids[i : i + CONTEXT] for i in row]) for row in starts.tolist()]
    optimizer = torch.optim.AdamW(own.parameters(), weight_decay=0.1)
    losses = train(own, optimizer, batches, max(1, steps // 10), 3e-3)
    print(f"ln(vocabulary) is {math.log(256 + len(merges)):.2f}; the loss went", end=" ")
    print(*(f"{loss:.2f}" for loss in losses[:: max(1, steps // 8)]), sep=", ")
    with torch.no_grad():
        loss = next_token_loss(own(held_out), held_out).item()
    print(f"on text it has not seen: {loss:.2f}, a perplexity of {perplexity(loss):.1f}\n")

    prompt = torch.tensor([encode("The ", merges)])
    print(decode(generate(own, prompt, 120, CONTEXT, draw)[0].tolist(), merges), "\n")
    with torch.no_grad():
        weights = first_layer_weights(own, held_out[0, :24])
    for head, square in enumerate(weights):
        print(f"head {head}: {weight_at_distance(square, 1):.2f} on the token before")
    for row in weights[0].tolist():
        print("".join(" .:-=+*#%@"[min(9, int(10 * weight))] * 2 for weight in row))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
