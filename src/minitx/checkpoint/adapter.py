"""Low-rank updates (Hu et al. 2022, LoRA): a matrix stays as it is, and the product of two small
ones, which are learned, is added to it.

Each is added from outside, by a hook on its linear layer, so that the model and the names of its
weights stay as they are: peft puts a module of its own around each layer, whose weights have other
names than checkpoints, optimizers and the diagnosis know. Its files are those of peft.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from minitx.checkpoint.weights import LORA_SCALE, linear_pieces, require_sound_header
from minitx.errors import DamagedFileError
from minitx.files import (
    describe_damage,
    json_bytes,
    os_errors_as_bad_input,
    replacing,
    write_atomically,
)
from minitx.model import Transformer

ADAPTER_FILE = "lora.safetensors"
"""In a checkpoint: the update alone. Not by peft's name, or transformers would add it once more."""


def adapt(model: Transformer, rank: int) -> Transformer:
    """Freeze a model, and give each linear layer of its blocks an update that is 0 at first.

    `lora_a`, `(rank, inputs)`, is drawn from torch's generator; `lora_b` is `(outputs, rank)`.
    """
    model.requires_grad_(False)
    for _, layer in _layers(model):
        first = torch.empty(rank, layer.in_features, device=layer.weight.device)
        layer.lora_a = nn.Parameter(nn.init.kaiming_uniform_(first, a=math.sqrt(5)))
        layer.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank, device=first.device))
        layer.register_forward_hook(_add)
    return model


def _add(layer: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out + LORA_SCALE * F.linear(F.linear(inputs[0], layer.lora_a), layer.lora_b)


def _layers(model: Transformer) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.blocks.named_modules(prefix="blocks"):
        if isinstance(module, nn.Linear):
            yield name, module


def adapter_tensors(model: Transformer) -> dict[str, Tensor]:
    """The updates of a model that was adapted, by peft's names; empty for another.

    Of a fused matrix, such as queries, keys and values, each part has the same `lora_A`.
    """
    tensors = {}
    for piece, layer in linear_pieces(model):
        if hasattr(layer, "lora_a"):
            name = f"base_model.model.{piece.name.removesuffix('.weight')}"
            rows = layer.lora_b.size(0) if piece.transposed else piece.shape[0]
            tensors[f"{name}.lora_A.weight"] = layer.lora_a.detach().clone()
            part = layer.lora_b.detach()[piece.start : piece.start + rows]
            tensors[f"{name}.lora_B.weight"] = part.clone()
    return tensors


@torch.no_grad()
def load_adapter(model: Transformer, path: Path) -> None:
    """Give a model that was adapted the updates of a file.

    Raises:
        DamagedFileError: it is not the file of such a model.
    """
    require_sound_header(path)
    try:
        saved = load_file(path)
        for piece, layer in linear_pieces(model):
            name = f"base_model.model.{piece.name.removesuffix('.weight')}"
            part = saved.pop(f"{name}.lora_B.weight")
            layer.lora_a.copy_(saved.pop(f"{name}.lora_A.weight"))
            layer.lora_b[piece.start : piece.start + len(part)].copy_(part)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        reason = describe_damage(error).splitlines()[0]
        fix = "Use another checkpoint of the run"
        raise DamagedFileError(f"{path} can't be used: {reason}", fix) from None


def write_adapter(directory: Path, model: Transformer, rank: int, base: str) -> None:
    """Write the updates as peft has them, for the model in the directory `base`.

    Raises:
        BadInputError: they can't be written.
    """
    targets = {piece.name.split(".")[-2] for piece, _ in linear_pieces(model)}
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": rank, "lora_alpha": int(LORA_SCALE * rank), "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(targets), "fan_in_fan_out": model.config.architecture == "gpt2",
        "inference_mode": True,
    }  # fmt: skip
    tensors = {name: tensor.cpu() for name, tensor in adapter_tensors(model).items()}
    with os_errors_as_bad_input(f"{directory} can't be written", "Make room, then resume the run"):
        directory.mkdir(exist_ok=True)
        write_atomically(directory / "adapter_config.json", json_bytes(config))
        with replacing(directory / "adapter_model.safetensors") as beside:
            save_file(tensors, beside, metadata={"format": "pt"})
