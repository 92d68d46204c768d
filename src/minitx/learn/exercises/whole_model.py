"""The model

Everything is there. Ids become vectors, every block adds to them, a last norm brings them to size
1, and the head compares each with every token of the vocabulary: a score for each, the logit of
that token coming next. Softmax comes later, in the loss or the draw.

    ids (B, T) -> embedding (B, T, D) -> blocks -> norm -> head: logits (B, T, vocab_size)

The angles are computed once, for positions 0 to T - 1 and theta 10,000, with the width of a head.
The head shares its matrix with the embedding: what a token looks like going in is what is looked
for coming out.

Paper: Radford et al. 2018 (GPT), section 3.1; Press and Wolf 2017 (shared matrix).
In minitx: model/transformer.py: Transformer
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitx.learn.exercises.residual_block import Block
from minitx.learn.exercises.rms_norm import RMSNorm
from minitx.learn.exercises.rotary_positions import rotary_angles


class Model(nn.Module):
    """A decoder-only transformer."""

    def __init__(
        self, vocab_size: int, d_model: int, n_heads: int, d_ff: int, n_layers: int
    ) -> None:
        super().__init__()
        self.head_dim = d_model // n_heads
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.norm = RMSNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T)` ids to logits `(B, T, vocab_size)`."""
        x = self.embedding(ids)
        angles = rotary_angles(torch.arange(ids.size(1)), self.head_dim, 10_000.0)
        for block in self.blocks:
            x = block(x, angles)
        logits: Tensor = self.head(self.norm(x))
        return logits


# ---- what the judge reads ------------------------------------------------------------------------

from minitx.learn.exercises.attention_layer import small_config
from minitx.learn.seeded import token_ids, with_weights
from minitx.learn.trial import Calls, Code, Trial
from minitx.model import transformer

HINTS = (
    "x = self.embedding(ids), then x = block(x, angles) for each block, then norm and head.",
    "rotary_angles(torch.arange(T), self.head_dim, 10_000.0); T is ids.size(1).",
)
SLIPS = """
The last norm is missing: the head reads a normalized stream.
    self.norm(x) -> x
It returns probabilities: logits are wanted, and the softmax comes later.
    self.head(self.norm(x)) -> self.head(self.norm(x)).softmax(-1)
Each block reads the embedding, and the work of those before is lost: x = block(x, angles).
    x = block(x, angles) -> x = block(self.embedding(ids), angles)
One block is left out.
    in self.blocks: -> in self.blocks[1:]:
The blocks run in the reverse order.
    in self.blocks: -> in reversed(self.blocks):
All positions are the same: the angles need 0, 1, 2, and so on.
    torch.arange(ids.size(1)) -> torch.zeros(ids.size(1))
theta is not 10,000.
    10_000.0 -> 100.0
What a block gives is added to the stream, which the block has done itself: x = block(x, angles).
    x = block(x, angles) -> x = x + block(x, angles)
The embedding is multiplied by the root of the width, as in Vaswani et al. 2017: here it is not.
    x = self.embedding(ids) -> x = self.embedding(ids) * self.embedding.embedding_dim**0.5
"""


class _Ours(transformer.Transformer):
    def __init__(
        self, vocab_size: int, d_model: int, n_heads: int, d_ff: int, n_layers: int
    ) -> None:
        super().__init__(small_config(d_model, n_heads, d_ff, vocab_size, n_layers))


REFERENCE = Code(Model=_Ours)


def trials(answer: Code) -> Calls:
    """Three blocks with the same weights as minitx's."""
    model = with_weights(answer.Model(11, 8, 2, 12, 3))
    about = "Model(11, 8, 2, 12, 3)(ids), ids (2, 6)"
    yield Trial(about, model, (token_ids(2, 6, vocab_size=11),), is_causal=True)
