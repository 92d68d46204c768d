"""Which form of attention is faster, as measured by ``bench/attention_forms.py``.

On a CPU in bfloat16 the fused kernel's backward pass is slow for short contexts; the explicit
form wins up to about 512 tokens, and beyond them its square of weights costs more. In float32 the
border lies lower. On a GPU the fused form wins at every length.

The compiled form trains faster than both up to `COMPILED_UP_TO`, where it can be used.
"""

from __future__ import annotations

from typing import Literal

import torch

from minitx.fast.library import library
from minitx.model import native_block

EXPLICIT_UP_TO = {torch.bfloat16: 512, torch.float32: 128}
"""Longest context, in tokens, at which a CPU trains faster in the explicit form."""

COMPILED_UP_TO = {torch.bfloat16: 1024, torch.float32: 1024}
"""Longest context at which the compiled form was measured to train faster than both."""


def choose_form(
    device_type: str, dtype: torch.dtype, seq: int, training: bool = True, dropout: bool = False
) -> Literal["explicit", "fused", "compiled"]:
    """Name the faster form.

    Args:
        device_type: `cpu`, `cuda` or `mps`.
        dtype: of the matrix products.
        seq: tokens in the longest sequence.
        training: whether gradients are taken; without them the fused form is always at least as
            fast.
        dropout: whether weights are dropped; the compiled form does that in whole blocks alone.
    """
    if device_type != "cpu" or not training:
        return "fused"
    can_drop = dtype == torch.bfloat16 and native_block.available()
    compiles = library() is not None and (can_drop or not dropout)
    if compiles and seq <= COMPILED_UP_TO.get(dtype, 0):
        return "compiled"
    return choose_general_form(device_type, dtype, seq, training)


def choose_general_form(
    device_type: str, dtype: torch.dtype, seq: int, training: bool
) -> Literal["explicit", "fused"]:
    """Name the faster of the two forms that compute everywhere."""
    if device_type != "cpu" or not training:
        return "fused"
    return "explicit" if seq <= EXPLICIT_UP_TO.get(dtype, 0) else "fused"
