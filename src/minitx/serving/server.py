"""Runs uvicorn from a listening socket to the last answer, with bounds on its connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from minitx.config import Limits
from minitx.errors import BadInputError
from minitx.serving.http_app import Listening, Service
from minitx.serving.metrics import RequestRecord
from minitx.training.signals import StopRequest

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


_TICK = 0.05
_SEND_BUFFER = 1 << 16
_BACKLOG = 512
_CLOSING_SECONDS = 2
_KEEP_ALIVE_SECONDS = 15


class ServerStop(StopRequest):
    """A request to stop, and a second one to stop `at_once`, without waiting for running requests.

    The second Ctrl-C, too, is only noted: an exception would be raised in the task of some request
    and end there. A third one raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT and not self.at_once:
            self.at_once = True
        else:
            super()._note(number, frame)


@dataclass(frozen=True)
class ExitReport:
    """How a server ended."""

    signal_number: int | None  # None if the model stopped working.
    n_cut: int  # Completions that took longer than the grace period.

    @property
    def exit_code(self) -> int:
        """Of the process: 128 + the signal, as the shell counts; 1 for a model that failed."""
        return 1 if self.signal_number is None else 128 + self.signal_number


class Screen(Protocol):
    """Is called with what happens."""

    def ready(self, listening: Listening) -> None:
        """The server answers requests from now on."""

    def request(self, record: RequestRecord) -> None:
        """A request has ended."""

    def stopping(self, n_running: int) -> None:
        """A signal to stop arrived while so many completions run."""

    def ended(self, report: ExitReport) -> None:
        """The server has stopped."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything slow is done; port 0 is any that is free.

    Raises:
        BadInputError: the port is taken, or can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError):
        raise BadInputError(
            f"--host {host} is no address of this machine", "Leave it out, or use 0.0.0.0"
        ) from None
    try:
        if sys.platform != "win32":
            # On Windows it would let two servers have the same port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Small, so that what a slow client has not read counts against its limit soon.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise BadInputError(
            f"{host} port {port} can't be listened to ({error.strerror})",
            "Choose another with --port, or --port 0 for any free one",
        ) from None
    return listening


def run(listening: Listening, screen: Screen, stop: ServerStop) -> ExitReport:
    """Serve until a signal: Ctrl-C, SIGTERM or SIGHUP.

    Then new requests are refused, and running ones have `limits.grace` seconds to end. A second
    Ctrl-C ends them at once. The socket is closed at the end.
    """
    limits = listening.limits

    async def main() -> ExitReport:
        service = Service(listening, screen.request)
        server = _server_of(service, limits)
        service.engine.start()
        serving = asyncio.create_task(server.serve(sockets=[listening.opened]))
        try:
            while not server.started:
                await asyncio.sleep(0.001)
            screen.ready(listening)
            while stop.signal_number is None and not service.engine.gave_up:
                await asyncio.sleep(_TICK)
            service.draining = True
            if stop.signal_number is not None:
                screen.stopping(service.busy)
            n_cut = await _drain(service, limits.grace, stop)
            server.should_exit = True
            await serving
        finally:
            service.engine.close()
        return ExitReport(stop.exit_signal, n_cut)

    report = asyncio.run(main())
    screen.ended(report)
    return report


def run_page(
    opened: socket.socket, app: ASGIApp, stop: ServerStop, ready: Callable[[], None]
) -> int:
    """Serve a page at a listening socket until a signal; the exit code, as the shell counts."""

    async def main() -> None:
        server = _server_of(app, Limits())
        serving = asyncio.create_task(server.serve(sockets=[opened]))
        while not server.started:
            await asyncio.sleep(0.001)
        ready()
        while stop.signal_number is None:
            await asyncio.sleep(_TICK)
        server.should_exit = True
        await serving

    asyncio.run(main())
    return 128 + (stop.exit_signal or 0)


def _server_of(app: ASGIApp, limits: Limits) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=functools.partial(BoundedProtocol, limits),  # type: ignore[arg-type]
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # As many are accepted at once, before those beyond the limit are closed.
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
    )


async def _drain(service: Service, grace: float, stop: ServerStop) -> int:
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    while service.busy and loop.time() < end and not (stop.at_once or service.engine.gave_up):
        await asyncio.sleep(_TICK)
    n_cut = service.busy
    service.cut_off()
    end = loop.time() + _CLOSING_SECONDS
    while service.busy and loop.time() < end:
        await asyncio.sleep(_TICK)
    return n_cut


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would close before we answer 503."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
