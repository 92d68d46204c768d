"""Where the parts of a model are: its matrices, its attention layers; and one without numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from minitx.config import ModelConfig
from minitx.model.transformer import Attention, Block, Transformer


def matrix_parameters(model: Transformer) -> Iterator[tuple[str, nn.Parameter, tuple[int, ...]]]:
    """The matrices of the blocks: name, parameter `(rows, columns)`, and how rows split.

    Those that are frozen are left out. A fused matrix holds several in its rows: queries, keys and
    values, or gate and up. How they split follows from the config, also where a parameter has only
    some of the rows.
    """
    config = model.config
    kv = config.n_kv_heads * config.head_dim
    sections = {
        "attention.qkv.weight": (config.n_heads * config.head_dim, kv, kv),
        "attention.output.weight": (config.d_model,),
        "mlp.gate_up.weight": (config.d_ff, config.d_ff),
        "mlp.up.weight": (config.d_ff,),
        "mlp.down.weight": (config.d_model,),
    }
    for name, parameter in model.blocks.named_parameters(prefix="blocks"):
        if parameter.dim() == 2 and parameter.requires_grad:
            part = name.split(".", 2)[2]
            yield name, parameter, sections.get(part, (parameter.size(0),))


def attention_layers(model: Transformer) -> list[Attention]:
    """The attention layer of each block."""
    return [cast(Block, block).attention for block in model.blocks]


def without_memory(config: ModelConfig) -> Transformer:
    """A model whose weights have shapes and no numbers: on torch's device `meta`."""
    with torch.device("meta"), _Undrawn():
        return Transformer(config)


class _Undrawn(TorchFunctionMode):
    # To draw weights would move torch's generator, and on `meta` it imports torch's compiler.
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
