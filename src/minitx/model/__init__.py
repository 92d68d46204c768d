"""The model, from scratch: read `transformer`, then `block`, `attention`, `rotary`, `mlp`."""

from minitx.model.kv_cache import KVCache
from minitx.model.trace import Trace
from minitx.model.transformer import Transformer

__all__ = ["KVCache", "Trace", "Transformer"]
