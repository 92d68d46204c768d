"""Which form of a computation is used: an accelerated one of `minitx.fast`, or the plain one.

All that is not `minitx.fast` asks here, so that the folder can be deleted: then the answer is None,
and the plain model is run.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitx.errors import BadInputError
from minitx.model import Transformer

try:
    import minitx.fast.decoder as fast_decoder
    import minitx.fast.draw as fast_draw
    import minitx.fast.quantized as fast_quantized
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("minitx.fast"):
        raise
    IS_FAST_THERE = False
else:
    IS_FAST_THERE = True


def decoder(model: Transformer) -> fast_decoder.Decoder | None:
    """What feeds tokens to a model in eval mode faster than the model itself; None: run that.

    See `minitx.fast.decoder.decoder`.
    """
    return fast_decoder.decoder(model) if IS_FAST_THERE else None


def draw_kernel(silent: Sequence[int], vocab_size: int) -> fast_draw.DrawKernel | None:
    """What draws tokens where temperature and top-k are all that matters; None: there is none.

    See `minitx.fast.draw.draw_kernel`.
    """
    return fast_draw.draw_kernel(silent, vocab_size) if IS_FAST_THERE else None


def quantize(model: Transformer, weight_format: str) -> None:
    """Round a model's matrices to `int8` or `bfloat16`, in place.

    Raises:
        BadInputError: there is no such format, or `minitx.fast` was deleted.
    """
    if not IS_FAST_THERE:
        raise BadInputError(
            "weights can't be rounded to fewer bits: this minitx has no `fast` folder",
            "Leave out --quantize and --dtype bfloat16, or install minitx again",
        )
    fast_quantized.quantize(model, weight_format)
