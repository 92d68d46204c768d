"""The one whitelist: what the fast room may compute in place of the plain model.

A model is known if it is what its config builds, part by part: the classes themselves and not
subclasses, the same numbers in them, nobody hooked in, no function patched. Whatever is not known
is left to the model's own code. So a change to a model is always computed, and a kernel that does
not know a new feature is never asked for it.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from minitx.config import ModelConfig
from minitx.fast.library import LONGEST_ROW, has_bfloat16_products, library
from minitx.model import transformer
from minitx.model.transformer import (
    GELUMLP,
    Attention,
    Block,
    LayerNorm,
    RMSNorm,
    SwiGLU,
    Transformer,
)

_CLASSES: tuple[type[nn.Module], ...] = (
    Transformer, Block, Attention, RMSNorm, LayerNorm, SwiGLU, GELUMLP, nn.ModuleList, nn.Linear,
    nn.Embedding,
)  # fmt: skip
_FUNCTIONS = ("causal_mask", "eager_attention", "rotary_table", "rotate")
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
_BUSY = 0.75
"""Least part of the threads that must have work in a whole block: each takes whole sequences."""


def reason_against(model: nn.Module) -> str | None:
    """Why a model must be left to its own code; None if it is known.

    Returns:
        What is not known, in words, for example ``blocks.0.attention is a WindowedAttention``.
    """
    if type(model) is not Transformer:
        return f"the model is a {type(model).__name__}"
    patched = _patched_function()
    if patched is not None:
        return f"{patched} was changed"
    twin = _twin(model.config)
    expected = dict(twin.named_modules())
    there = dict(model.named_modules())
    if there.keys() != expected.keys():
        return f"its parts are not those of its config: {_first_difference(there, expected)}"
    for name, part in there.items():
        if type(part) is not type(expected[name]):
            return f"{name} is a {type(part).__name__}"
        if vars(part).keys() & _METHODS_OF[type(part)]:
            return f"a method of {name or 'the model'} was replaced"
        if _settings(part) != _settings(expected[name]):
            return f"{name or 'the model'} has settings that its config does not give it"
        if part.training != model.training:
            return f"{name} is not in the mode of the model"
    if is_watched(there.values()):
        return "a hook is registered"
    return _reason_against_tensors(model, twin)


def reason_against_kernels(model: nn.Module) -> str | None:
    """Why the compiled kernels can't compute a model on the CPU; None if they can."""
    if library() is None:
        return "there are no compiled kernels (installing minitx with a C compiler builds them)"
    reason = reason_against_cpu(model)
    if reason is not None:
        return reason
    assert isinstance(model, Transformer)
    config = model.config
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    if max(config.d_model, 2 * config.d_ff, heads) > LONGEST_ROW:
        return f"a row has more than {LONGEST_ROW:,} numbers"
    return None


def reason_against_cpu(model: nn.Module) -> str | None:
    """Why nothing but the model computes it on the CPU in float32; None if something may."""
    reason = reason_against(model)
    if reason is not None:
        return reason
    assert isinstance(model, Transformer)
    weight = model.embedding.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device.type}"
    if weight.dtype != torch.float32:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}"
    if weight.is_inference():
        return "its weights were made in inference mode, where changes to them are not counted"
    return None


def is_watched(parts: Iterable[nn.Module]) -> bool:
    """Whether somebody hooks into one of them, or into all modules, and would not be called."""
    everywhere = any(getattr(torch_module, f"_global{name}", None) for name in _HOOKS)
    return everywhere or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        or part._backward_pre_hooks
        for part in parts
    )  # fmt: skip


def was_changed(parts: Iterable[nn.Module]) -> bool:
    """Whether a model that was known, of these parts, was hooked into or patched since."""
    return is_watched(parts) or _patched_function() is not None


def takes_whole_blocks(model: Transformer, x: Tensor) -> bool:
    """Whether `blocks` computes a known model for a residual stream `(batch, seq, d_model)`.

    In bfloat16 products, for the `qwen3` architecture, where sizes are even and there are enough
    sequences for all threads.
    """
    config, (batch, seq, _) = model.config, x.shape
    threads = torch.get_num_threads()
    sizes = (config.head_dim, config.d_model, config.d_ff, config.n_heads * config.head_dim, seq)
    return (
        config.architecture == "qwen3"
        and multiplies_bfloat16(x)
        and all(size % 2 == 0 for size in sizes)
        and batch >= _BUSY * -(-batch // threads) * threads
    )


def takes_head(model: Transformer, x: Tensor) -> bool:
    """Whether `head` computes the loss of a residual stream `(batch, seq, d_model)`."""
    batch, seq, width = x.shape
    return (
        model.config.architecture == "qwen3"
        and multiplies_bfloat16(x)
        and width % 2 == 0
        and batch * seq % 2 == 0
    )


def takes_attention(attention: Attention, seq: int) -> bool:
    """Whether `layers.attend` computes attention over so many tokens: without dropout, up to the
    length to which it was measured to be the fastest.
    """
    return seq <= LONGEST_ATTENTION and not (attention.training and attention.dropout)


LONGEST_ATTENTION = 1024
"""Tokens up to which the kernel trains faster than the attention that torch has."""


def can_update(tensors: Iterable[Tensor]) -> bool:
    """Whether `optimizer` updates all of these: contiguous float32 on the CPU."""
    return library() is not None and all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors
    )


def can_orthogonalize(matrices: Iterable[Tensor]) -> bool:
    """Whether `optimizer.orthogonalize` takes these: bfloat16, of even and not too many rows and
    columns.

    Args:
        matrices: or stacks of them, `(..., rows, columns)`.
    """
    return has_bfloat16_products() and all(
        m.dtype == torch.bfloat16
        and all(size % 2 == 0 and size <= LONGEST_ROW for size in m.shape[-2:])
        for m in matrices
    )


def multiplies_bfloat16(x: Tensor) -> bool:
    """Whether the products over x are in bfloat16, and there are kernels for that."""
    return (
        product_dtype(x) == torch.bfloat16
        and x.dtype == torch.float32
        and (has_bfloat16_products())
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """Format in which a matrix product reads x: that of autocast, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@functools.lru_cache(maxsize=8)
def _twin(config: ModelConfig) -> Transformer:
    # What the config alone builds, without memory for its weights.
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


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _settings(part: nn.Module) -> dict[str, Any]:
    return {name: vars(part)[name] for name in vars(part).keys() - _OF_EVERY_MODULE}


_METHODS_OF = {
    kind: frozenset(name for name in dir(kind) if callable(getattr(kind, name)))
    for kind in _CLASSES
}


def _patched_function() -> str | None:
    # A function counts as known if its code stands in the file of its class or module.
    attend = functional.scaled_dot_product_attention
    if vars(transformer)["F"] is not functional or type(attend) is not types.BuiltinFunctionType:
        return "scaled_dot_product_attention"
    for name in _FUNCTIONS:
        if not _stands_in(getattr(transformer, name, None), transformer.__file__):
            return f"transformer.{name}"
    for kind, (path, names) in _methods().items():
        for name in names:
            if not _stands_in(vars(kind).get(name), path):
                return f"{kind.__name__}.{name}"
    return None


@functools.cache
def _methods() -> dict[type[nn.Module], tuple[str, tuple[str, ...]]]:
    return {
        kind: (
            str(sys.modules[kind.__module__].__file__),
            tuple(name for name, value in vars(kind).items() if _is_method(name, value)),
        )
        for kind in _CLASSES
    }


def _is_method(name: str, value: object) -> bool:
    # `__init__` was done with when the model was built.
    return callable(value) and name != "__init__" and not isinstance(value, (type, staticmethod))


def _stands_in(function: object, path: str | None) -> bool:
    return isinstance(function, types.FunctionType) and function.__code__.co_filename == path


def _first_difference(there: Iterable[str], expected: Iterable[str]) -> str:
    name = min(set(there) ^ set(expected))
    return f"{name} is {'not in it' if name in set(there) else 'missing'}"


def _reason_against_tensors(model: Transformer, twin: Transformer) -> str | None:
    if any(True for _ in model.buffers()):
        return "it has a buffer"
    weight = model.embedding.weight
    expected = dict(twin.named_parameters(remove_duplicate=False))
    there = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in there.items():
        if name not in expected or parameter.shape != expected[name].shape:
            return f"{name} has another shape than its config gives it"
        if type(parameter) is not nn.Parameter or not parameter.is_contiguous():
            return f"{name} is not a plain tensor"
        if parameter.device != weight.device or parameter.dtype != weight.dtype:
            return f"{name} has another device or format than the embedding"
    if there.keys() != expected.keys():
        return f"its weights are not those of its config: {_first_difference(there, expected)}"
    if (model.head.weight is weight) != model.config.tie_embeddings:
        return "its embeddings are not tied as its config says"
    return None
