"""One token of each of several texts through the model, in one call of a compiled kernel.

The arithmetic of `Transformer.forward` for rows of one token: read that first, then
`fast/kernels/batch.c`. Some thirty rows are too few for a general product, which first brings the
weights into an order that suits it; here they are kept in that order.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Hashable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from minitx.fast.library import library
from minitx.generation.slot_cache import SlotCache, aligned_zeros
from minitx.model import Transformer
from minitx.model.block import Block
from minitx.model.mlp import SwiGLU
from minitx.model.norms import LayerNorm, RMSNorm
from minitx.model.rotary import rotary_table

_Pointer = ctypes.c_void_p
_Integer = ctypes.c_int64


class _Layer(ctypes.Structure):
    _fields_ = tuple(
        (name, _Pointer)
        for name in (
            "attention_gain", "attention_shift", "qkv", "output", "up", "down", "query_gain",
            "key_gain", "mlp_gain", "mlp_shift",
        )
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        *(
            (name, _Integer)
            for name in (
                "layers", "d_model", "heads", "kv_heads", "head_dim", "hidden", "vocabulary",
                "context", "gated",
            )
        ),
        *(
            (name, _Pointer)
            for name in ("embedding", "positions", "cosine", "sine", "gain", "shift", "head")
        ),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class _Cache(ctypes.Structure):
    _fields_ = (
        ("start", _Pointer),
        *((name, _Integer) for name in ("layer", "kind", "row", "head")),
    )


class _Kernels:
    # The functions of fast/kernels/batch.c.
    def __init__(self, compiled: ctypes.CDLL) -> None:
        self.stride = compiled.minitx_batch_stride
        self.packed_size = compiled.minitx_batch_packed_size
        self.pack = compiled.minitx_batch_pack
        self.room = compiled.minitx_batch_room
        self.step = compiled.minitx_batch_step
        self.stride.restype = self.packed_size.restype = self.room.restype = _Integer
        self.pack.restype = self.step.restype = None
        model = ctypes.POINTER(_Model)
        self.stride.argtypes = [_Integer]
        self.packed_size.argtypes = [_Integer, _Integer, _Integer]
        self.pack.argtypes = [_Pointer, _Pointer, _Integer, _Integer, _Integer, _Pointer]
        self.room.argtypes = [model, _Integer, ctypes.c_int]
        self.step.argtypes = [
            model, ctypes.POINTER(_Layer), ctypes.POINTER(_Cache), _Pointer, _Pointer, _Integer,
            _Pointer, _Pointer, ctypes.c_int,
        ]  # fmt: skip


@functools.cache
def _kernels_of(compiled: ctypes.CDLL) -> _Kernels:
    return _Kernels(compiled)


def fits_batch_pass(model: Transformer) -> bool:
    """Whether `BatchPass` can run a model: on a CPU, in float32, compiled, with all its heads."""
    weight = model.embedding.weight
    plain = weight.dtype == torch.float32 and not model.ablated_heads
    return weight.device.type == "cpu" and plain and library() is not None


class BatchPass:
    """A model made ready to read a token of each of several texts. To be used without gradients.

    Args:
        model: in eval mode; its weights must not change from now on.
    """

    def __init__(self, model: Transformer) -> None:
        compiled = library()
        assert compiled is not None
        self._kernels = _kernels_of(compiled)
        self._weights = _weights_of(model, self._kernels)
        self._vocab_size = model.config.vocab_size
        self._room = torch.empty(0)
        self._logits = torch.empty(0, 0)

    def feed(self, tokens: Sequence[int], cache: SlotCache) -> Tensor:
        """Append a token to each row of a cache.

        Args:
            tokens: an id for each row.
            cache: has room for them.

        Returns:
            Logits of what follows, `(rows, vocab_size)`; overwritten by the next call.
        """
        rows, kernels, model = len(tokens), self._kernels, self._weights.model
        threads = torch.get_num_threads()
        needed = kernels.room(model, rows, threads)
        if len(self._room) < needed or len(self._logits) < rows:
            self._room = aligned_zeros(needed)
            self._logits = torch.empty(rows, self._weights.logits_stride)
        ids = np.array(tokens, np.int64)
        store = cache.store
        layer, kind, row, head, _, _ = store.stride()
        kernels.step(
            model,
            self._weights.layers,
            _Cache(store.data_ptr(), layer, kind, row, head),
            ids.ctypes.data,
            cache.lengths.data_ptr(),
            rows,
            self._room.data_ptr(),
            self._logits.data_ptr(),
            threads,
        )
        cache.advance(1)
        return self._logits[:rows, : self._vocab_size]


class _Weights:
    # Of a model, as the kernel reads them; the same for all who read it.

    def __init__(self, model: Transformer, kernels: _Kernels) -> None:
        self._kernels = kernels
        self._kept: list[Tensor] = []
        # All matrices side by side, which the system can put into large pages.
        parts = list(model.modules())
        self._gated = {part.gate_up for part in parts if isinstance(part, SwiGLU)}
        size = sum(self._size(part) for part in parts if isinstance(part, nn.Linear))
        self._packed = self._free = aligned_zeros(4 * size).view(torch.float32)
        config = model.config
        cosine = sine = None
        if model.positions is None:
            cosine, sine = rotary_table(
                config.head_dim, config.context_length, config.rope_theta, torch.float32
            )
        self.layers = (_Layer * config.n_layers)(
            *(self._layer(cast(Block, block)) for block in model.blocks)
        )
        self.model = _Model(
            config.n_layers,
            config.d_model,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            config.d_ff,
            config.vocab_size,
            config.context_length,
            config.architecture == "qwen3",
            self._pointer(model.embedding.weight),
            self._pointer(None if model.positions is None else model.positions.weight),
            self._pointer(cosine),
            self._pointer(sine),
            *self._norm(model.norm),
            self._matrix(model.head),
            config.norm_eps,
        )
        self.logits_stride = kernels.stride(config.vocab_size)

    def _layer(self, block: Block) -> _Layer:
        attention, mlp = block.attention, block.mlp
        query_norm, key_norm = attention.query_norm, attention.key_norm
        return _Layer(
            *self._norm(block.attention_norm),
            self._matrix(attention.qkv),
            self._matrix(attention.output),
            self._matrix(mlp.gate_up if isinstance(mlp, SwiGLU) else mlp.up),
            self._matrix(mlp.down),
            self._pointer(None if query_norm is None else query_norm.gain),
            self._pointer(None if key_norm is None else key_norm.gain),
            *self._norm(block.mlp_norm),
        )

    def _norm(self, norm: RMSNorm | LayerNorm) -> tuple[int | None, int | None]:
        shift = norm.bias if isinstance(norm, LayerNorm) else None
        return self._pointer(norm.gain), self._pointer(shift)

    def _size(self, linear: nn.Linear) -> int:
        size: int = self._kernels.packed_size(*linear.weight.shape, linear in self._gated)
        return size

    def _matrix(self, linear: nn.Linear) -> int | None:
        weight = linear.weight.detach().contiguous()
        bias = None if linear.bias is None else linear.bias.detach().contiguous()
        size = self._size(linear)
        packed, self._free = self._free[:size], self._free[size:]
        self._kernels.pack(
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            *weight.shape,
            linear in self._gated,
            packed.data_ptr(),
        )
        return packed.data_ptr()

    def _pointer(self, tensor: Tensor | None) -> int | None:
        # Of memory that lives as long as this.
        if tensor is None:
            return None
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()


_KNOWN: weakref.WeakKeyDictionary[Transformer, tuple[Hashable, _Weights]] = (
    weakref.WeakKeyDictionary()
)


def _weights_of(model: Transformer, kernels: _Kernels) -> _Weights:
    # Packed once for a model, and again if its weights were written to since.
    state = tuple((one.data_ptr(), one._version) for one in model.parameters())
    known = _KNOWN.get(model)
    if known is None or known[0] != state:
        known = _KNOWN[model] = (state, _Weights(model, kernels))
    return known[1]
