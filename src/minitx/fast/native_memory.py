"""How much memory the compiled kernels ask for in a training pass, as they say themselves."""

from __future__ import annotations

import ctypes

import torch

from minitx.config import ModelConfig
from minitx.fast.head import _Head
from minitx.fast.library import has_bfloat16_products, kernel_for, library, team_size
from minitx.fast.pieces import PIECE
from minitx.fast.whole_blocks import _Block


def native_bytes(
    config: ModelConfig, batch: int, dtype: torch.dtype
) -> tuple[int, int, int] | None:
    """Bytes for a pass over `batch` whole sequences: what all blocks keep for the way back, what
    one block needs meanwhile, and what the head does. None where the kernels do not compute it.
    """
    odd = any(n % 2 for n in (config.d_model, config.d_ff, config.head_dim, config.context_length))
    if library() is None or config.architecture != "qwen3":
        return None
    if dtype == torch.bfloat16 and (odd or not has_bfloat16_products()):
        return None
    seq = config.context_length
    if dtype == torch.float32:
        batch = min(batch, max(1, PIECE // seq))
    sizes = (config.n_heads, config.n_kv_heads, config.head_dim, config.d_model, config.d_ff)
    block = _Block(batch, seq, *sizes, threads=team_size())
    head = _Head(batch * seq, config.d_model, config.vocab_size, threads=team_size())
    stream = 4 * batch * seq * config.d_model
    kept = kernel_for("block_kept", dtype)(ctypes.byref(block)) + stream
    return (
        config.n_layers * kept,
        kernel_for("block_scratch", dtype)(ctypes.byref(block), 1),
        kernel_for("head_scratch", dtype)(ctypes.byref(head)) + stream,
    )
