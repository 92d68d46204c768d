"""The model, from scratch: read `transformer` top to bottom, then `kv_cache` and `trace`."""

from minitx.model.kv_cache import KVCache
from minitx.model.parameters import attention_layers, matrix_parameters, without_memory
from minitx.model.trace import Trace, evaluating
from minitx.model.transformer import Transformer

__all__ = [
    "KVCache", "Trace", "Transformer", "attention_layers", "evaluating", "matrix_parameters",
    "without_memory",
]  # fmt: skip
