"""A model as a Hugging Face directory: the only place that knows the names used there.

`config.json`, `model.safetensors`, `generation_config.json` and the tokenizer's two files open
with `AutoModelForCausalLM.from_pretrained(directory)` as they stand. What that format has no key
for stands under `minitx` in `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from minitx.checkpoint.families import config_from_huggingface, config_to_huggingface
from minitx.checkpoint.own_code import read_kept_code
from minitx.checkpoint.own_model import OwnModel
from minitx.checkpoint.weights import model_tensors, read_weights, require_sound_header, shards
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
_WITHOUT = (
    "Name a checkpoint of minitx train, or a model directory of transformers with config.json, "
    "model.safetensors and tokenizer.json"
)


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
    """Read a model directory, written by minitx or another program: see `families`.

    Nothing is allotted before its files are seen to fit together.

    Raises:
        BadInputError: a file is missing, or the model is of a kind that minitx does not have.
        DamagedFileError: a file does not parse, or does not fit the others.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise BadInputError(f"{directory} has no {name}", _WITHOUT)
    path = directory / "config.json"
    try:
        with os_errors_as_bad_input(f"{path} can't be read", _FIX):
            values = read_json(path)
    except ValueError as error:
        raise DamagedFileError(f"{path} can't be used: {error}", _FIX) from None
    config = read_model_config(values, path)
    files, device = shards(directory), torch.device(device)
    tokenizer = load_tokenizer(directory)
    _require_same_tokenizer(directory, values, config, tokenizer)
    config = _ended(config, values, tokenizer)
    if config.code_file is None:
        model = read_weights(files, config, device, dtype)
    else:
        require_sound_header(files[0])
        model = OwnModel(config, read_kept_code(directory, config)).to(device)
        model.read_tensors(files[0])
    return SavedModel(directory, model.eval(), tokenizer)


def read_model_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """The shape of a model, from the values of its `config.json`.

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
    if values.get("model_type") != _OWN:
        return config_from_huggingface(values, path, own.get("dropout"))
    try:
        return build(ModelConfig, own["model"], str(path))
    except (BadInputError, KeyError, AttributeError, TypeError) as error:
        raise DamagedFileError(f"{path} can't be used: {describe_damage(error)}", _FIX) from None


def _ended(config: ModelConfig, values: dict[str, Any], tokenizer: Tokenizer) -> ModelConfig:
    """The config with the token that ends a text, of several the one that the tokenizer names; the
    tokenizer learns of it if it names none."""
    several = values.get("eos_token_id")
    if isinstance(several, list) and tokenizer.end_id in several:
        config = replace(config, end_id=tokenizer.end_id)
    end = config.end_id
    lacks = bool(tokenizer.kept_files) and tokenizer.end_id is None
    if lacks and end is not None and end < tokenizer.vocab_size:
        tokenizer.end_with(end)
    return config


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
        "bos_token_id": tokenizer.backend.token_to_id(tokenizer.first_token),
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
