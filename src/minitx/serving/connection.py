"""uvicorn's connections, with limits on how many there are and how slow a client may be."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from minitx.config import Limits

_SPARE_SECONDS = 2.0
_PROBE_SECONDS = 1.0
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RECEIVED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class BoundedProtocol(H11Protocol):
    """A connection that is closed if its client sends or reads too slowly.

    uvicorn waits without limit for the rest of a request's head or body, and for a client that
    reads nothing. Here both are bounded by `client_timeout`; a slow body is answered with 408
    first (see `http_app`), so the connection's own limit comes a little later.

    A client that closes its sending half gets its answer. One that has left looks the same until
    something is sent to it, so after a while it gets interim responses, which clients skip.

    One more than `limits.max_connections` takes the place of the one that has been idle longest.
    """

    def __init__(self, limits: Limits, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._limits = limits
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._probing: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        opened = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol) and not other.transport.is_closing()
        ]
        if len(opened) > self._limits.max_connections:
            idle = [other for other in opened if other is not self and not other._is_answering]
            min(idle, key=lambda other: other._idle_since, default=self)._abort()
        self._await_request()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Wait for the next request, if there can be one."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self._half_closed and not self._is_answering:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: stay open if it waits for an answer."""
        self._half_closed = self._is_answering and not self.cycle.more_body
        if self._half_closed and self.scope["http_version"] == "1.1":
            self._probing = self.loop.call_later(_PROBE_SECONDS, self._probe)
        return self._half_closed

    def _probe(self) -> None:
        if self._is_answering and not self.cycle.response_started:
            self.transport.write(_PROBE)
            self._probing = self.loop.call_later(_PROBE_SECONDS, self._probe)

    def data_received(self, data: bytes) -> None:
        """Read; the timer runs until the request is complete."""
        if self._receiving is None:
            self._await_request()
        super().data_received(data)
        if self.conn.their_state in _RECEIVED:
            self._stop_timer("_receiving")

    def pause_writing(self) -> None:
        """The send buffer is full: start the timer for the client to read."""
        super().pause_writing()
        self._stop_timer("_sending")
        self._sending = self.loop.call_later(self._limits.client_timeout, self._abort)

    def resume_writing(self) -> None:
        """The client has read enough."""
        super().resume_writing()
        self._stop_timer("_sending")

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one whose last answer was not read."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_timer("_receiving")
        self._stop_timer("_probing")
        super().connection_lost(exc)
        self._stop_timer("_sending")

    def _await_request(self) -> None:
        self._receiving = self.loop.call_later(
            self._limits.client_timeout + _SPARE_SECONDS, self._abort
        )

    def _stop_timer(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
