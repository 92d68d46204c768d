"""The one whitelist: what this package may compute in place of the plain model.

A model is known if it is what its config builds, part by part: the classes themselves and not
subclasses, the same numbers in them, nobody hooked in, no function patched. Whatever is not known
is left to the model's own code. So a change to a model is always computed, and a kernel that does
not know a new feature is never asked for it.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module

from minitx.checkpoint.own_model import OwnModel
from minitx.fast.library import LONGEST_ROW, has_bfloat16_products, library
from minitx.model import transformer, without_memory
from minitx.model.transformer import (
    GELUMLP,
    Attention,
    Block,
    LayerNorm,
    RMSNorm,
    SwiGLU,
    Transformer,
)

_OWN = (Transformer, Block, Attention, RMSNorm, LayerNorm, SwiGLU, GELUMLP)
_ARCHITECTURES = ("qwen3", "gpt2")
_OF_TORCH = (nn.ModuleList, nn.Linear, nn.Embedding)
_CALLS = ("__call__", "_wrapped_call_impl", "_call_impl", "__getattr__")  # how modules are called
_OF_TRANSFORMER = ("causal_mask", "eager_attention", "rotary_table", "rotate")
_OF_FUNCTIONAL = (
    "scaled_dot_product_attention", "linear", "embedding", "dropout", "rms_norm", "layer_norm",
    "silu", "gelu", "cross_entropy",
)  # fmt: skip
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
CHECKED_SOURCE = "9925c61bc41993ca026366216b4453ddcb5e478acf20bdf3c65c7615a767ee0c"
"""SHA-256 of `model/transformer.py` as the kernels were last tested against it. Whoever edits that
file trains and generates by its own code, until the tests of `tests/fast` pass with the new one."""


def reason_against(model: nn.Module) -> str | None:
    """Why a model must be left to its own code, for example ``blocks.0.attention is a
    WindowedAttention``; None if it is known.
    """
    if isinstance(model, OwnModel):
        return f"the model is your own, of {model.code.file}"
    if type(model) is not Transformer:
        return f"the model is a {type(model).__name__}"
    if _source_digest() != CHECKED_SOURCE:
        return "model/transformer.py was edited since the kernels were tested against it"
    if model.config.architecture not in _ARCHITECTURES:
        return f"no kernel knows the family {model.config.architecture}"
    if model.config.rope_scaling:
        return "no kernel knows scaled rotary frequencies"
    patched = _patched_function()
    if patched is not None:
        return f"{patched} was changed"
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        return "a mode of torch is active, which sees each operation"
    if any(getattr(torch_module, f"_global{hooks}", None) for hooks in _HOOKS):
        return "a hook on all modules is registered"
    weight = getattr(model._modules.get("embedding"), "weight", None)
    if not isinstance(weight, Tensor):
        return "its embedding has no weight"
    reason = _difference(
        model, _expected(model.config), "", (model.training, weight.device, weight.dtype)
    )
    if reason is None and (model.head.weight is weight) != model.config.tie_embeddings:
        return "its embeddings are not tied as its config says"
    return reason


def reason_against_kernels(model: nn.Module) -> str | None:
    """Why the compiled kernels can't compute a model on the CPU; None if they can."""
    if library() is None:
        return (
            "there are no compiled kernels, with which training is 1.4 to 2.7 times as fast "
            "(installing minitx with a C compiler builds them)"
        )
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


def takes_whole_blocks(model: Transformer, x: Tensor) -> bool:
    """Whether `whole_blocks` computes a known model for a residual stream of this shape."""
    config = model.config
    sizes = (config.d_model, config.d_ff, config.n_heads * config.head_dim)
    return config.architecture == "qwen3" and _has_products(x, *sizes, x.size(1), config.head_dim)


def takes_head(model: Transformer, x: Tensor) -> bool:
    """Whether `head` computes the loss of a residual stream `(batch, seq, d_model)`."""
    batch, seq, width = x.shape
    return model.config.architecture == "qwen3" and _has_products(x, width, batch * seq)


def _has_products(x: Tensor, *sizes: int) -> bool:
    # Whether there are kernels for products over x in its format: of bfloat16 for even sizes.
    if x.dtype != torch.float32:
        return False
    dtype = product_dtype(x)
    if dtype == torch.bfloat16:
        return has_bfloat16_products() and all(size % 2 == 0 for size in sizes)
    return dtype == torch.float32


def takes_attention(attention: Attention, seq: int) -> bool:
    """Whether `train_kernels.attend` computes it: without dropout, and for short texts."""
    return seq <= LONGEST_ATTENTION and not (attention.training and attention.dropout)


LONGEST_ATTENTION = 1024
"""Tokens up to which the kernel trains faster than the attention that torch has."""


def can_update(tensors: Iterable[Tensor]) -> bool:
    """Whether `optimizer` updates all of these: contiguous float32 on the CPU."""
    return library() is not None and all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """Format in which a matrix product reads x: that of autocast, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


_expected = functools.lru_cache(maxsize=8)(without_memory)


_Like = tuple[bool, torch.device, torch.dtype]  # of the model: mode, device and format


def _difference(part: nn.Module | None, expected: nn.Module, path: str, like: _Like) -> str | None:
    # One pass over the modules: this is asked in each training step.
    name = path or "the model"
    if part is None or type(part) is not type(expected):
        return f"{name} is a {type(part).__name__}"
    attributes, wanted = vars(part), vars(expected)
    if attributes.keys() != wanted.keys():
        odd = min(attributes.keys() ^ wanted.keys())
        return f"{odd} of {name} was replaced, added or removed"
    for key in wanted.keys() - _OF_EVERY_MODULE:
        if attributes[key] != wanted[key]:
            return f"{key} of {name} is not what its config says"
    if part.training is not like[0]:
        return f"{name} is not in the mode of the model"
    if (
        part._forward_hooks or part._forward_pre_hooks
        or part._backward_hooks or part._backward_pre_hooks
    ):  # fmt: skip
        return f"a hook is registered on {name}"
    if attributes["_buffers"]:
        return f"{name} has a buffer"
    parameters, children = part._parameters, part._modules
    wanted_parts = (expected._parameters.keys(), list(expected._modules))
    if (parameters.keys(), list(children)) != wanted_parts:
        return f"{name} has other parts or weights than its config says"
    for key, parameter in expected._parameters.items():
        reason = _reason_against_tensor(parameters[key], parameter, like)
        if reason is not None:
            return f"{key} of {name} {reason}"
    for key, child in expected._modules.items():
        assert child is not None
        reason = _difference(children[key], child, f"{path}.{key}" if path else key, like)
        if reason is not None:
            return reason
    return None


def _reason_against_tensor(
    parameter: nn.Parameter | None, expected: nn.Parameter | None, like: _Like
) -> str | None:
    if parameter is None or expected is None:
        return None if parameter is expected else "is not there as its config says"
    if type(parameter) is not nn.Parameter or not parameter.is_contiguous():
        return "is not a plain tensor"
    if parameter.shape != expected.shape:
        return "has another shape than its config says"
    if (parameter.device, parameter.dtype) != like[1:]:
        return "has another device or format than the embedding"
    if parameter._backward_hooks:
        return "has a hook"
    return None


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@functools.cache
def _source_digest() -> str:
    source = Path(str(transformer.__file__)).read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha256(source).hexdigest()


def _patched_function() -> str | None:
    # A function counts as known if its code stands in the file of its class or module: so one that
    # was patched before this module was imported is noticed too.
    if vars(transformer)["F"] is not functional or vars(transformer)["nn"] is not nn:
        return "transformer.F or transformer.nn"
    for own in _OWN:
        name = own.__name__
        if getattr(transformer, name, None) is not own or own.__module__ != transformer.__name__:
            return f"transformer.{name}"
    for kind, names in _NAMES.items():
        if vars(kind).keys() != names:
            return f"{kind.__name__}.{min(vars(kind).keys() ^ names)}"
    for owner, name, path in _FUNCTIONS:
        function = vars(owner).get(name)
        if owner is functional and type(function) is types.BuiltinFunctionType:
            continue
        if not isinstance(function, types.FunctionType) or function.__code__.co_filename != path:
            return f"{owner.__name__.removeprefix('minitx.model.')}.{name}"
    return None


def _methods(kind: type) -> list[str]:
    return [
        name
        for name, value in vars(kind).items()
        if callable(value) and not isinstance(value, (type, staticmethod))
    ]


_NAMES = {kind: frozenset(vars(kind)) for kind in (*_OWN, *_OF_TORCH)}

# That must not be patched: who has them, their names, and the file where their code stands.
_FUNCTIONS: list[tuple[types.ModuleType | type, str, str | None]] = [
    *((functional, name, functional.__file__) for name in _OF_FUNCTIONAL),
    *((transformer, name, transformer.__file__) for name in _OF_TRANSFORMER),
    *((nn.Module, name, torch_module.__file__) for name in _CALLS),
    *(
        (kind, name, sys.modules[kind.__module__].__file__)
        for kind in (*_OWN, *_OF_TORCH)
        for name in _methods(kind)
    ),
]
