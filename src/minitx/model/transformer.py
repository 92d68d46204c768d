"""The transformer, all of it: token ids in, logits of the next token out.

    ids -> embedding -> block 0 -> ... -> block n-1 -> norm -> head -> logits

Families: `qwen3` (rotary positions, RMSNorm, SwiGLU, query/key norm, no biases), `llama` and
`mistral` (without that norm), `qwen2` (instead, biases on queries, keys and values), and `gpt2`
(learned positions, LayerNorm, GELU, biases). `minitx.fast` is tested against it. Letters of shapes:

    B  rows of a batch           D  width of the residual stream
    T  new tokens in each row    H  query heads, K  key/value heads
    S  tokens to look at         W  width of a head
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.model.kv_cache import KVCache
from minitx.model.rope_scaling import slowed
from minitx.model.trace import Trace

IGNORED = -100  # a target that counts for no loss
STANDARD_DEVIATION = 0.02  # at the start (Radford et al. 2018, GPT, section 4.1)
_CPU_LOGITS, _GPU_LOGITS = 2**20, 2**26  # at once, in `token_losses`


@dataclass
class Pass:
    """What all layers share in one forward pass.

    Attributes:
        positions: of the new tokens: `(T,)`, or `(B, T)` where the rows differ.
        mask: True where a query may look: `(T, S)`, or `(B, 1, T, S)` where the rows differ. None:
            everywhere, or, if `is_causal`, at its own position and before.
        is_causal: the mask is the one that the kernel has built in.
        rotary: cosine and sine of the angles at `positions`, `(..., 1, W)`; None for gpt2.
        cache: the keys and values so far; None without one.
        trace: to be filled in; None if nobody looks.
    """

    positions: Tensor
    mask: Tensor | None = None
    is_causal: bool = False
    rotary: tuple[Tensor, Tensor] | None = None
    cache: KVCache | None = None
    trace: Trace | None = None


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query may look: at its own position and before, `(queries, keys)`.

    The queries are the last of the keys' positions.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


@functools.lru_cache(maxsize=4096)
def _is_built_in(mask: Callable[[int, int], Tensor], queries: int, keys: int) -> bool:
    return mask(queries, keys).equal(torch.ones(queries, keys).tril(keys - queries).bool())


def eager_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(W)) V, with the weights to be seen.

    Each position asks with a query, offers a key, and holds a value. Query times key is a score;
    the softmax of a position's scores are its weights; the sum of the values, each times its
    weight, is what it gets (Vaswani et al. 2017, section 3.2).

    Args:
        queries, keys, values: `(B, H, T, W)`, and twice `(B, H, S, W)`.
        mask: True where a query may look; broadcasts to `(B, H, T, S)`. None: everywhere.
        dropout: probability of dropping a weight.

    Returns:
        The outputs `(B, H, T, W)`, and the weights before dropout `(B, H, T, S)`.
    """
    # Scaling keeps the scores' variance near 1 whatever the width, and the softmax soft.
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.size(-1))
    if mask is not None:
        # exp(-inf) is 0: what must not be seen gets a weight of exactly 0.
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout) @ values, weights


def rotary_table(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype = torch.float32,
    scaling: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cosine and sine of the angle of each position (Su et al. 2021, RoFormer, section 3.2).

    A head's vector is read as W / 2 points in the plane, and each point is turned by an angle
    proportional to the position. The product of a turned query and a turned key then depends on
    how far apart the two tokens are, and not on where they stand.

    Args:
        positions: `(...)`.
        head_dim: W; even.
        theta: pair i turns by theta^(-2i / W) a position: the first by one radian, later ones
            ever more slowly.
        dtype: float32 or float64.
        scaling: as `ModelConfig.rope_scaling`.

    Returns:
        Two tensors `(..., W)`. Elements i and i + W / 2 make up a pair: each angle stands twice.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=dtype, device=positions.device)
    angles = positions[..., None] * slowed(1.0 / theta ** (pairs / head_dim), scaling)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of x, `(..., W)`, by its angle: (a, b) to (a cos - b sin, b cos + a sin).

    The rows of the tables broadcast to x.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine.to(x.dtype) + torch.cat((-second, first), dim=-1) * sine.to(x.dtype)


class Attention(nn.Module):
    """Queries, keys and values from one matrix, rows in this order; attend; project back.

    With K < H, neighbouring query heads share a key/value head (Ainslie et al. 2023, GQA).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        is_gpt2 = config.architecture == "gpt2"
        rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.d_model, rows, bias=config.qkv_bias)
        self.output = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=is_gpt2)
        # Queries and keys of fixed size keep scores from growing without bound in training
        # (Henry et al. 2020).
        normed, size, eps = config.query_key_norm, config.head_dim, config.norm_eps
        self.query_norm = RMSNorm(size, eps) if normed else None
        self.key_norm = RMSNorm(size, eps) if normed else None

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        batch, new, _ = x.shape
        heads = self.qkv(x).view(batch, new, -1, self.head_dim)
        sizes = [self.n_heads, self.n_kv_heads, self.n_kv_heads]
        queries, keys, values = torch.split(heads, sizes, dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if shared.rotary is not None:
            queries, keys = rotate(queries, *shared.rotary), rotate(keys, *shared.rotary)
        # (B, T, heads, W) to (B, heads, T, W)
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        if shared.cache is not None:
            keys, values = shared.cache.append(self.layer, keys, values)
        group = self.n_heads // self.n_kv_heads
        if group > 1:
            keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
        dropout = self.dropout if self.training else 0.0
        if shared.trace is None:
            # softmax(Q K^T / sqrt(W)) V in one kernel, in memory that grows with the length and
            # not with its square (Dao et al. 2022, FlashAttention, section 3).
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, shared.mask, dropout, shared.is_causal
            )
        else:
            mixed, weights = eager_attention(queries, keys, values, shared.mask, dropout)
            shared.trace.add(queries, keys, values, weights, mixed)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, new, -1))
        return out


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times a learned gain (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension: `(..., width)` to `(..., width)`."""
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * self.gain.to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(variance(x) + eps), times a gain, plus a bias (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension: `(..., width)` to `(..., width)`."""
        gain, bias = self.gain.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, x.shape[-1:], gain, bias, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are halves of a matrix (Shazeer 2020, section 2)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class GELUMLP(nn.Module):
    """GPT-2's MLP: down(gelu(up(x))), with biases (Hendrycks and Gimpel 2016, section 2)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Pre-norm residual block (Xiong et al. 2020, section 3): x + f(norm(x)), twice.

    What a layer writes is added, so that gradients and early features pass through unhindered.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm, mlp = (LayerNorm, GELUMLP) if config.architecture == "gpt2" else (RMSNorm, SwiGLU)
        self.attention_norm = norm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config.d_model, config.norm_eps)
        self.mlp = mlp(config.d_model, config.d_ff)
        self.dropout = config.dropout

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        """`(B, T, D)` to `(B, T, D)`."""
        attended = self.attention(self.attention_norm(x), shared)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class Transformer(nn.Module):
    """A decoder-only transformer of a shape; its weights are drawn from torch's generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        is_gpt2 = config.architecture == "gpt2"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model) if is_gpt2 else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = (LayerNorm if is_gpt2 else RMSNorm)(config.d_model, config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            # What a token looks like going in is what is looked for coming out
            # (Press and Wolf 2017).
            self.head.weight = self.embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        # Matrices that write to the residual stream start smaller by sqrt(2 n_layers), so that
        # the stream's size does not grow with depth (Radford et al. 2019, GPT-2, section 2.3).
        # Norm gains stay 1; biases become 0.
        residual = STANDARD_DEVIATION / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
                nn.init.normal_(parameter, std=residual if writes else STANDARD_DEVIATION)

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        lengths: Tensor | None = None,
        last_only: bool = False,
        trace: Trace | None = None,
    ) -> Tensor:
        """Logits of the token that follows each position.

        Args:
            ids: `(B, T)` int64.
            cache: keys and values of what came before; these tokens are appended to it.
            lengths: `(B,)` how many of each row's tokens are real; the rest is padding, whose
                logits mean nothing. None if all are.
            last_only: compute logits only for the last real token of each row.
            trace: filled with what happened inside; attention is then `eager_attention`.

        Returns:
            `(B, T, vocab_size)`, or `(B, 1, vocab_size)` with `last_only`.

        Raises:
            BadInputError: the sequence is longer than the context, or than the cache has room.
        """
        x = self.residual_stream(ids, cache, lengths, trace)
        if last_only:
            last = ids.size(1) - 1 if lengths is None else lengths.to(x.device) - 1
            x = x[torch.arange(len(ids), device=x.device), last].unsqueeze(1)
        return self.unembed(x)

    def residual_stream(
        self, ids: Tensor, cache: KVCache | None, lengths: Tensor | None, trace: Trace | None
    ) -> Tensor:
        """The residual stream after the last block, `(B, T, D)`; arguments as in `forward`."""
        shared = self.new_pass(ids, cache, trace)
        x: Tensor = self.embedding(ids)
        if self.positions is not None:
            x = x + self.positions(shared.positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            if trace is not None:
                trace.residual.append(x)
            x = block(x, shared)
        if trace is not None:
            trace.residual.append(x)
        if cache is not None:
            cache.advance(ids.size(1) if lengths is None else lengths)
        return x

    def unembed(self, x: Tensor) -> Tensor:
        """Logits that a residual stream `(..., D)` stands for: `(..., vocab_size)`."""
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per target: -log softmax(logits)[target]; a scalar.

        Args:
            ids: `(B, T)`.
            targets: `(B, T)`: the token that follows each position; `IGNORED` is left out.
        """
        logits = self(ids).flatten(0, 1)
        # Half precision is too coarse for a softmax over many tokens.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)

    def token_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each target in nats, `(B, T)` float32; 0 where `IGNORED`."""
        x = self.residual_stream(ids, None, None, None).flatten(0, 1)
        # In slices: the logits of many tokens over a large vocabulary are slow to write and read.
        n_tokens = max(1, (_CPU_LOGITS if x.is_cpu else _GPU_LOGITS) // self.config.vocab_size)
        slices = zip(
            torch.split(x, n_tokens), torch.split(targets.flatten(), n_tokens), strict=True
        )
        losses = [F.cross_entropy(self.unembed(x).float(), t, reduction="none") for x, t in slices]
        return torch.cat(losses).view(targets.shape)

    def new_pass(self, ids: Tensor, cache: KVCache | None, trace: Trace | None) -> Pass:
        """What the layers share in a pass over ids `(B, T)`; errors as in `forward`."""
        new, config, device = ids.size(1), self.config, ids.device
        if new > config.context_length:
            what = f"{new:,} tokens are longer than the context of {config.context_length:,}"
            raise BadInputError(what, "Give fewer")
        if cache is not None:
            cache.require_room(new)
        start = 0 if cache is None else cache.common_length
        positions = torch.arange(new, device=device)
        if start is not None:
            shared = Pass(positions + start, cache=cache, trace=trace)
            # Only the plain mask is built into the kernel; one that was changed is always used.
            is_plain = trace is None and _is_built_in(causal_mask, new, new + start)
            shared.is_causal = is_plain and start == 0 and new > 1
            if not is_plain or (new > 1 and start):
                shared.mask = causal_mask(new, new + start, device)
        else:
            # Rows that stand at different positions have rows of the mask of their own.
            assert cache is not None
            shared = Pass(cache.lengths.to(device)[:, None] + positions, cache=cache, trace=trace)
            n_keys = cache.longest + new
            shared.mask = causal_mask(n_keys, n_keys, device)[shared.positions].unsqueeze(1)
        if self.positions is None:
            precision = torch.promote_types(self.embedding.weight.dtype, torch.float32)
            where = shared.positions[..., None]  # the same for all heads
            theta, scaling = config.rope_theta, config.rope_scaling
            shared.rotary = rotary_table(where, config.head_dim, theta, precision, scaling)
        return shared
