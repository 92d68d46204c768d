"""Models of which many tests make some."""

import dataclasses

from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.model import transformer
from minitx.model.transformer import Attention

SHAPE = ModelConfig(
    vocab_size=29, context_length=12, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, d_ff=24,
    head_dim=4, dropout=0.1,
)  # fmt: skip
LLAMA = dataclasses.replace(SHAPE, architecture="llama", rope_scaling=(8.0, 1.0, 4.0, 6.0))
QWEN2 = dataclasses.replace(SHAPE, architecture="qwen2")
GPT2 = dataclasses.replace(SHAPE, architecture="gpt2", n_kv_heads=4)


@st.composite
def configs(draw, dropout=st.sampled_from([0.0, 0.2])):
    """Any small model."""
    is_gpt2 = draw(st.booleans())
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    head_dim = draw(st.integers(1, 9)) * (1 if is_gpt2 else 2)
    return ModelConfig(
        architecture="gpt2" if is_gpt2 else "qwen3",
        vocab_size=draw(st.integers(2, 60)),
        context_length=draw(st.integers(1, 40)),
        n_layers=draw(st.integers(1, 3)),
        n_heads=heads,
        n_kv_heads=heads if is_gpt2 else kv_heads,
        d_model=heads * head_dim if is_gpt2 else draw(st.integers(1, 33)),
        d_ff=draw(st.integers(1, 50)),
        head_dim=head_dim,
        tie_embeddings=draw(st.booleans()),
        dropout=draw(dropout),
    )


class WindowedAttention(Attention):
    """A student's: each token sees the last eight."""

    def forward(self, x, shared):
        size = x.size(1)
        mask = transformer.causal_mask(size, size).triu(-7)
        return super().forward(x, dataclasses.replace(shared, mask=mask, is_causal=False))
