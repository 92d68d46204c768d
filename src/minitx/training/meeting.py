"""How the processes of a run find each other, and what they refuse before they begin.

They meet at a store: torchrun keeps it, or without torchrun the first of them. Whoever has come
beats from then on, so that a process lost on the way is noticed as in training; for one that never
comes the others wait `patience` seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitx import __version__
from minitx.errors import BadInputError, LostProcessError
from minitx.training.heartbeat import Heartbeat
from minitx.training.launched import RUN_NOTE

PATIENCE = "MINITX_MEETING_SECONDS"
"""Name in the environment: how long to wait for processes that have not come, after the last that
has."""

_COLLECTIVE = datetime.timedelta(days=7)
"""A collective call may wait so long: for the first process while it reads a large text. A process
that is gone or hangs is noticed by its heartbeat."""

_ONE_COMMAND = "Start all with one command: torchrun --nproc-per-node=2 -m minitx train corpus.txt"
_RUN = "minitx/run"


@dataclass(frozen=True)
class _Place:
    """Where to meet, and as whom."""

    rank: int
    size: int
    address: str
    port: int
    patience: int

    @classmethod
    def from_environment(cls) -> _Place:
        size = _number("WORLD_SIZE", None, range(1, 2**20))
        rank = _number("RANK", None, range(size))
        address = os.environ.get("MASTER_ADDR", "localhost")
        port = _number("MASTER_PORT", None, range(1, 2**16))
        return cls(rank, size, address, port, _number(PATIENCE, "20", range(1, 86400)))

    def __str__(self) -> str:
        return f"{self.address} port {self.port}"

    def error(self, what: str, fix: str) -> BadInputError:
        return BadInputError(f"process {self.rank} on {socket.gethostname()}: {what}", fix)


def _number(name: str, default: str | None, allowed: range) -> int:
    text = os.environ.get(name, default)
    if text is None or not text.isdigit() or int(text) not in allowed:
        is_what = "is not set" if text is None else f"is {text}"
        raise BadInputError(
            f"{name} {is_what} in the environment, and should be "
            f"{allowed.start:,} to {allowed.stop - 1:,}",
            _ONE_COMMAND,
        )
    return int(text)


@contextlib.contextmanager
def met(backend: str, asked: Mapping[str, object]) -> Iterator[Heartbeat]:
    """All processes of the run have come; torch.distributed works, for as long as the block runs.

    Args:
        asked: what this process was started with, by name; all must have been started alike.

    Raises:
        BadInputError: they can't reach each other, or do not fit together.
        LostProcessError: one did not come, or was lost on the way.
    """
    import torch
    from torch._C._distributed_c10d import PrefixStore

    place, server = _Place.from_environment(), None
    if place.rank == 0 and not _is_kept():
        server = _new_store(place)
    store = PrefixStore(f"minitx/{_attempt()}", _connected(place))
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "minitx": __version__,
        "torch": str(torch.__version__),
        "asked": {name: repr(value) for name, value in asked.items()},
    }
    heartbeat = Heartbeat(store, place.rank, place.size, RUN_NOTE in os.environ, about)
    heartbeat.patience = place.patience
    try:
        with heartbeat:
            _require_alike(heartbeat.wait_for_all())
            # A connection of its own: a collective call keeps it busy.
            rendezvous = PrefixStore(f"torch/{_attempt()}", _connected(place))
            _initialize(backend, rendezvous, place, heartbeat)
            yield heartbeat
    finally:
        if server is not None:
            # The others read there why this process ends.
            heartbeat.wait_for_others()


def _is_kept() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _attempt() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _new_store(place: _Place) -> Any:
    from torch._C._distributed_c10d import TCPStore

    try:
        return TCPStore(place.address, place.port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        if any(words in str(error) for words in ("EADDRINUSE", "already in use")):
            raise place.error(
                f"port {place.port} is taken", "Choose another on all machines: --master-port=29511"
            ) from None
        raise place.error(str(error).splitlines()[0][:200], _ONE_COMMAND) from None


def _connected(place: _Place) -> Any:
    from torch._C._distributed_c10d import TCPStore

    # torch would try for minutes, and no signal would stop it.
    problem: OSError | None = None
    until = time.monotonic() + place.patience
    while time.monotonic() < until:
        try:
            socket.create_connection((place.address, place.port), timeout=3).close()
            return TCPStore(
                place.address, place.port, is_master=False, wait_for_workers=False,
                timeout=datetime.timedelta(seconds=60),
            )  # fmt: skip
        except socket.gaierror as error:
            raise place.error(
                f"the name {place.address} (MASTER_ADDR) can't be resolved: {error.strerror}",
                "Give the address of the first machine instead: --master-addr=10.0.0.1",
            ) from None
        except OSError as error:
            problem = error
        except RuntimeError as error:
            what = f"{place} speaks another protocol: {str(error).splitlines()[0][:200]}"
            raise place.error(what, "Choose another --master-port on all machines") from None
        time.sleep(0.2)
    if isinstance(problem, ConnectionRefusedError):
        raise LostProcessError(
            f"process 0 of {place.size} did not come to {place} within {place.patience} s",
            f"See what it said itself; where it needs longer to start, set {PATIENCE}=120",
        )
    raise place.error(
        f"{place} does not answer ({problem})",
        "Check the address, and let the port through the firewall of that machine",
    )


def _require_alike(abouts: list[dict[str, Any]]) -> None:
    first = abouts[0]
    for rank, about in enumerate(abouts):
        who = f"process {rank} on {about['host']}"
        for package in ("minitx", "torch"):
            if about[package] != first[package]:
                raise BadInputError(
                    f"{who} has {package} {about[package]}, and process 0 on {first['host']} has "
                    f"{first[package]}",
                    "Install the same version on all machines",
                )
        for name in sorted(first["asked"].keys() | about["asked"].keys()):
            own, other = (asked.get(name, "left out") for asked in (about["asked"], first["asked"]))
            if own != other:
                raise BadInputError(
                    f"{who} was started with another {name} than process 0: {own}, not {other}",
                    "Give all processes the same command",
                )


def _initialize(backend: str, store: Any, place: _Place, heartbeat: Heartbeat) -> None:
    from torch import distributed
    from torch.distributed.distributed_c10d import _set_pg_timeout

    try:
        distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size,
            timeout=datetime.timedelta(seconds=place.patience),
        )  # fmt: skip
    except RuntimeError as error:
        lost = heartbeat.find_lost()
        if lost is not None:
            raise heartbeat.error(lost) from None
        raise place.error(
            f"the others are there, and can't be connected to: {str(error).splitlines()[0][:200]}",
            "Let the machines reach each other on all ports, or name the network that joins them: "
            "GLOO_SOCKET_IFNAME=eth0 (NCCL_SOCKET_IFNAME for GPUs)",
        ) from None
    _set_pg_timeout(_COLLECTIVE)


def remember_run(run: Path) -> None:
    """Tell the processes that torchrun starts instead of these, if they fail, which run to go on
    with."""
    if _is_kept():
        _connected(_Place.from_environment()).set(_RUN, str(run.absolute()))


def remembered_run() -> Path | None:
    """The run that processes before these, started by the same torchrun, have begun."""
    if not _is_kept():
        return None
    store = _connected(_Place.from_environment())
    return Path(store.get(_RUN).decode()) if store.check([_RUN]) else None
