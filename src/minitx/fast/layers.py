"""The model in training with the arithmetic of its layers compiled: one pass over memory each way.

On a small model most of the time goes not into matrix products but into what stands between them,
one pass over memory after another. Each function computes what a line of `transformer` says, most
by a kernel of `train_kernels`. The products stay torch's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minitx.fast.profiling import timed
from minitx.fast.support import product_dtype, takes_attention
from minitx.fast.train_kernels import attend, cross_entropy, rms_norm, swiglu
from minitx.model.transformer import (
    IGNORED,
    Attention,
    Block,
    RMSNorm,
    SwiGLU,
    Transformer,
    causal_mask,
    rotary_table,
)

EAGER_UP_TO = {torch.bfloat16: 512, torch.float32: 128}
"""Longest context, in tokens, at which attention with dropout trains faster with its weights
stored than in torch's kernel (`bench/attention_forms.py`)."""

_SIXTEEN_BITS = 2**16  # values of what decides on one element


def embed(model: Transformer, ids: Tensor) -> Tensor:
    """The residual stream `(B, T, D)` before the first block."""
    return timed("embedding", "residual", _embed, model, ids)


def _embed(model: Transformer, ids: Tensor) -> Tensor:
    x: Tensor = model.embedding(ids)
    if model.positions is not None:
        x = x + model.positions(torch.arange(ids.size(1), device=ids.device))
    return _drop(x, model)


def run(model: Transformer, x: Tensor) -> Tensor:
    """The residual stream `(B, T, D)` after all blocks: the loop over `Block.forward`."""
    tables = rotary_tables(model, x)
    for block in model.blocks:
        assert isinstance(block, Block)
        normed = timed("norm", "residual", _norm, block.attention_norm, x)
        attended = timed("attention", "residual", _attention, block.attention, tables, normed)
        x = x + _drop(attended, block)
        normed = timed("norm", "residual", _norm, block.mlp_norm, x)
        x = x + _drop(timed("mlp", "residual", _mlp, block.mlp, normed), block)
    return x


def loss(model: Transformer, x: Tensor, targets: Tensor) -> Tensor:
    """`Transformer.loss` of the residual stream after the last block: a scalar, nats per target.

    Raises:
        IndexError: a target is no token.
    """
    logits = model.head(timed("norm", "head and loss", _norm, model.norm, x)).flatten(0, 1)
    return cross_entropy(logits, targets.flatten(), IGNORED)


def rotary_tables(model: Transformer, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Cosine and sine for the positions of x, `(T, W)`, in the format of products; or None."""
    config = model.config
    if config.architecture == "gpt2":
        return None
    return _rotary_tables(x.size(1), config.head_dim, config.rope_theta, product_dtype(x))


@lru_cache(maxsize=4)
def _rotary_tables(
    seq: int, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    # Kept for all steps, whoever asks first.
    with torch.inference_mode(False):
        cosine, sine = rotary_table(torch.arange(seq), head_dim, theta)
        return cosine.to(dtype), sine.to(dtype)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(norm, RMSNorm):
        return norm(x)  # type: ignore[no-any-return]
    return rms_norm(x, norm.gain, norm.eps, product_dtype(x))


def _mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = mlp.down(swiglu(mlp.gate_up(x))) if isinstance(mlp, SwiGLU) else mlp(x)
    return out


def _drop(x: Tensor, part: Transformer | Block) -> Tensor:
    probability = part.config.dropout if isinstance(part, Transformer) else part.dropout
    return dropout(x, probability) if part.training and probability else x


def _attention(attention: Attention, tables: tuple[Tensor, Tensor] | None, x: Tensor) -> Tensor:
    qkv = attention.qkv(x)
    gains, eps = None, 0.0
    if attention.query_norm is not None and attention.key_norm is not None:
        gains, eps = (attention.query_norm.gain, attention.key_norm.gain), attention.query_norm.eps
    if takes_attention(attention, x.size(1)):
        mixed = attend(qkv, attention.n_heads, attention.n_kv_heads, gains, tables, eps)
    else:
        mixed = _attend_dropping(attention, qkv, gains, tables, eps)
    out: Tensor = attention.output(mixed)
    return out


def _attend_dropping(
    attention: Attention,
    qkv: Tensor,
    gains: tuple[Tensor, Tensor] | None,
    tables: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    # As `attend`, for what its kernel does not know: dropout, and long texts.
    batch, seq, _ = qkv.shape
    n_heads, n_kv_heads = attention.n_heads, attention.n_kv_heads
    sizes = [n_heads, n_kv_heads]
    heads = qkv.view(batch, seq, -1, attention.head_dim)
    both, values = torch.split(heads, [sum(sizes), n_kv_heads], 2)
    if gains is not None and tables is not None:
        spread = (gain.expand(n, -1) for gain, n in zip(gains, sizes, strict=True))
        both = norm_and_rotate(both, torch.cat(tuple(spread)), *tables, eps)
    queries, keys = torch.split(both, sizes, 2)
    queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
    group = n_heads // n_kv_heads
    if group > 1:
        keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
    probability = attention.dropout if attention.training else 0.0
    if seq <= EAGER_UP_TO.get(queries.dtype, 0):
        scores = (queries * queries.size(-1) ** -0.5) @ keys.transpose(-2, -1)
        hidden = ~causal_mask(seq, seq)
        scores += torch.zeros_like(hidden, dtype=scores.dtype).masked_fill_(hidden, -torch.inf)
        mixed = dropout(scores.softmax(dim=-1), probability) @ values
    else:
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=probability, is_causal=True
        )
    out: Tensor = mixed.transpose(1, 2).reshape(batch, seq, -1)
    return out


def norm_and_rotate(x: Tensor, gains: Tensor, cosine: Tensor, sine: Tensor, eps: float) -> Tensor:
    """`RMSNorm` over each head of `(B, T, heads, W)`, then `rotate`.

    `gains` are `(heads, W)`; `cosine` and `sine` `(T, W)`.
    """
    out: Tensor = _NormAndRotate.apply(x, gains, cosine, sine, eps)  # type: ignore[no-untyped-call]
    return out


def dropout(x: Tensor, probability: float) -> Tensor:
    """`F.dropout` in training: 0 with this probability, and else divided by 1 - probability.

    On a CPU torch draws a number for each element, which took a third of a small model's step.
    Here one draw of 64 bits decides on four elements, so the probability is rounded to 2^-16.
    """
    dropped = min(round(probability * _SIXTEEN_BITS), _SIXTEEN_BITS - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _SIXTEEN_BITS // 2
    return x * kept.to(x.dtype).mul_(_SIXTEEN_BITS / (_SIXTEEN_BITS - dropped))


class _NormAndRotate(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gains: Tensor, cosine: Tensor, sine: Tensor, eps: float
    ) -> Tensor:
        # 1 / sqrt(mean(x^2) + eps), (..., 1), in float32 or better.
        precise = torch.promote_types(x.dtype, torch.float32)
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
        scale = scale.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        unit = x * scale.to(x.dtype)
        ctx.save_for_backward(unit, scale, gains, cosine, sine)
        return _turn(unit * gains.to(x.dtype), cosine[:, None], sine[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gains, cosine, sine = ctx.saved_tensors
        # The gradient of a turn is the turn back.
        grad = _turn(grad, cosine[:, None], -sine[:, None])
        grad_gains = (grad * unit).flatten(0, 1).sum(0, dtype=gains.dtype)
        grad = grad * gains.to(grad.dtype)
        # What lies along a vector drops out, since its length is fixed.
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1).div_(-unit.size(-1))
        grad_input = torch.addcmul(grad, unit, along).mul_(scale.to(grad.dtype))
        return grad_input, grad_gains, None, None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # `rotate`: the sign is put into the small table instead of the large tensor.
    half = x.size(-1) // 2
    signed = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
    return (x * cosine).addcmul_(x.roll(half, -1), signed)
