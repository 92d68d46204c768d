"""A model as a Hugging Face directory: the only place that knows the names used there.

`config.json`, `model.safetensors`, `generation_config.json` and the tokenizer's two files open
with `AutoModelForCausalLM.from_pretrained(directory)` as they stand. What that format has no key
for stands under `minitx` in `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from minitx.checkpoint.own_code import read_kept_code
from minitx.checkpoint.own_model import OwnModel
from minitx.checkpoint.weights import model_tensors, read_weights, require_sound_header
from minitx.config import ModelConfig, SamplingConfig
from minitx.config.toml import build
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import (
    describe_damage,
    json_bytes,
    os_errors_as_bad_input,
    read_json,
    replacing,
    write_atomically,
)
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer, load_tokenizer
from minitx.tokenizer.base import silent_ids

FORMAT = 1
_OWN = "minitx"  # the type of a model of a person's own
_FIX = "Use another checkpoint, or write this one again"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model (in eval mode), the tokenizer it was trained with, and where both came from."""

    directory: Path
    model: Transformer
    tokenizer: Tokenizer


def save_model(directory: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a model directory.

    Raises:
        BadInputError: it can't be written.
    """
    with os_errors_as_bad_input(f"{directory} can't be written", "Choose another directory"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in model_files(model, tokenizer).items():
            write_atomically(directory / name, content)
        with replacing(directory / "model.safetensors") as beside:
            save_file(model_tensors(model), beside, metadata={"format": "pt"})


def load_model(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SavedModel:
    """Read a model directory, written by minitx or another program, with Qwen3 or GPT-2.

    Nothing is allotted before its files are seen to fit together.

    Raises:
        BadInputError: a file is missing, or the model is of a kind that minitx does not have.
        DamagedFileError: a file does not parse, or does not fit the others.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise BadInputError(
                f"{directory} has no {name}", "Name a checkpoint directory that minitx train made"
            )
    path = directory / "config.json"
    try:
        with os_errors_as_bad_input(f"{path} can't be read", _FIX):
            values = read_json(path)
    except ValueError as error:
        raise DamagedFileError(f"{path} can't be used: {error}", _FIX) from None
    config = config_from_huggingface(values, path)
    path, device = directory / "model.safetensors", torch.device(device)
    if config.code_file is None:
        model = read_weights(path, config, device, dtype)
    else:
        require_sound_header(path)
        model = OwnModel(config, read_kept_code(directory, config)).to(device)
        model.read_tensors(path)
    tokenizer = load_tokenizer(directory)
    _require_same_tokenizer(directory, values, config, tokenizer)
    return SavedModel(directory, model.eval(), tokenizer)


def model_files(model: Transformer, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a model directory beside its weights, by name."""
    own = {"format": FORMAT, "tokenizer_digest": tokenizer.digest}
    if isinstance(model, OwnModel):
        config: dict[str, Any] = {
            "model_type": _OWN,
            "minitx": {**own, "model": vars(model.config)},
        }
        code = model.code.sources
    else:
        dropout = {"dropout": model.config.dropout}
        config, code = {**config_to_huggingface(model.config), "minitx": own | dropout}, {}
    # No token for padding is named here, since transformers would hide it in prompts, and none for
    # the end where the model never saw one. Its tokenizer knows them.
    generation: dict[str, Any] = {
        "do_sample": True, "temperature": SamplingConfig.temperature, "top_k": 0,
        "max_length": model.config.context_length,
        "bos_token_id": tokenizer.backend.token_to_id(tokenizer.special_token),
    }  # fmt: skip
    if model.config.end_id is not None:
        generation["eos_token_id"] = model.config.end_id
    if silent := silent_ids(tokenizer, model.config.end_id):
        generation["suppress_tokens"] = silent
    return {
        "config.json": json_bytes(config),
        "generation_config.json": json_bytes(generation),
        **tokenizer.files(model.config.context_length),
        **code,
    }


@dataclass(frozen=True)
class _Description:
    """How `config.json` describes the models of one architecture."""

    class_name: str
    keys: dict[str, str]  # of each field of `ModelConfig`
    defaults: dict[str, Any]  # by field of ours, where a key may be left out or null
    needs: dict[str, Any]  # by key; other values are not computed here


_DESCRIPTIONS = {
    "qwen3": _Description(
        "Qwen3ForCausalLM",
        keys={
            "vocab_size": "vocab_size", "tie_embeddings": "tie_word_embeddings",
            "context_length": "max_position_embeddings", "d_model": "hidden_size",
            "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
            "d_ff": "intermediate_size", "norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
        },
        defaults={"tie_embeddings": False, "norm_eps": 1e-6, "rope_theta": 10_000.0},
        needs={
            "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False,
            "rope_scaling": None,
        },
    ),
    "gpt2": _Description(
        "GPT2LMHeadModel",
        keys={
            "vocab_size": "vocab_size", "tie_embeddings": "tie_word_embeddings",
            "context_length": "n_positions", "d_model": "n_embd", "n_layers": "n_layer",
            "n_heads": "n_head", "d_ff": "n_inner", "norm_eps": "layer_norm_epsilon",
        },
        defaults={"tie_embeddings": True, "norm_eps": 1e-5},
        needs={
            "activation_function": "gelu_new", "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
        },
    ),
}  # fmt: skip


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The same model in the words of `transformers`."""
    description = _DESCRIPTIONS[config.architecture]
    common = {
        "architectures": [description.class_name], "model_type": config.architecture,
        "bos_token_id": None, "eos_token_id": config.end_id,
        "dtype": "float32", "torch_dtype": "float32",
        "initializer_range": 0.02,
        **{key: getattr(config, field) for field, key in description.keys.items()},
    }  # fmt: skip
    if config.architecture == "gpt2":
        dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout)
        length = config.context_length  # Older readers look for it under this name.
        return {**common, "n_ctx": length, "activation_function": "gelu_new", **dropout}
    return {
        **common,
        "hidden_act": "silu",
        # Older readers look for the base beside this table.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "max_window_layers": config.n_layers,
    }


def config_from_huggingface(values: dict[str, Any], path: Path) -> ModelConfig:
    """Read the words of `transformers`, the values of a `config.json`.

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
    if kind == _OWN:
        try:
            return build(ModelConfig, own["model"], str(path))
        except (BadInputError, KeyError, AttributeError, TypeError) as error:
            raise DamagedFileError(
                f"{path} can't be used: {describe_damage(error)}", _FIX
            ) from None
    if kind not in ("qwen3", "gpt2"):
        raise BadInputError(
            f"{path} describes a model of type {kind!r}", "Give one of type qwen3 or gpt2"
        )
    description = _DESCRIPTIONS[kind]
    for key, needed in description.needs.items():
        if values.get(key, needed) != needed:
            raise BadInputError(
                f"{path} has {key} {values[key]!r}, which minitx does not compute",
                f"Give a model with {key} {needed!r}",
            )
    rope = values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise DamagedFileError(f"{path}: rope_parameters are {rope!r}", _FIX)
    values = {**values, "rope_theta": rope.get("rope_theta", values.get("rope_theta"))}
    try:
        fields = _defaults(values, description)
        for field, key in description.keys.items():
            if field not in fields or values.get(key) is not None:
                fields[field] = values[key]
        dropout = own.get("dropout", values.get("resid_pdrop", 0.0))
        end: Any = values.get("eos_token_id")
        end = end[0] if isinstance(end, list) and end else end
        is_id = type(end) is int and type(fields["vocab_size"]) is int
        fields.update(
            architecture=kind, dropout=dropout,
            end_id=end if is_id and 0 <= end < fields["vocab_size"] else None,
        )  # fmt: skip
        return build(ModelConfig, fields, str(path))
    except KeyError as error:
        raise DamagedFileError(f"{path} lacks {error}", _FIX) from None
    except BadInputError as error:
        raise DamagedFileError(error.what, _FIX) from None


def _defaults(values: dict[str, Any], description: _Description) -> dict[str, Any]:
    """Fields that may be left out: some follow from the width and the number of heads."""
    width, n_heads = (values[description.keys[field]] for field in ("d_model", "n_heads"))
    # What is no number is refused later, by its own name.
    known = type(width) is int and type(n_heads) is int and n_heads > 0
    defaults = {
        **description.defaults,
        "n_kv_heads": n_heads,
        "head_dim": width // n_heads if known else 1,
    }
    if description.class_name == "GPT2LMHeadModel":
        defaults["d_ff"] = 4 * width if known else 1
    return defaults


def _require_same_tokenizer(
    directory: Path, values: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer
) -> None:
    expected = values.get("minitx", {}).get("tokenizer_digest")
    if expected is not None and not tokenizer.has_digest(expected):
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
