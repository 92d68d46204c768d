"""Runs a server from a listening socket to the last answer, and reports how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import uvicorn

from minitx.errors import BadInputError
from minitx.serving.connection import BoundedProtocol
from minitx.serving.http_app import Listening, Service
from minitx.serving.metrics import RequestRecord
from minitx.training.signals import StopRequest

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
    """How a server ended.

    Attributes:
        signal_number: of the signal that stopped it; None if the model stopped working.
        n_cut: completions that took longer than the grace period and were cut off.
    """

    signal_number: int | None
    n_cut: int

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
        server = _Server(
            uvicorn.Config(
                service,
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
