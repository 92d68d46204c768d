"""A model as a Hugging Face directory: the only place that knows the names used there.

`config.json`, `model.safetensors`, `generation_config.json` and the tokenizer's two files open
with `AutoModelForCausalLM.from_pretrained(directory)` as they stand. What that format has no key
for stands under `minitx` in `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minitx.checkpoint.header import require_sound_header
from minitx.config import ModelConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import json_bytes, read_json, replacing, write_atomically
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer, load_tokenizer

FORMAT = 1
_DTYPES = {"F32", "F16", "BF16", "F64"}
_FIX = "Use another checkpoint, or write this one again"


@dataclass(frozen=True)
class SavedModel:
    """A model with the tokenizer it was trained with.

    Attributes:
        model: in eval mode.
        tokenizer: of the same vocabulary.
        directory: where both came from.
    """

    model: Transformer
    tokenizer: Tokenizer
    directory: Path


def save_model(directory: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a model directory.

    Raises:
        BadInputError: it can't be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in model_files(model, tokenizer).items():
            write_atomically(directory / name, content)
        with replacing(directory / "model.safetensors") as beside:
            save_file(model_tensors(model), beside, metadata={"format": "pt"})
    except OSError as error:
        raise BadInputError(
            f"{directory} can't be written ({error.strerror})", "Choose another directory"
        ) from None


def load_model(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SavedModel:
    """Read a model directory; nothing is allotted before its files are seen to fit together.

    Args:
        directory: written by minitx, or another Qwen3 or GPT-2 directory.
        device: where the model goes.
        dtype: of its weights.

    Raises:
        BadInputError: a file is missing, or the model is of a kind that minitx does not have.
        DamagedFileError: a file does not parse, or does not fit the others.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise BadInputError(
                f"{directory} has no {name}", "Name a checkpoint directory that minitx train made"
            )
    values = _read_config(directory / "config.json")
    config = config_from_huggingface(values, directory / "config.json")
    model = _read_weights(directory / "model.safetensors", config, torch.device(device), dtype)
    tokenizer = load_tokenizer(directory)
    _require_same_tokenizer(directory, values, config, tokenizer)
    return SavedModel(model.eval(), tokenizer, directory)


def model_tensors(model: Transformer) -> dict[str, Tensor]:
    """The weights by the names that transformers gives them, not copied where possible."""
    own = dict(model.named_parameters())
    return {
        piece.name: piece.cut(own[piece.own_name].detach()).contiguous()
        for piece in _pieces(model.config)
    }


def model_files(model: Transformer, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a model directory beside its weights, by name."""
    config = config_to_huggingface(model.config)
    config["minitx"] = {
        "format": FORMAT,
        "dropout": model.config.dropout,
        "tokenizer_digest": tokenizer.digest,
    }
    # Greedy unless asked otherwise. No padding token is named: transformers would hide it in
    # prompts, and each of our ids is text.
    generation: dict[str, Any] = {"do_sample": False, "max_new_tokens": 256}
    if tokenizer.unknown_id is not None:
        # It stands for what is not there, and says nothing.
        generation["suppress_tokens"] = [tokenizer.unknown_id]
    return {
        "config.json": json_bytes(config),
        "generation_config.json": json_bytes(generation),
        "tokenizer.json": tokenizer.json_bytes,
        "tokenizer_config.json": tokenizer.config_json_bytes,
    }


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The same model in the words of `transformers`."""
    common = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
        "initializer_range": 0.02,
    }
    if config.architecture == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **common,
            "n_positions": config.context_length,
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.d_ff,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "attn_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
        }
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **common,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # Older and newer readers look for the base in different places.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "max_window_layers": config.n_layers,
    }


def config_from_huggingface(values: dict[str, Any], path: Path) -> ModelConfig:
    """Read the words of `transformers`.

    Args:
        values: of a `config.json`.
        path: named in errors.

    Raises:
        BadInputError: the model is of a kind that minitx does not have.
        DamagedFileError: a key is missing or its value can't be.
    """
    own = values.get("minitx", {})
    if not isinstance(own, dict):
        raise DamagedFileError(f"{path}: minitx is not an object", _FIX)
    if own.get("format", FORMAT) != FORMAT:
        raise BadInputError(
            f"{path} has format {own['format']!r}, and this minitx reads {FORMAT}",
            "Update minitx: pip install -U minitx",
        )
    kind = values.get("model_type")
    if kind not in ("qwen3", "gpt2"):
        raise BadInputError(
            f"{path} describes a model of type {kind!r}", "Give one of type qwen3 or gpt2"
        )
    for key, needed in (_GPT2_NEEDS if kind == "gpt2" else _QWEN3_NEEDS).items():
        if values.get(key, needed) != needed:
            raise BadInputError(
                f"{path} has {key} {values[key]!r}, which minitx does not compute",
                f"Give a model with {key} {needed!r}",
            )
    try:
        read = _gpt2_config if kind == "gpt2" else _qwen3_config
        return read(values, own)
    except KeyError as error:
        raise DamagedFileError(f"{path} lacks {error}", _FIX) from None
    except BadInputError as error:
        raise DamagedFileError(f"{path}: {error.what}", _FIX) from None


_QWEN3_NEEDS = {
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}
_GPT2_NEEDS = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def _qwen3_config(values: dict[str, Any], own: dict[str, Any]) -> ModelConfig:
    rope = values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise BadInputError(f"rope_parameters are {rope!r}", _FIX)
    n_heads, d_model = values["num_attention_heads"], values["hidden_size"]
    head_dim = values.get("head_dim")
    if head_dim is None:
        head_dim = _even_share(d_model, n_heads)
    return _checked(
        architecture="qwen3",
        vocab_size=values["vocab_size"],
        context_length=values["max_position_embeddings"],
        n_layers=values["num_hidden_layers"],
        n_heads=n_heads,
        n_kv_heads=values.get("num_key_value_heads", n_heads),
        d_model=d_model,
        d_ff=values["intermediate_size"],
        head_dim=head_dim,
        tie_embeddings=values.get("tie_word_embeddings", False),
        dropout=own.get("dropout", 0.0),
        rope_theta=rope.get("rope_theta", values.get("rope_theta", 10_000.0)),
        norm_eps=values.get("rms_norm_eps", 1e-6),
    )


def _gpt2_config(values: dict[str, Any], own: dict[str, Any]) -> ModelConfig:
    n_heads, d_model = values["n_head"], values["n_embd"]
    d_ff = values.get("n_inner")
    return _checked(
        architecture="gpt2",
        vocab_size=values["vocab_size"],
        context_length=values["n_positions"],
        n_layers=values["n_layer"],
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_model=d_model,
        d_ff=4 * d_model if d_ff is None and type(d_model) is int else d_ff,
        head_dim=_even_share(d_model, n_heads),
        tie_embeddings=values.get("tie_word_embeddings", True),
        dropout=own.get("dropout", values.get("resid_pdrop", 0.0)),
        norm_eps=values.get("layer_norm_epsilon", 1e-5),
    )


def _even_share(d_model: Any, n_heads: Any) -> int:
    if type(d_model) is int and type(n_heads) is int and n_heads > 0:
        return d_model // n_heads
    return 0  # Refused by `_checked`, as is whatever made it so.


def _checked(**values: Any) -> ModelConfig:
    for key, value in values.items():
        expected: tuple[type, ...] = (int,)
        if key in ("dropout", "rope_theta", "norm_eps"):
            expected = (int, float)
        elif key in ("architecture", "tie_embeddings"):
            expected = (str,) if key == "architecture" else (bool,)
        if not isinstance(value, expected) or isinstance(value, bool) != (expected == (bool,)):
            raise BadInputError(f"{key} is {value!r}", _FIX)
    return ModelConfig(**values)


@dataclass(frozen=True)
class _Piece:
    """One tensor of the file: rows of one of our parameters, turned over or not."""

    name: str
    own_name: str
    shape: tuple[int, ...]
    start: int
    transposed: bool = False

    def cut(self, parameter: Tensor) -> Tensor:
        if self.transposed:
            return parameter.T
        return parameter[self.start : self.start + self.shape[0]]


def _pieces(config: ModelConfig) -> Iterator[_Piece]:
    """Every tensor of the file; those of one parameter follow each other in the order of rows."""
    pieces = _gpt2_pieces(config) if config.architecture == "gpt2" else _qwen3_pieces(config)
    yield from pieces
    if not config.tie_embeddings:
        yield _Piece("lm_head.weight", "head.weight", (config.vocab_size, config.d_model), 0)


def _qwen3_pieces(config: ModelConfig) -> Iterator[_Piece]:
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
            ("self_attn.q_norm.weight", "attention.query_norm.gain", (head,), 0),
            ("self_attn.k_norm.weight", "attention.key_norm.gain", (head,), 0),
            ("self_attn.o_proj.weight", "attention.output.weight", (d, width), 0),
            ("post_attention_layernorm.weight", "mlp_norm.gain", (d,), 0),
            ("mlp.gate_proj.weight", "mlp.gate_up.weight", (ff, d), 0),
            ("mlp.up_proj.weight", "mlp.gate_up.weight", (ff, d), ff),
            ("mlp.down_proj.weight", "mlp.down.weight", (d, ff), 0),
        ):
            yield _Piece(theirs + their_name, ours + our_name, shape, start)
    yield _Piece("model.norm.weight", "norm.gain", (d,), 0)


def _gpt2_pieces(config: ModelConfig) -> Iterator[_Piece]:
    d, ff = config.d_model, config.d_ff
    embeddings = (
        ("wte", "embedding", config.vocab_size),
        ("wpe", "positions", config.context_length),
    )
    for their_name, our_name, rows in embeddings:
        yield _Piece(f"transformer.{their_name}.weight", f"{our_name}.weight", (rows, d), 0)
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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except OSError as error:
        raise BadInputError(f"{path} can't be read ({error.strerror})", _FIX) from None
    except ValueError as error:
        raise DamagedFileError(f"{path} can't be used: {error}", _FIX) from None


def _read_weights(
    path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> Transformer:
    require_sound_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = _names_in_file(path, config, file)
            with torch.device("meta"), _Unfilled():
                model = Transformer(config)
            parts: dict[str, list[Tensor]] = {}
            for piece in _pieces(config):
                tensor = file.get_tensor(names[piece.name]).to(device, dtype)
                parts.setdefault(piece.own_name, []).append(
                    tensor.T.contiguous() if piece.transposed else tensor
                )
    except (SafetensorError, OSError, OverflowError) as error:
        raise DamagedFileError(f"{path} can't be read: {error}", _FIX) from None
    weights = {name: torch.cat(some) if len(some) > 1 else some[0] for name, some in parts.items()}
    if config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model


class _Unfilled(TorchFunctionMode):
    # Weights that are replaced need not be drawn, and to draw them on "meta" would import all of
    # torch's compiler: more than a second of each process.

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _names_in_file(path: Path, config: ModelConfig, file: Any) -> dict[str, str]:
    """For each tensor needed, its name in the file; its shape and type are as they must be."""
    present = set(file.keys())
    names = {}
    for piece in _pieces(config):
        # Some GPT-2 files leave out the prefix.
        bare = piece.name.removeprefix("transformer.")
        name = piece.name if piece.name in present else bare
        if name not in present:
            raise DamagedFileError(f"{path} has no tensor {piece.name}", _FIX)
        entry = file.get_slice(name)
        if tuple(entry.get_shape()) != piece.shape:
            raise DamagedFileError(
                f"{path}: tensor {name} is {tuple(entry.get_shape())} instead of {piece.shape}",
                _FIX,
            )
        if entry.get_dtype() not in _DTYPES:
            raise DamagedFileError(f"{path}: tensor {name} has type {entry.get_dtype()}", _FIX)
        names[piece.name] = name
    return names


def _require_same_tokenizer(
    directory: Path, values: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer
) -> None:
    expected = values.get("minitx", {}).get("tokenizer_digest")
    if expected is not None and expected != tokenizer.digest:
        raise DamagedFileError(
            f"{directory / 'tokenizer.json'} is not the tokenizer that this model was trained with",
            "Restore it: with another one, every id would mean something else",
        )
    if tokenizer.vocab_size > config.vocab_size:
        raise DamagedFileError(
            f"{directory / 'tokenizer.json'} has {tokenizer.vocab_size:,} ids, and the model knows "
            f"{config.vocab_size:,}",
            "Restore the tokenizer that belongs to the model",
        )
