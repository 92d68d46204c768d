"""Weights in a safetensors file, by the names that `transformers` gives them.

The file is data to be checked before use: its header before anything of that size is allotted, then
the name, shape and type of every tensor.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minitx.checkpoint.own_model import OwnModel
from minitx.config import ModelConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import describe_damage, open_plain_file, read_json
from minitx.model import Transformer

LORA_SCALE = 2.0
"""Factor of a low-rank update; in peft, `lora_alpha` is as many times the rank."""

LARGEST_HEADER = 8 << 20
"""Bytes; tens of thousands of tensors fit."""

INDEX = "model.safetensors.index.json"
"""Names the file of each tensor, where there are several files."""

_SHARD = re.compile(r"[\w.-]+\.safetensors")
_COMPUTED = re.compile(r"(\.rotary_emb\.inv_freq|(^|\.)attn\.(masked_)?bias)$")
"""Tensors that some files hold, and that follow from the config."""

_DTYPES = {"F32", "F16", "BF16", "F64"}
_FIX = "Use another checkpoint, or write this one again"


def require_sound_header(path: Path) -> None:
    """Refuse a file whose header can't be one: its length, and how its JSON begins.

    What the header says (types, shapes, offsets) is checked against the file by safetensors.

    Raises:
        DamagedFileError: it is no plain file, too short, or its header is longer than any.
    """
    try:
        with open_plain_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"it has {size:,} bytes, fewer than its header says")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header of {length:,} bytes is longer than any")
            if file.read(1) != b"{":
                raise ValueError("its header is not JSON")
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read ({error.strerror})", _FIX) from None
    except ValueError as error:
        raise DamagedFileError(f"{path} can't be used: {error}", _FIX) from None


def model_tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by the names that transformers gives them, not copied where possible."""
    if isinstance(model, OwnModel):
        return model.tensors()
    own = dict(model.named_parameters())
    tensors = {}
    for piece in _pieces(model.config):
        parameter = _with_update(model, piece.own_name, own[piece.own_name].detach())
        rows = parameter[piece.start : piece.start + piece.shape[0]]
        tensors[piece.name] = (parameter.T if piece.transposed else rows).contiguous()
    return tensors


def _with_update(model: Transformer, name: str, weight: Tensor) -> Tensor:
    """A weight with its low-rank update, if it has one: see `adapter`."""
    owner, _, kind = name.rpartition(".")
    layer: Any = model.get_submodule(owner)
    if kind != "weight" or not hasattr(layer, "lora_a"):
        return weight
    update: Tensor = layer.lora_b.detach() @ layer.lora_a.detach()
    return weight + LORA_SCALE * update


def linear_pieces(model: Transformer) -> Iterator[tuple[_Piece, Any]]:
    """The tensors in a file of each linear layer of the blocks, with the layer."""
    for piece in _pieces(model.config):
        owner, _, kind = piece.own_name.rpartition(".")
        layer = model.get_submodule(owner)
        if kind == "weight" and owner.startswith("blocks.") and isinstance(layer, nn.Linear):
            yield piece, layer


def shards(directory: Path) -> list[Path]:
    """The files with a model's weights: one, or those that an index names.

    Raises:
        BadInputError: there are none.
        DamagedFileError: the index is not one.
    """
    single, index = directory / "model.safetensors", directory / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        fix = "Name a checkpoint of minitx train, or a model saved as safetensors"
        raise BadInputError(f"{directory} has no model.safetensors", fix)
    try:
        parts = read_json(index)["weight_map"]
        names = sorted(set(parts.values()))
        if not names or not all(_SHARD.fullmatch(name) for name in names):
            raise ValueError("it names other files than safetensors beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{index} can't be used: {describe_damage(error)}", _FIX) from None
    for name in names:
        if not (directory / name).is_file():
            raise BadInputError(
                f"{directory} has no {name}, which its index names", "Download it again"
            )
    return [directory / name for name in names]


def read_weights(
    files: list[Path], config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> Transformer:
    """A model with the weights of its files, which must be those that the config describes.

    Raises:
        BadInputError: there is a tensor that the model has no place for.
        DamagedFileError: a file can't be read, or a tensor is missing, or of another shape or type.
    """
    for path in files:
        require_sound_header(path)
    path = files[0]
    try:
        with contextlib.ExitStack() as stack:
            source: dict[str, tuple[Path, Any]] = {}
            for path in files:
                file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    if name in source:
                        raise DamagedFileError(
                            f"{path} has tensor {name}, as has {source[name][0].name}", _FIX
                        )
                    source[name] = path, file
            names = _names_in_files(files[0], config, source)
            with torch.device("meta"), _Unfilled():
                model = Transformer(config)
            parts: dict[str, list[Tensor]] = {}
            for piece in _pieces(config):
                path, file = source[names[piece.name]]
                tensor = file.get_tensor(names[piece.name]).to(device, dtype)
                parts.setdefault(piece.own_name, []).append(
                    tensor.T.contiguous() if piece.transposed else tensor
                )
    except (SafetensorError, OSError, OverflowError) as error:
        raise DamagedFileError(f"{path} can't be read: {error}", _FIX) from None
    weights = {name: torch.cat(rows) if len(rows) > 1 else rows[0] for name, rows in parts.items()}
    if config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model


class _Unfilled(TorchFunctionMode):
    # Weights that are replaced need not be drawn, and to draw them on "meta" would import all of
    # torch's compiler: more than a second of each process.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _names_in_files(
    first: Path, config: ModelConfig, source: dict[str, tuple[Path, Any]]
) -> dict[str, str]:
    """For each tensor needed, its name in the files; its shape and type are as they must be, and
    none is left over."""
    names = {}
    for piece in _pieces(config):
        name = piece.name
        if name not in source:  # Some GPT-2 files leave out the prefix.
            name = name.removeprefix("transformer.")
        if name not in source:
            raise DamagedFileError(f"{first} has no tensor {piece.name}", _FIX)
        path, file = source[name]
        entry = file.get_slice(name)
        if tuple(entry.get_shape()) != piece.shape:
            raise DamagedFileError(
                f"{path}: tensor {name} is {tuple(entry.get_shape())} instead of {piece.shape}",
                _FIX,
            )
        if entry.get_dtype() not in _DTYPES:
            raise DamagedFileError(f"{path}: tensor {name} has type {entry.get_dtype()}", _FIX)
        names[piece.name] = name
    for name in sorted(source.keys() - names.values()):
        if _COMPUTED.search(name):
            continue
        path, file = source[name]
        if name == "lm_head.weight" and config.tie_embeddings:
            embedding = names[next(_pieces(config)).name]
            if file.get_tensor(name).equal(source[embedding][1].get_tensor(embedding)):
                continue
            raise BadInputError(
                f"{path}: {name} is not the embedding, which config.json says it is",
                "Set tie_word_embeddings to false there",
            )
        raise BadInputError(
            f"{path} has tensor {name}, for which the model that config.json describes has no use",
            "Give a model that minitx computes; of one with an adapter, merge it first",
        )
    return names


@dataclass(frozen=True)
class _Piece:
    """One tensor of the file: rows of one of our parameters, turned over or not."""

    name: str
    own_name: str
    shape: tuple[int, ...]
    start: int
    transposed: bool = False


def _pieces(config: ModelConfig) -> Iterator[_Piece]:
    """Every tensor of the file; those of one parameter follow each other in the order of rows."""
    yield from _gpt2_pieces(config) if config.architecture == "gpt2" else _rotary_pieces(config)
    if not config.tie_embeddings:
        yield _Piece("lm_head.weight", "head.weight", (config.vocab_size, config.d_model), 0)


_HEAD_NORMS = ("attention.query_norm.gain", "attention.key_norm.gain")


def _rotary_pieces(config: ModelConfig) -> Iterator[_Piece]:
    d, width = config.d_model, config.n_heads * config.head_dim
    kv, ff, head = config.n_kv_heads * config.head_dim, config.d_ff, config.head_dim
    yield _Piece("model.embed_tokens.weight", "embedding.weight", (config.vocab_size, d), 0)
    for layer in range(config.n_layers):
        theirs, ours = f"model.layers.{layer}.", f"blocks.{layer}."
        for their_name, our_name, shape, start in (
            ("input_layernorm.weight", "attention_norm.gain", (d,), 0),
            ("self_attn.q_proj.weight", "attention.qkv.weight", (width, d), 0),
            ("self_attn.k_proj.weight", "attention.qkv.weight", (kv, d), width),
            ("self_attn.v_proj.weight", "attention.qkv.weight", (kv, d), width + kv),
            ("self_attn.q_proj.bias", "attention.qkv.bias", (width,), 0),
            ("self_attn.k_proj.bias", "attention.qkv.bias", (kv,), width),
            ("self_attn.v_proj.bias", "attention.qkv.bias", (kv,), width + kv),
            ("self_attn.q_norm.weight", "attention.query_norm.gain", (head,), 0),
            ("self_attn.k_norm.weight", "attention.key_norm.gain", (head,), 0),
            ("self_attn.o_proj.weight", "attention.output.weight", (d, width), 0),
            ("post_attention_layernorm.weight", "mlp_norm.gain", (d,), 0),
            ("mlp.gate_proj.weight", "mlp.gate_up.weight", (ff, d), 0),
            ("mlp.up_proj.weight", "mlp.gate_up.weight", (ff, d), ff),
            ("mlp.down_proj.weight", "mlp.down.weight", (d, ff), 0),
        ):
            is_absent = (
                (our_name == "attention.qkv.bias" and not config.qkv_bias)
                or (our_name in _HEAD_NORMS and not config.query_key_norm)
            )  # fmt: skip
            if not is_absent:
                yield _Piece(theirs + their_name, ours + our_name, shape, start)
    yield _Piece("model.norm.weight", "norm.gain", (d,), 0)


def _gpt2_pieces(config: ModelConfig) -> Iterator[_Piece]:
    d, ff = config.d_model, config.d_ff
    yield _Piece("transformer.wte.weight", "embedding.weight", (config.vocab_size, d), 0)
    yield _Piece("transformer.wpe.weight", "positions.weight", (config.context_length, d), 0)
    for layer in range(config.n_layers):
        theirs, ours = f"transformer.h.{layer}.", f"blocks.{layer}."
        for their_name, our_name in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            yield _Piece(f"{theirs}{their_name}.weight", f"{ours}{our_name}.gain", (d,), 0)
            yield _Piece(f"{theirs}{their_name}.bias", f"{ours}{our_name}.bias", (d,), 0)
        for their_name, our_name, inputs, outputs in (
            ("attn.c_attn", "attention.qkv", d, 3 * d),
            ("attn.c_proj", "attention.output", d, d),
            ("mlp.c_fc", "mlp.up", d, ff),
            ("mlp.c_proj", "mlp.down", ff, d),
        ):
            # GPT-2 keeps its matrices as (inputs, outputs).
            shape = (inputs, outputs)
            yield _Piece(f"{theirs}{their_name}.weight", f"{ours}{our_name}.weight", shape, 0, True)
            yield _Piece(f"{theirs}{their_name}.bias", f"{ours}{our_name}.bias", (outputs,), 0)
    yield _Piece("transformer.ln_f.weight", "norm.gain", (d,), 0)
    yield _Piece("transformer.ln_f.bias", "norm.bias", (d,), 0)
