"""One token of one text through the model in a single call, where the kernels were compiled.

`fast/kernels/decode.c` has the arithmetic, and says what the structures here mean. This module
tells it where the weights are: those of float32 where the model has them, without a copy.
"""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import Tensor, nn

from minitx.fast.library import library
from minitx.generation.slot_cache import SlotCache
from minitx.model import Transformer
from minitx.model.block import Block
from minitx.model.matrices import Bfloat16Matrix, Int8Matrix
from minitx.model.mlp import SwiGLU
from minitx.model.norms import LayerNorm, RMSNorm
from minitx.model.rotary import rotary_table

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_SIZES = (4, 2, 1)


def _pointers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_void_p) for name in names]


def _integers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_int64) for name in names]


class _Matrix(ctypes.Structure):
    _fields_ = [
        *_pointers("weights", "scale", "bias"),
        *_integers("rows", "columns", "stride", "format"),
    ]

    def half(self, which: int) -> _Matrix:
        """The upper (0) or lower (1) half of the rows."""
        rows = self.rows // 2
        first = which * rows
        size = _SIZES[self.format]
        return _Matrix(
            self.weights + first * self.stride * size, self.scale and self.scale + 4 * first,
            self.bias and self.bias + 4 * first, rows, self.columns, self.stride, self.format,
        )  # fmt: skip


class _Norm(ctypes.Structure):
    _fields_ = _pointers("gain", "bias")


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", _Norm),
        ("mlp_norm", _Norm),
        *_pointers("query_gain", "key_gain"),
        *((name, _Matrix) for name in ("qkv", "output", "gate", "up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *_integers("n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "context"),
        ("eps", ctypes.c_double),
        *_pointers("embedding", "positions", "cosine", "sine"),
        ("layers", ctypes.POINTER(_Layer)),
        ("norm", _Norm),
        ("head", _Matrix),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [*_pointers("keys", "values"), *_integers("layer_stride", "head_stride")]


class _Workspace(ctypes.Structure):
    _fields_ = _pointers("residual", "qkv", "heads", "hidden", "normed", "scores")


# With fewer bytes of weights for each thread, they would wait for each other most of the time.
_BYTES_FOR_A_THREAD = 2**18


def fits_native_row(model: Transformer) -> bool:
    """Whether `NativeRow` can run a model: compiled, on a CPU, in float32, with all its heads."""
    weight = model.embedding.weight
    plain = weight.dtype == torch.float32 and not model.ablated_heads
    return weight.device.type == "cpu" and plain and library() is not None


class NativeRow:
    """A model made ready to read one token at a time. To be used without gradients.

    Args:
        model: in eval mode; its weights must stay where they are from now on.
        threads: to share the work, which change nothing in the result; None for as many as pay.

    Attributes:
        n_bytes: of weights that a token reads.
    """

    def __init__(self, model: Transformer, threads: int | None = None) -> None:
        compiled = library()
        assert compiled is not None
        self._decode = compiled.minitx_decode_token
        self._decode.restype = None
        self._decode.argtypes = [
            ctypes.POINTER(_Model), ctypes.POINTER(_Cache), ctypes.POINTER(_Workspace),
            ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int,
        ]  # fmt: skip
        self._weights = _Weights(model)
        self.n_bytes = self._weights.n_bytes
        config = model.config
        self._threads = threads or max(
            1, min(torch.get_num_threads(), self.n_bytes // _BYTES_FOR_A_THREAD)
        )
        sizes = {
            "residual": config.d_model,
            "qkv": (config.n_heads + 2 * config.n_kv_heads) * config.head_dim,
            "heads": config.n_heads * config.head_dim,
            "hidden": 2 * config.d_ff,
            "normed": self._threads * config.d_model,
            "scores": self._threads * config.context_length,
        }
        self._buffers = {name: torch.empty(size) for name, size in sizes.items()}
        self._workspace = _Workspace(
            **{name: buffer.data_ptr() for name, buffer in self._buffers.items()}
        )
        self._logits = torch.empty(1, config.vocab_size)

    def feed(self, token: int, cache: SlotCache) -> Tensor:
        """Append a token to the only row of a cache.

        Args:
            token: the id.
            cache: has room for it, and one row.

        Returns:
            Logits of what follows, `(1, vocab_size)`; overwritten by the next call.
        """
        store = cache.store
        layer, kind, _, head, _, _ = store.stride()
        keys = store.data_ptr()
        self._decode(
            self._weights.model,
            _Cache(keys, keys + kind * store.element_size(), layer, head),
            self._workspace,
            token,
            cache.longest,
            self._logits.data_ptr(),
            self._threads,
        )
        cache.advance(1)
        return self._logits


class _Weights:
    # Of a model, as the kernel reads them.

    def __init__(self, model: Transformer) -> None:
        self._kept: list[Tensor] = []
        self._stored = model.stored_matrices
        self.n_bytes = 0
        config = model.config
        cosine = sine = None
        if model.positions is None:
            cosine, sine = rotary_table(
                config.head_dim, config.context_length, config.rope_theta, torch.float32
            )
        layers = (_Layer * config.n_layers)(
            *(
                self._layer(f"blocks.{at}", cast(Block, block))
                for at, block in enumerate(model.blocks)
            )
        )
        self.model = _Model(
            config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.d_model,
            config.d_ff, config.context_length, config.norm_eps,
            self._pointer(model.embedding.weight),
            self._pointer(None if model.positions is None else model.positions.weight),
            self._pointer(cosine), self._pointer(sine), layers, self._norm(model.norm),
            self._matrix("head", model.head),
        )  # fmt: skip

    def _layer(self, path: str, block: Block) -> _Layer:
        attention, mlp = block.attention, block.mlp
        query_norm, key_norm = attention.query_norm, attention.key_norm
        if isinstance(mlp, SwiGLU):
            both = self._matrix(f"{path}.mlp.gate_up", mlp.gate_up)
            gate, up = both.half(0), both.half(1)
        else:
            gate, up = _Matrix(), self._matrix(f"{path}.mlp.up", mlp.up)
        return _Layer(
            self._norm(block.attention_norm),
            self._norm(block.mlp_norm),
            self._pointer(None if query_norm is None else query_norm.gain),
            self._pointer(None if key_norm is None else key_norm.gain),
            self._matrix(f"{path}.attention.qkv", attention.qkv),
            self._matrix(f"{path}.attention.output", attention.output),
            gate,
            up,
            self._matrix(f"{path}.mlp.down", mlp.down),
        )

    def _norm(self, norm: RMSNorm | LayerNorm) -> _Norm:
        bias = norm.bias if isinstance(norm, LayerNorm) else None
        return _Norm(self._pointer(norm.gain), self._pointer(bias))

    def _matrix(self, path: str, linear: nn.Linear) -> _Matrix:
        stored = self._stored.get(f"{path}.weight")
        weight: Tensor = linear.weight
        scale = None
        if isinstance(stored, Bfloat16Matrix):
            weight = stored.weight
        elif isinstance(stored, Int8Matrix):
            weight, scale = stored.integers, stored.scale.float()
        self.n_bytes += weight.numel() * weight.element_size()
        rows, columns = weight.shape
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        return _Matrix(
            self._kept_at(weight), self._pointer(scale), self._pointer(linear.bias), rows, columns,
            weight.stride(0), _FORMATS[weight.dtype],
        )  # fmt: skip

    def _pointer(self, tensor: Tensor | None) -> int | None:
        return None if tensor is None else self._kept_at(tensor.contiguous())

    def _kept_at(self, tensor: Tensor) -> int:
        # Where it is for as long as this lives.
        self._kept.append(tensor.detach())
        return tensor.data_ptr()
