import pytest

from minitx.config import ModelConfig
from minitx.config.model_config import derive_head_dim
from minitx.errors import BadInputError

GOOD = {
    "vocab_size": 66, "context_length": 8, "n_layers": 1, "n_heads": 4, "n_kv_heads": 4,
    "d_model": 16, "d_ff": 32, "head_dim": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads 3 does not divide n_heads 4"),
        ({"head_dim": 3}, "head_dim 3 is odd"),
        ({"d_model": 10**12}, "d_model is 1000000000000, outside 1 to 65,536"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"n_layers": True}, "n_layers is True"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"architecture": "bert"}, "architecture is 'bert'"),
        ({"architecture": "llama", "d_model": 30}, "llama needs n_heads to divide d_model"),
        ({"architecture": "gpt2", "n_kv_heads": 2}, "no grouped-query attention"),
        ({"architecture": "gpt2", "head_dim": 8}, "d_model = n_heads x head_dim"),
    ],
)
def test_shapes_that_cannot_be_built(change, told):
    with pytest.raises(BadInputError, match=told):
        ModelConfig(**{**GOOD, **change})


def test_heads_must_divide_the_width():
    assert derive_head_dim(384, 6) == 64
    with pytest.raises(BadInputError, match="n_heads 5 does not divide d_model 384") as caught:
        derive_head_dim(384, 5)
    # Heads 77 wide, as in 385, are refused: rotary embeddings turn pairs.
    assert "--d-model 380" in caught.value.fix
