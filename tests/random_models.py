"""Models of random shapes, for property tests of what computes the same as the plain model."""

import torch
from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.model import Transformer


@st.composite
def model_configs(draw, context_length):
    """Both architectures, tied or not, shared keys, widths that fill vectors and odd ones."""
    gpt2 = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    kv = heads if gpt2 else draw(st.sampled_from([n for n in (1, 2, 3, 6) if heads % n == 0]))
    # Heads of whole vectors and others, for processors with vectors of 4, 8 and 16.
    head_dim = draw(st.sampled_from([2, 4, 6, 8, 10, 16, 32, 48, 64, 128]))
    return ModelConfig(
        vocab_size=draw(st.sampled_from([1, 3, 17, 32, 65, 71])), context_length=context_length,
        n_layers=draw(st.integers(1, 3)), n_heads=heads, n_kv_heads=kv, head_dim=head_dim,
        d_ff=draw(st.sampled_from([1, 5, 24, 64, 99, 100])),
        d_model=heads * head_dim if gpt2 else draw(st.sampled_from([3, 6, 32, 33, 64, 80])),
        architecture="gpt2" if gpt2 else "qwen3", tie_embeddings=draw(st.booleans()),
    )  # fmt: skip


def built(config, seed=0):
    """A model in eval mode whose gains and biases differ from 1 and 0."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 2 else 0.4))
    return model
