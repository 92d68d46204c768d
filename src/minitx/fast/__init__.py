"""Everything accelerated, behind two doors.

`loss_function(model)` gives what trains a model, `decoder(model)` what continues texts with it;
each gives None where the plain model must be run. What is computed here, `minitx.model` computes
too, only slower: delete this folder, and everything else works the same. `support` says which
models are known here; whatever it does not know runs on the plain model.
"""

from minitx.fast import optimizer, profiling
from minitx.fast.decoding import Decoder, decoder
from minitx.fast.draw import draw_kernel
from minitx.fast.native_memory import native_bytes
from minitx.fast.quantized import quantize
from minitx.fast.torch_compile import can_compile
from minitx.fast.training_loss import choose_engine, loss_function

__all__ = [
    "Decoder", "can_compile", "choose_engine", "decoder", "draw_kernel",
    "loss_function", "native_bytes", "optimizer", "profiling", "quantize",
]  # fmt: skip
