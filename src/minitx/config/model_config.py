"""The shape of a transformer."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from typing import Literal

from minitx.config.checks import require, require_range
from minitx.config.options import FRACTION, MODEL, Config, option

Architecture = Literal["qwen3", "gpt2", "llama", "qwen2", "mistral"]


@dataclass(frozen=True)
class ModelConfig(Config):
    """Everything needed to build the network; weights aside, two equal configs are one model.

    Raises:
        BadInputError: a value is out of range, or two don't fit together.
    """

    # fmt: off
    vocab_size: int = option(MISSING, "Number of token ids.", within=(1, 2**24), flag=None)
    context_length: int = option(
        MISSING, "Context length: the longest sequence, in tokens, that the model is trained on.",
        MODEL, (1, 2**20), flag="context",
    )
    n_layers: int = option(
        MISSING, "Blocks on the residual stream.", MODEL, (1, 1024), flag="layers"
    )
    n_heads: int = option(
        MISSING, "Query heads in each attention layer.", MODEL, (1, 1024), flag="heads"
    )
    n_kv_heads: int = option(
        MISSING, "Key/value heads; fewer than query heads is grouped-query attention.", MODEL,
        (1, 1024), details="Ainslie et al. 2023. `gpt2` has as many as query heads.",
        flag="kv-heads",
    )
    d_model: int = option(MISSING, "Width of the residual stream.", MODEL, (1, 2**16))
    d_ff: int = option(MISSING, "Width of the MLP's hidden layer.", MODEL, (1, 2**20))
    head_dim: int = option(MISSING, "Width of one head.", MODEL, (1, 2**16))
    architecture: Architecture = option(
        "qwen3", "Family of the model.", MODEL,
        details="`qwen3`: RMSNorm, rotary embeddings, query/key norm, SwiGLU, no biases. `llama` "
        "and `mistral`: the same without that norm. `qwen2`: instead of it, biases on queries, "
        "keys and values. `gpt2`: LayerNorm, learned positions, GELU, biases. There are kernels "
        "for `qwen3` and `gpt2`; the others run plain.",
    )
    tie_embeddings: bool = option(
        True, "Share one matrix between the embedding and the output head.", MODEL,
        off_flag="untie-embeddings",
    )
    dropout: float = option(
        0.0, "Probability of zeroing an element, in training only.", MODEL, (0.0, 0.95),
        details="After the embedding, on attention weights, and on what each layer adds to the "
        "residual stream.",
    )
    rope_theta: float = option(
        10_000.0, "Base of the rotary frequencies.", within=(1.0, 1e12),
        details="Su et al. 2021, section 3.4; not in gpt2.", flag=None,
    )
    rope_scaling: tuple[float, ...] | None = option(
        None, "How rotary frequencies were slowed for a longer context, in models from elsewhere.",
        details="A factor (Chen et al. 2023), or as Llama 3.1: factor, low and high frequency "
        "factor, and the context before.", flag=None,
    )
    norm_eps: float = option(
        1e-6, "Added to the variance in every norm.", within=FRACTION, flag=None
    )
    end_id: int | None = option(
        None, "The token that ends a document; none if it was trained on one text.",
        within=(0, 2**24), flag=None,
    )
    code_file: str | None = option(
        None, "The Python file that a model of one's own is from; none for a model of minitx.",
        flag=None,
    )
    code_digest: str | None = option(
        None, "SHA-256 of that file, and of those beside it that it imports.", flag=None
    )
    code_parameters: int | None = option(
        None, "How many parameters that model has.", within=(0, 2**62), flag=None
    )
    # fmt: on

    def check(self) -> None:
        """Refuse shapes that can't be built, before any memory is allotted."""
        divisors = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
        require(
            self.n_kv_heads in divisors,
            f"n_kv_heads is {self.n_kv_heads}, more than n_heads {self.n_heads}"
            if self.n_kv_heads > self.n_heads
            else f"n_kv_heads {self.n_kv_heads} does not divide n_heads {self.n_heads}",
            f"Use --kv-heads {max(n for n in divisors if n <= self.n_kv_heads)}",
        )
        scaling = self.rope_scaling or (1.0,)
        require(
            len(scaling) in (1, 4) and all(map(_is_positive, scaling))
            and (len(scaling) < 4 or scaling[1] < scaling[2]),
            f"rope_scaling is {list(scaling)}",
            "Give a factor, or a factor, a lower and a higher frequency factor, and a context",
        )  # fmt: skip
        if self.architecture == "gpt2":
            other = ", or use --architecture qwen3" if self.head_dim % 2 == 0 else ""
            require(
                self.n_kv_heads == self.n_heads,
                f"architecture gpt2 has no grouped-query attention, got n_kv_heads "
                f"{self.n_kv_heads} for n_heads {self.n_heads}",
                f"Leave out --kv-heads{other}",
            )
            require(
                self.head_dim * self.n_heads == self.d_model,
                f"architecture gpt2 needs d_model = n_heads x head_dim, got {self.d_model} for "
                f"{self.n_heads} x {self.head_dim}",
                f"Leave out --head-dim{other}",
            )
        else:
            require(
                self.head_dim % 2 == 0,
                f"head_dim {self.head_dim} is odd, and rotary embeddings turn pairs",
                f"Use --head-dim {self.head_dim + 1}",
            )
        if self.architecture == "llama":
            require(
                self.d_model % self.n_heads == 0,
                f"architecture llama needs n_heads to divide d_model, got {self.n_heads} and "
                f"{self.d_model}",
                f"Use --d-model {self.n_heads * max(1, self.d_model // self.n_heads)}",
            )

    @property
    def family(self) -> str:
        """What a model is called by: its architecture, or the file that it is from."""
        return self.code_file or self.architecture

    @property
    def query_key_norm(self) -> bool:
        """Whether queries and keys are normalized."""
        return self.architecture == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.architecture in ("gpt2", "qwen2")

    @property
    def n_parameters(self) -> int:
        """Number of trainable numbers, a shared embedding counted once."""
        if self.code_parameters is not None:
            return self.code_parameters
        d, block = self.d_model, self.block_matrices
        embeddings = self.vocab_size * d * (1 if self.tie_embeddings else 2)
        if self.architecture == "gpt2":
            biases = 3 * d + d + self.d_ff + d
            block += biases + 4 * d
            return self.n_layers * block + embeddings + self.context_length * d + 2 * d
        block += 2 * d
        if self.query_key_norm:
            block += 2 * self.head_dim
        if self.qkv_bias:
            block += (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        return self.n_layers * block + embeddings + d

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token at full context.

        Six for each matrix weight (forward 2, backward 4) and the attention products, as counted
        in PaLM (Chowdhery et al. 2022, appendix B), with the causal half of the square.
        """
        matrices = self.n_layers * self.block_matrices + self.vocab_size * self.d_model
        attention = self.n_layers * self.n_heads * self.head_dim * self.context_length
        return 6.0 * matrices + 6.0 * attention

    @property
    def block_matrices(self) -> int:
        """Number of weights in the matrices of one block."""
        heads = 2 * self.n_heads + 2 * self.n_kv_heads  # query, output, key, value
        mlp = 2 if self.architecture == "gpt2" else 3
        return self.d_model * (heads * self.head_dim + mlp * self.d_ff)


def _is_positive(number: float) -> bool:
    return math.isfinite(number) and number > 0


def derive_head_dim(d_model: int, n_heads: int) -> int:
    """Width of one head when the heads share the residual width evenly, or a BadInputError."""
    require_range("n_heads", n_heads, 1, 1024)
    # Rotary embeddings turn pairs, so each head is to have an even width.
    pairs = max(1, min(round(d_model / (2 * n_heads)), 2**16 // (2 * n_heads)))
    require(
        d_model % n_heads == 0,
        f"n_heads {n_heads} does not divide d_model {d_model}",
        f"Use --d-model {pairs * 2 * n_heads}",
    )
    return d_model // n_heads
