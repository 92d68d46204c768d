"""The model, from scratch: read `transformer`, then `block`, `attention`, `rotary`, `mlp`.

`fast` and the modules whose names begin with `native` compute the same in fewer passes, for
training; they can be left out at first.
"""

from minitx.model.kv_cache import KVCache
from minitx.model.trace import Trace
from minitx.model.transformer import Transformer

__all__ = ["KVCache", "Trace", "Transformer"]
