"""Families of models in the words of `transformers`: the shape in `config.json`, both ways.

A key that changes the numbers is understood, or the model is refused: none is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitx.config import ModelConfig
from minitx.config.toml import build
from minitx.errors import BadInputError, DamagedFileError

_FIX = "Use another checkpoint, or write this one again"


@dataclass(frozen=True)
class _Family:
    """How `config.json` describes the models of one family."""

    class_name: str
    keys: dict[str, str]  # of each field of `ModelConfig`
    defaults: dict[str, Any]  # by field of ours, where a key may be left out or null
    needs: dict[str, Any]  # by key; other values are not computed here


_ROTARY_KEYS = {
    "vocab_size": "vocab_size", "tie_embeddings": "tie_word_embeddings",
    "context_length": "max_position_embeddings", "d_model": "hidden_size",
    "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "d_ff": "intermediate_size", "norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
}  # fmt: skip
_ROTARY_DEFAULTS = {"tie_embeddings": False, "norm_eps": 1e-6, "rope_theta": 10_000.0}
_ROTARY_NEEDS = {"hidden_act": "silu", "attention_bias": False, "partial_rotary_factor": 1.0}

_FAMILIES = {
    "qwen3": _Family(
        "Qwen3ForCausalLM", _ROTARY_KEYS, {**_ROTARY_DEFAULTS, "head_dim": 128},
        {**_ROTARY_NEEDS, "use_sliding_window": False},
    ),
    "qwen2": _Family(
        "Qwen2ForCausalLM", _ROTARY_KEYS, _ROTARY_DEFAULTS,
        {"hidden_act": "silu", "use_sliding_window": False},
    ),
    "llama": _Family(
        "LlamaForCausalLM", _ROTARY_KEYS, _ROTARY_DEFAULTS,
        {**_ROTARY_NEEDS, "mlp_bias": False, "pretraining_tp": 1, "rope_interleaved": False},
    ),
    "mistral": _Family(
        "MistralForCausalLM", _ROTARY_KEYS, {**_ROTARY_DEFAULTS, "n_kv_heads": 8}, _ROTARY_NEEDS
    ),
    "gpt2": _Family(
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

_SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip
"""Kinds of rotary positions that are computed exactly, with their keys."""

_READ_ELSEWHERE = {
    "model_type", "minitx", "eos_token_id", "layer_types", "sliding_window", "rope_parameters",
    "rope_scaling",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "bos_token_id", "pad_token_id", "unk_token_id", "initializer_range", "attention_dropout",
    "max_window_layers", "n_ctx", "is_llama_config", "attn_pdrop", "embd_pdrop", "resid_pdrop",
    "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
    "transformers.js_config", "id2label", "label2id", "return_dict", "_attn_implementation",
    "_attn_implementation_autoset", "chunk_size_feed_forward", "problem_type",
}  # fmt: skip
"""Keys that change no logit of a model that is not in training."""


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The same model in the words of `transformers`."""
    family = _FAMILIES[config.architecture]
    common = {
        "architectures": [family.class_name], "model_type": config.architecture,
        "bos_token_id": None, "eos_token_id": config.end_id,
        "dtype": "float32", "torch_dtype": "float32",
        "initializer_range": 0.02,
        **{key: getattr(config, field) for field, key in family.keys.items()},
    }  # fmt: skip
    if config.architecture == "gpt2":
        dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout)
        length = config.context_length  # Older readers look for it under this name.
        return {**common, "n_ctx": length, "activation_function": "gelu_new", **dropout}
    scaling = config.rope_scaling or ()
    kind = next(kind for kind, keys in _SCALINGS.items() if len(keys) == len(scaling))
    scaled = dict(zip(_SCALINGS[kind], scaling, strict=True))
    if "original_max_position_embeddings" in scaled:
        scaled["original_max_position_embeddings"] = int(scaling[-1])
    values = {
        **common,
        "hidden_act": "silu",
        # Older readers look for the base beside this table.
        "rope_parameters": {"rope_type": kind, "rope_theta": config.rope_theta, **scaled},
        **({"rope_scaling": {"rope_type": kind, **scaled}} if scaled else {}),
        **({} if config.architecture in ("qwen2", "mistral") else {"attention_bias": False}),
        "attention_dropout": 0.0,
    }
    if config.architecture in ("qwen2", "qwen3"):
        values.update(use_sliding_window=False, max_window_layers=config.n_layers)
    if config.architecture == "mistral":
        values["sliding_window"] = None
    return values


def config_from_huggingface(
    values: dict[str, Any], path: Path, dropout: float | None = None
) -> ModelConfig:
    """Read the words of `transformers`, the values of a `config.json`.

    Raises:
        BadInputError: the model is of a kind that minitx does not have.
        DamagedFileError: a key is missing or its value can't be.
    """
    kind = values.get("model_type")
    family = _FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise BadInputError(
            f"{path} describes a model of type {kind!r}", f"Give one of type {_or(_FAMILIES)}"
        )
    _refuse_other_numbers(values, family, path)
    theta, scaling = _rotary(values, path)
    values = {**values, "rope_theta": theta}
    try:
        fields = _defaults(values, family)
        for field, key in family.keys.items():
            if field not in fields or values.get(key) is not None:
                fields[field] = values[key]
        if dropout is None:
            dropout = values.get("resid_pdrop", 0.0)
        end: Any = values.get("eos_token_id")
        end = end[0] if isinstance(end, list) and end else end
        is_id = type(end) is int and type(fields["vocab_size"]) is int
        fields.update(
            architecture=kind, dropout=dropout, rope_scaling=scaling,
            end_id=end if is_id and 0 <= end < fields["vocab_size"] else None,
        )  # fmt: skip
        config = build(ModelConfig, fields, str(path))
    except KeyError as error:
        raise DamagedFileError(f"{path} lacks {error}", _FIX) from None
    except BadInputError as error:
        raise DamagedFileError(error.what, _FIX) from None
    _refuse_window(values, config, path)
    return config


def _refuse_other_numbers(values: dict[str, Any], family: _Family, path: Path) -> None:
    for key, needed in family.needs.items():
        if values.get(key) not in (None, needed):
            raise BadInputError(
                f"{path} has {key} {_shown(values[key])}, which minitx does not compute",
                f"Give a model with {key} {needed!r}",
            )
    understood = {*family.keys.values(), *family.needs, *_READ_ELSEWHERE, *_WITHOUT_EFFECT}
    for key, value in values.items():
        # What is null, false or empty asks for nothing.
        if value and key not in understood:
            raise BadInputError(
                f"{path} has {key} {_shown(value)}, which minitx does not know",
                f"Give another model; or remove {key} there, if the model computes the same "
                "without it",
            )


def _rotary(values: dict[str, Any], path: Path) -> tuple[Any, list[Any] | None]:
    """Base of the rotary frequencies, and `ModelConfig.rope_scaling`."""
    given = (values.get(key) for key in ("rope_parameters", "rope_scaling"))
    tables: list[Any] = [table for table in given if table is not None]
    if not all(isinstance(table, dict) for table in tables):
        raise DamagedFileError(f"{path}: rope_parameters are {_shown(tables)}", _FIX)
    kinds = [table.get("rope_type", table.get("type", "default")) for table in tables]
    rope, kind = (tables[0], kinds[0]) if tables else ({}, "default")
    keys = _SCALINGS.get(kind) if isinstance(kind, str) else None
    more = rope.keys() - {"rope_type", "type", "rope_theta", *(keys or ())}
    if keys is None or len({*map(str, kinds)}) > 1 or any(rope[key] is not None for key in more):
        raise BadInputError(
            f"{path} has rotary positions {_shown(rope)}, which minitx does not compute",
            f"Give a model whose rope_type is {_or(_SCALINGS)}, with no other keys than theirs",
        )
    lacking = [key for key in keys if key not in rope]
    if lacking:
        raise DamagedFileError(f"{path} lacks {lacking[0]!r} of its rotary positions", _FIX)
    return rope.get("rope_theta", values.get("rope_theta")), [rope[key] for key in keys] or None


def _refuse_window(values: dict[str, Any], config: ModelConfig, path: Path) -> None:
    """Refuse attention that sees only the newest tokens, unless it never has more."""
    types = values.get("layer_types") or []
    if config.architecture == "mistral":
        window = values.get("sliding_window", 4096)
        if isinstance(window, int) and window < config.context_length:
            raise BadInputError(
                f"{path} has sliding_window {window:,}, and minitx attends to all of its "
                f"{config.context_length:,} tokens",
                f"Lower max_position_embeddings to {window} there: up to it, both are the same",
            )
    elif isinstance(types, list) and any(kind != "full_attention" for kind in types):
        raise BadInputError(
            f"{path} has layer_types {_shown(types)}, and minitx attends to all tokens",
            "Give a model in which all are full_attention",
        )


def _defaults(values: dict[str, Any], family: _Family) -> dict[str, Any]:
    """Fields that may be left out: some follow from the width and the number of heads."""
    width, n_heads = (values[family.keys[field]] for field in ("d_model", "n_heads"))
    # What is no number is refused later, by its own name.
    known = type(width) is int and type(n_heads) is int and n_heads > 0
    defaults = {
        "n_kv_heads": n_heads, "head_dim": width // n_heads if known else 1, **family.defaults,
    }  # fmt: skip
    if family.class_name == "GPT2LMHeadModel":
        defaults["d_ff"] = 4 * width if known else 1
    return defaults


def _or(words: Any) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
