"""Updates of a job that wait for its client to take them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from minitx.serving.api_errors import APIError
from minitx.serving.jobs import Update


class UpdateQueue:
    """Updates of one job, at most so many; for use in the event loop's thread.

    Args:
        max_tokens: that may wait; one more fails the queue. None for any number.
        on_failure: called once, when the queue fails for whatever reason.
    """

    def __init__(self, max_tokens: int | None, on_failure: Callable[[], None]) -> None:
        self._max_tokens, self._on_failure = max_tokens, on_failure
        self._updates: list[Update] = []
        self._n_tokens = 0
        self._failure: Exception | None = None
        self._ready = asyncio.Event()

    def put(self, update: Update) -> None:
        """Add an update from the engine."""
        if self._failure is not None:
            return
        if update.failure is not None:
            self.fail(update.failure)
            return
        self._updates.append(update)
        self._n_tokens += update.n_new
        self._ready.set()
        if self._max_tokens is not None and self._n_tokens > self._max_tokens:
            self.fail(APIError(408, "The stream was not read fast enough.", code="slow_client"))

    def fail(self, failure: Exception) -> None:
        """Raise this from `take` from now on; only the first failure counts."""
        if self._failure is None:
            self._failure = failure
            self._updates.clear()
            self._ready.set()
            self._on_failure()

    async def take(self) -> list[Update]:
        """All updates that wait, at least one; raises what was given to `fail`."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        updates, self._updates, self._n_tokens = self._updates, [], 0
        return updates
