"""Where the fast room is entered: what computes a model, and why.

Everything above asks here. Where `minitx.fast` is gone, or does not know a model, the answer is
None, and the plain model is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from minitx.compute import Compute

if TYPE_CHECKING:
    from minitx.fast import EngineChoice

LossFunction = Callable[[Tensor, Tensor], Tensor]


def loss_function(
    model: nn.Module, compute: Compute | None = None, engine: str = "auto"
) -> LossFunction | None:
    """`minitx.fast.loss_function`; None where the plain model must be run."""
    fast = _fast_room()
    return fast.loss_function(model, compute, engine) if fast is not None else None


def _fast_room() -> Any:
    try:
        from minitx import fast
    except ModuleNotFoundError as error:
        if error.name != "minitx.fast":
            raise
        return None
    return fast
