"""Where what the engine says of a job waits for the client to take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from minitx.serving.api_errors import Refusal
from minitx.serving.jobs import Update


class ClientLeftError(Exception):
    """The client closed the connection."""


class Inbox:
    """Updates of one job, bounded. To be used in the event loop's thread.

    Args:
        most_tokens: that may wait; one more fails it. None for any number.
        on_failure: called once, when it fails for whatever reason.
    """

    def __init__(self, most_tokens: int | None, on_failure: Callable[[], None]) -> None:
        self._most, self._on_failure = most_tokens, on_failure
        self._updates: list[Update] = []
        self._n_tokens = 0
        self._failure: Exception | None = None
        self._ready = asyncio.Event()

    def put(self, update: Update) -> None:
        """Add what came from the engine."""
        if self._failure is not None:
            return
        if update.failure is not None:
            self.fail(update.failure)
            return
        self._updates.append(update)
        self._n_tokens += update.n_new
        self._ready.set()
        if self._most is not None and self._n_tokens > self._most:
            self.fail(Refusal(408, "The stream was not read fast enough.", code="slow_client"))

    def fail(self, failure: Exception) -> None:
        """Let whoever takes see a failure; the first one counts, and nothing comes after it."""
        if self._failure is None:
            self._failure = failure
            self._updates.clear()
            self._ready.set()
            self._on_failure()

    async def take(self) -> list[Update]:
        """All that waits, at least one.

        Raises:
            Refusal, ClientLeftError: what it failed with.
        """
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        found, self._updates, self._n_tokens = self._updates, [], 0
        return found
