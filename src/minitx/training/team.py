"""Processes that train one model together: who they are, and what they tell each other.

torchrun starts them, or `minitx train --processes`. The first one has the run: it reads the text,
plans, scores, writes, and talks to a person. The others compute gradients with it. What depends on
a clock, a signal or a score is decided by the first one, so that all do the same.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from minitx.errors import BadInputError, MinitxError
from minitx.files import shell_word
from minitx.training.heartbeat import Heartbeat
from minitx.training.launched import RUN_NOTE, is_launched

T = TypeVar("T")

_PATIENCE = datetime.timedelta(days=7)
"""A collective call may wait so long: for the first process while it reads a large text. A process
that is gone or hangs is noticed by its heartbeat."""

_BROKEN = ("gloo", "nccl", "connection", "socket", "broken pipe", "store", "peer")
"""Words of what torch says when another process is gone."""


class Team:
    """The processes of a run; this class itself is one that trains alone.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process has the run."""
        return self.rank == 0

    def first(self, function: Callable[[], T]) -> T:
        """What the first process gets from a function, which it alone calls; for all of them."""
        return function()

    def add_up(self, numbers: Tensor) -> Tensor:
        """Sums of `numbers`, `(n,)`, over all processes, in their place."""
        return numbers

    def share_out(self, tensor: Tensor, owner: int) -> None:
        """Make a tensor on all processes what it is on one."""

    def gradient_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """A module whose backward pass leaves the mean over all processes in its gradients."""
        return module

    def require_agreement(self, problem: str | None) -> None:
        """Go on if no process has a problem.

        Raises:
            BadInputError: one has; the first of them is named.
        """

    def began(self, run: Path) -> None:
        """From now on there is a run to go on with."""


ALONE = Team()


class _JoinedTeam(Team):
    def __init__(self, store: Any) -> None:
        # Not loaded where nobody needs it.
        from torch import distributed

        self._torch = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.heartbeat = Heartbeat(store, self.rank, self.size, RUN_NOTE in os.environ)

    def first(self, function: Callable[[], T]) -> T:
        message: list[Any] = [None]
        if self.is_first:
            message[0] = function()
        self._torch.broadcast_object_list(message, src=0)
        result: T = message[0]
        return result

    def add_up(self, numbers: Tensor) -> Tensor:
        self._torch.all_reduce(numbers)
        return numbers

    def share_out(self, tensor: Tensor, owner: int) -> None:
        self._torch.broadcast(tensor, src=owner)

    def gradient_module(self, module: torch.nn.Module) -> torch.nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def require_agreement(self, problem: str | None) -> None:
        problems: list[str | None] = [None] * self.size
        self._torch.all_gather_object(problems, problem)
        for rank, told in enumerate(problems):
            if told is not None:
                raise BadInputError(
                    f"process {rank} of {self.size} can't take part: {told}",
                    "Start all processes with the same minitx, on a file system that all share",
                )

    def began(self, run: Path) -> None:
        self.heartbeat.go_on = f"minitx resume {shell_word(run)}"
        if self.is_first and RUN_NOTE in os.environ:
            Path(os.environ[RUN_NOTE]).write_text(str(run), encoding="utf-8")


@contextlib.contextmanager
def joined_team(device: str = "auto") -> Iterator[Team]:
    """The team of this process, for as long as the block runs.

    Raises:
        BadInputError: the processes did not find each other.
        LostProcessError: one of them ended or hangs; told by one of the others.
    """
    if not is_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store = _meet("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    team = _JoinedTeam(store)
    try:
        with team.heartbeat:
            try:
                yield team
            except MinitxError as error:
                team.heartbeat.end(error.exit_code, error.what, error.fix)
                if team.is_first:
                    raise
                # The first one says it. It may save, or wait for this one.
                with contextlib.suppress(Exception):
                    torch.distributed.destroy_process_group()
                team.heartbeat.wait_for_first()
                raise SystemExit(error.exit_code) from None
            except RuntimeError as error:
                if any(word in str(error).lower() for word in _BROKEN):
                    team.heartbeat.tell_loss()
                raise
    finally:
        with contextlib.suppress(Exception):
            torch.distributed.destroy_process_group()


def _meet(backend: str) -> Any:
    """Find the other processes, by the environment that torchrun sets; returns their store."""
    from torch import distributed
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    address = os.environ.get("MASTER_ADDR", "localhost")
    port = os.environ.get("MASTER_PORT", "?")
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
        # A connection of its own, which no collective call keeps busy.
        store = TCPStore(address, int(port), is_master=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"minitx/{attempt}", store)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise BadInputError(
            f"process {os.environ['RANK']} on {socket.gethostname()} did not meet the others at "
            f"{address} port {port}: {reason}",
            "Check the address and that the port is free and let through, and start all with one "
            "command, for example torchrun --nproc-per-node=2 -m minitx train corpus.txt",
        ) from None
