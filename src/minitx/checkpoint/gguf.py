"""A model as one GGUF file, which llama.cpp and the programs built on it run.

Names, keys and formats are those of the package `gguf`, which belongs to llama.cpp. What was
written is read back and compared before it takes its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minitx.checkpoint.own_model import OwnModel
from minitx.checkpoint.weights import model_tensors
from minitx.config import ModelConfig
from minitx.config.requests import GGUFType
from minitx.errors import BadInputError
from minitx.files import replacing
from minitx.model import Transformer
from minitx.model.rope_scaling import slowed
from minitx.tokenizer.base import Tokenizer
from minitx.tokenizer.llama_cpp import LlamaVocabulary

Array = npt.NDArray[Any]

_ARCHITECTURES = {
    **{name: name for name in ("qwen3", "qwen2", "gpt2", "llama")},
    "mistral": "llama",
}  # fmt: skip
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers
_LARGEST_ERROR = {"F32": (0.0, 0.0), "F16": (2.0**-11, 2.0**-25), "Q8_0": (1 / 220, 2.0**-18)}
"""Of a weight read back: as a part of it, or of the largest of its block of 8 bits; and beside."""


def require_gguf() -> None:
    """Refuse to go on where the package is missing.

    Raises:
        BadInputError: it is.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise BadInputError(
            "GGUF files need the package gguf", 'Install it: pip install "minitx[gguf]"'
        ) from None


def write_gguf(
    path: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    vocabulary: LlamaVocabulary,
    weights: GGUFType,
    name: str = "minitx",
    chat_template: str | None = None,
) -> None:
    """Write a file, and compare what is in it.

    Matrices have the numbers that `weights` names; rows that blocks of 8 bits do not fill have
    float16. All else is float32, as llama.cpp wants it.

    Raises:
        BadInputError: the model is of a kind that llama.cpp does not run, or has a weight that the
            format can't hold.
        OSError: it can't be written. An existing file is then as it was.
    """
    if isinstance(model, OwnModel):
        raise BadInputError(
            "a model of one's own code can't be run by llama.cpp", "Export one of minitx's own"
        )
    import gguf

    tensors, config = _tensors(model, weights), model.config
    with replacing(path) as beside:
        writer = gguf.GGUFWriter(beside, _ARCHITECTURES[config.architecture])
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[weights])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        _add_vocabulary(writer, vocabulary, tokenizer, config.end_id)
        if chat_template is not None:
            writer.add_chat_template(chat_template)
        for theirs, (values, kind) in tensors.items():
            number = _type(kind)
            writer.add_tensor(theirs, gguf.quants.quantize(values, number), raw_dtype=number)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        _compare(beside, vocabulary, tensors)


def _tensors(model: Transformer, weights: GGUFType) -> dict[str, tuple[Array, str]]:
    """Each tensor in float32 by llama.cpp's name, and the format that it is to have."""
    import gguf

    config = model.config
    architecture = getattr(gguf.MODEL_ARCH, _ARCHITECTURES[config.architecture].upper())
    names = gguf.get_tensor_name_map(architecture, config.n_layers)
    is_llama = architecture == gguf.MODEL_ARCH.LLAMA
    tensors: dict[str, tuple[Array, str]] = {}
    for name, tensor in model_tensors(model).items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        is_turned = config.architecture == "gpt2" and ".h." in name and tensor.dim() == 2
        values = (tensor.T if is_turned else tensor).float().cpu().numpy()
        if is_llama and name.endswith(("q_proj.weight", "k_proj.weight")):
            # There a pair of rotary positions stands side by side, here half of a head apart.
            halves = values.reshape(-1, 2, config.head_dim // 2, config.d_model)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        kind = weights.upper() if values.ndim == 2 else "F32"
        if kind == "Q8_0" and values.shape[1] % gguf.GGML_QUANT_SIZES[_type("Q8_0")][0]:
            kind = "F16"
        if kind == "F16" and np.abs(values).max() > np.finfo(np.float16).max:
            raise BadInputError(f"{name} has a weight too large for float16", "Use --type f32")
        tensors[str(theirs)] = values, kind
    if len(config.rope_scaling or ()) > 1:
        if not is_llama:
            raise BadInputError(
                f"llama.cpp does not slow the rotary positions of {config.architecture} so",
                "Use --onnx, or transformers",
            )
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
        frequencies = config.rope_theta ** (-pairs / config.head_dim)
        divided = frequencies / slowed(frequencies, config.rope_scaling)
        tensors["rope_freqs.weight"] = divided.float().numpy(), "F32"
    return tensors


def _type(name: str) -> Any:
    import gguf

    return getattr(gguf.GGMLQuantizationType, name)


def _add_shape(writer: Any, config: ModelConfig) -> None:
    import gguf

    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    if config.architecture == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_head_count_kv(config.n_kv_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_rope_dimension_count(config.head_dim)
        if config.rope_scaling is not None and len(config.rope_scaling) == 1:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_scaling[0])


def _add_vocabulary(
    writer: Any, vocabulary: LlamaVocabulary, tokenizer: Tokenizer, end_id: int | None
) -> None:
    special = vocabulary.entries.index(tokenizer.special_token)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.entries)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    # Where none is named, llama.cpp takes id 11 for the end of a text.
    writer.add_eos_token_id(special if end_id is None else end_id)
    writer.add_bos_token_id(vocabulary.entries.index(tokenizer.first_token))
    writer.add_pad_token_id(special)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _compare(
    path: Path, vocabulary: LlamaVocabulary, tensors: dict[str, tuple[Array, str]]
) -> None:
    """Read a file again; what it holds must be what was meant."""
    import gguf

    reader = gguf.GGUFReader(path)
    same = (
        reader.fields["tokenizer.ggml.tokens"].contents() == vocabulary.entries
        and {tensor.name for tensor in reader.tensors} == tensors.keys()
    )
    for tensor in reader.tensors if same else ():
        values, kind = tensors[tensor.name]
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        size = np.abs(values)
        if kind == "Q8_0":
            size = size.reshape(-1, 32).max(1).repeat(32).reshape(values.shape)
        part, beside = _LARGEST_ERROR[kind]
        same &= tensor.tensor_type.name == kind and read.shape == values.shape
        same = same and bool((np.abs(read - values) <= part * size + beside).all())
    if not same:
        raise OSError(None, "it reads back changed")
