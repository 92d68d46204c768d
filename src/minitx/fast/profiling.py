"""Where the time of a compiled training step goes, for `minitx profile`.

A clock is stopped at the borders between two parts of `layers`; the calls of `whole_blocks` and
`head` measure their parts inside.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

Border = Callable[[str, str], None]
"""Told the part of the step that begins, and the direction: `forward` or `backward`."""

T = TypeVar("T", bound=Tensor)

BLOCK_PARTS = ("norm", "attention", "mlp")
"""That a whole block measures inside."""

Seconds = ctypes.c_double * len(BLOCK_PARTS)


class BlockClock:
    """Seconds that the parts of all whole blocks took since it was started.

    `forward` and `backward` are of each of `BLOCK_PARTS`, the mean of the threads; `head` is of
    the call in `head`; `blocks` says whether any whole block was called.
    """

    def __init__(self) -> None:
        self.forward, self.backward = Seconds(), Seconds()
        self.head = 0.0
        self.blocks = False


_running: list[tuple[BlockClock, Border]] = []


@contextmanager
def profiled(border: Border) -> Iterator[BlockClock]:
    """While active, `border` is told where each part begins, and compiled calls are timed."""
    clock = BlockClock()
    _running.append((clock, border))
    try:
        yield clock
    finally:
        _running.pop()


def running_clock() -> BlockClock | None:
    """The one of `profiled`."""
    return _running[-1][0] if _running else None


def timed(part: str, then: str, function: Callable[..., T], *arguments: object) -> T:
    """Call a function with arguments, as a part of the step.

    Args:
        then: the part that begins when it is done, and on the way back when its input's gradient
            is there.
        function: of a tensor, its last argument.
    """
    if not _running:
        return function(*arguments)
    border, x = _running[-1][1], arguments[-1]
    if isinstance(x, Tensor) and x.requires_grad:
        x.register_hook(lambda _: border(then, "backward"))  # type: ignore[no-untyped-call]
    border(part, "forward")
    out = function(*arguments)
    out.register_hook(lambda _: border(part, "backward"))  # type: ignore[no-untyped-call]
    border(then, "forward")
    return out
