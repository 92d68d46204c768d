"""Multi-head causal self-attention: how a position gathers what earlier positions know.

Each position asks with a query, offers a key, and holds a value. Query times key is a score; the
softmax of a position's scores are its weights; the weighted sum of the values is what it gets
(Vaswani et al. 2017, section 3.2). The causal mask sets the scores of later positions to minus
infinity, so that their weights are exactly 0.

Two forms compute the same: `explicit_attention`, in which the weights can be seen, and
`fused_attention`, one kernel that never stores them. In training on a CPU a third does:
`fast.attend`, compiled in one kernel with the norm and the rotation of queries and keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitx.config import ModelConfig
from minitx.model.fast import attend, can_attend, norm_and_rotate, use_fast
from minitx.model.fast import dropout as drop
from minitx.model.kv_cache import KVCache
from minitx.model.norms import RMSNorm
from minitx.model.rotary import rotate
from minitx.model.trace import Trace


@dataclass
class AttentionContext:
    """What is the same for all layers in one forward pass.

    Attributes:
        fused: use the fused form.
        compiled: use the compiled kernel where it can be: in training, over a whole sequence,
            without dropout, and with nobody looking.
        cosine, sine: rotary tables at the queries' positions, `(seq, head_dim)`, or
            `(batch, seq, head_dim)` where rows stand at different positions; None for gpt2.
        mask: True where a query may look, `(queries, keys)` or `(batch, 1, queries, keys)`; None
            if each query may look at every key there is.
        square: the mask is the plain causal one over as many queries as keys.
        cache: keys and values so far; None without one.
        places: where each row's new positions go in the cache, `(batch, seq)`, if rows differ.
        trace: to be filled; None if nobody looks.
        ablated_heads: (layer, head) pairs that are switched off.
    """

    fused: bool
    compiled: bool = False
    cosine: Tensor | None = None
    sine: Tensor | None = None
    mask: Tensor | None = None
    square: bool = True
    cache: KVCache | None = None
    places: Tensor | None = None
    trace: Trace | None = None
    ablated_heads: frozenset[tuple[int, int]] = frozenset()


def causal_mask(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query may look: at its own position and before, `(queries, keys)`.

    The queries are the last of the keys' positions.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def explicit_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention as the paper writes it.

    Args:
        queries: `(batch, n_heads, queries, head_dim)`.
        keys, values: `(batch, n_heads, keys, head_dim)`.
        mask: True where a query may look; broadcasts to `(batch, n_heads, queries, keys)`.
        dropout: probability of dropping a weight.

    Returns:
        The outputs `(batch, n_heads, queries, head_dim)`, and the weights before dropout
        `(batch, n_heads, queries, keys)`.
    """
    # Scaling keeps the scores' variance near 1 whatever the width, and the softmax soft.
    scores = (queries * (1.0 / math.sqrt(queries.size(-1)))) @ keys.transpose(-2, -1)
    if mask is not None:
        # Adding minus infinity is what the paper says, and is faster than filling it in.
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -math.inf)
    weights = scores.softmax(dim=-1)
    kept = drop(weights, dropout) if dropout else weights
    return kept @ values, weights


def fused_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """The same outputs from one kernel, in memory that grows with the length, not its square.

    Dao et al. 2022, FlashAttention, section 3. A mask of None is the causal one if there are as
    many queries as keys, and else lets every query look everywhere.
    """
    square = mask is None and queries.size(-2) == keys.size(-2)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=square
    )


class Attention(nn.Module):
    """One layer of attention: project, look, project back.

    Queries, keys and values come from one matrix, rows in this order. With fewer key/value heads
    than query heads, neighbouring query heads share one (Ainslie et al. 2023, GQA).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        biased = config.architecture == "gpt2"
        rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.d_model, rows, bias=biased)
        self.output = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=biased)
        normed = config.architecture == "qwen3"
        # Queries and keys of fixed size keep scores from growing without bound in training
        # (Henry et al. 2020).
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if normed else None

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """`(batch, seq, d_model)` to `(batch, seq, d_model)`."""
        batch, seq, _ = x.shape
        qkv = self.qkv(x)
        if self._can_attend(qkv, context):
            return self._attend(qkv, context)
        queries, keys, values = self._split(qkv, context)
        if context.cache is not None:
            keys, values = self._remember(keys, values, context)
        if self.n_kv_heads < self.n_heads:
            group = self.n_heads // self.n_kv_heads
            keys = keys.repeat_interleave(group, dim=1)
            values = values.repeat_interleave(group, dim=1)
        dropout = self.dropout if self.training else 0.0
        if context.fused and (context.square or context.mask is not None or seq == 1):
            mask = None if context.square else context.mask
            heads = fused_attention(queries, keys, values, mask, dropout)
        else:
            heads, weights = explicit_attention(queries, keys, values, context.mask, dropout)
            if context.trace is not None:
                _record(context.trace, queries, keys, values, weights)
        if context.ablated_heads:
            heads = self._ablate(heads, context.ablated_heads)
        if context.trace is not None:
            context.trace.head_outputs.append(heads)
        out: Tensor = self.output(heads.transpose(1, 2).reshape(batch, seq, -1))
        return out

    def _can_attend(self, qkv: Tensor, context: AttentionContext) -> bool:
        if not context.compiled or context.ablated_heads or (self.training and self.dropout):
            return False
        gain = None if self.query_norm is None else self.query_norm.gain
        return can_attend(qkv, gain, context.cosine)

    def _attend(self, qkv: Tensor, context: AttentionContext) -> Tensor:
        gains = tables = None
        eps = 0.0
        if self.query_norm is not None and self.key_norm is not None:
            assert context.cosine is not None
            assert context.sine is not None
            gains, tables = (
                (self.query_norm.gain, self.key_norm.gain),
                (context.cosine, context.sine),
            )
            eps = self.query_norm.eps
        out: Tensor = self.output(attend(qkv, self.n_heads, self.n_kv_heads, gains, tables, eps))
        return out

    def _split(self, qkv: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor, Tensor]:
        # Each (batch, heads, seq, head_dim).
        batch, seq, _ = qkv.shape
        split = qkv.view(batch, seq, -1, self.head_dim)
        # Split, not sliced: on the way back the gradients are then joined, not added up.
        sizes = [self.n_heads, self.n_kv_heads]
        both, values = torch.split(split, [sum(sizes), self.n_kv_heads], dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            both = self._norm_and_rotate(both, self.query_norm, self.key_norm, context)
        queries, keys = torch.split(both, sizes, dim=2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def _norm_and_rotate(
        self, x: Tensor, query_norm: RMSNorm, key_norm: RMSNorm, context: AttentionContext
    ) -> Tensor:
        # Queries and keys together, (batch, seq, heads, head_dim): half the number of operations.
        cosine, sine = context.cosine, context.sine
        assert cosine is not None
        assert sine is not None
        gains = torch.cat(
            (
                query_norm.gain.expand(self.n_heads, -1),
                key_norm.gain.expand(self.n_kv_heads, -1),
            )
        )
        if use_fast(x) and cosine.dim() == 2:
            return norm_and_rotate(x, gains, cosine, sine, query_norm.eps)
        x = F.rms_norm(x, x.shape[-1:], None, query_norm.eps) * gains.to(x.dtype)
        return rotate(x, cosine.unsqueeze(-2), sine.unsqueeze(-2))

    def _remember(
        self, keys: Tensor, values: Tensor, context: AttentionContext
    ) -> tuple[Tensor, Tensor]:
        # Write the new positions, and return all that there are, old and new.
        cache = context.cache
        assert cache is not None
        all_keys, all_values = cache.keys[self.layer], cache.values[self.layer]
        if context.places is None:
            start = cache.common_length
            assert start is not None
            end = start + keys.size(2)
            all_keys[:, :, start:end] = keys
            all_values[:, :, start:end] = values
        else:
            rows = torch.arange(keys.size(0), device=keys.device)[:, None]
            all_keys[rows, :, context.places] = keys.transpose(1, 2).to(all_keys.dtype)
            all_values[rows, :, context.places] = values.transpose(1, 2).to(all_values.dtype)
            assert context.mask is not None
            end = context.mask.size(-1)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def _ablate(self, heads: Tensor, ablated: frozenset[tuple[int, int]]) -> Tensor:
        here = [head for layer, head in ablated if layer == self.layer]
        if not here:
            return heads
        return heads.index_fill(1, torch.tensor(here, device=heads.device), 0.0)


def _record(trace: Trace, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> None:
    trace.queries.append(queries)
    trace.keys.append(keys)
    trace.values.append(values)
    trace.attention.append(weights)
