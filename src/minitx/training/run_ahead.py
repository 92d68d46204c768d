"""How far the work that a GPU was given may be ahead of what it has done."""

from __future__ import annotations

from collections import deque

import torch

STEPS_AHEAD = 2
"""Steps that may be under way on a GPU: while it does one, the next is prepared."""


class RunAhead:
    """Waits, after each step, until no more than `STEPS_AHEAD` are under way on a GPU.

    A GPU is given work faster than it does it. Left alone, Python would hand out hundreds of steps
    at once: a clock would measure how fast work is handed out, and a request to stop would come
    late.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._under_way: deque[torch.cuda.Event] = deque()

    def step_done(self) -> None:
        """Called when everything of a step was handed to the device."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._under_way.append(event)
        if len(self._under_way) > STEPS_AHEAD:
            self._under_way.popleft().synchronize()
