"""Processes that train one model together: who they are, and what they tell each other.

torchrun starts them, or `minitx train --processes`. The first one has the run: it reads the text,
plans, scores, writes, and talks to a person. The others compute gradients with it. What depends on
a clock, a signal or a score is decided by the first one, so that all do the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGTERM
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from minitx.errors import BadInputError, MinitxError
from minitx.files import shell_word
from minitx.training.heartbeat import Heartbeat
from minitx.training.launched import RUN_NOTE, is_launched
from minitx.training.meeting import met, remember_run

T = TypeVar("T")

_MESSAGE = 2**24
"""Numbers in one message."""

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

    def wait_for_first(self) -> None:
        """Return in the others when the first comes here; a signal stops them while they wait."""

    def add_up(self, numbers: Tensor) -> Tensor:
        """Sums of `numbers`, `(n,)`, over all processes, in their place."""
        return numbers

    def share_out(self, tensor: Tensor, owner: int) -> None:
        """Make a tensor on all processes what it is on one."""

    def add_up_all(self, tensors: list[Tensor]) -> None:
        """Sums of tensors of any shapes over all processes, in their place."""

    def gather_rows(self, tensor: Tensor, n_rows: int) -> Tensor:
        """In the first process: all rows of a tensor of which each has those of `rows_of`."""
        return tensor

    def exchange(self, pieces: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """Send each of `pieces` to the process of its number; what came from each, `(size,)`."""
        return [piece.reshape(-1) for piece in pieces]

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process."""
        return flag

    def is_first_to(self, what: str) -> bool:
        """Whether no other process has asked this before."""
        return True

    def joint_pass(self) -> AbstractContextManager[None]:
        """A block in which this process waits for the others, and can't be told if one fails."""
        return contextlib.nullcontext()

    def require_agreement(self, problem: str | None) -> None:
        """Go on if no process has a problem.

        Raises:
            BadInputError: one has; the first of them is named.
        """

    def began(self, run: Path) -> None:
        """From now on there is a run to go on with."""
        remember_run(run)


ALONE = Team()


def rows_of(n_rows: int, rank: int, size: int) -> slice:
    """Which of so many rows a process has of a model that is shared out, as torch's `chunk`."""
    most = -(-n_rows // size)
    return slice(min(n_rows, rank * most), min(n_rows, (rank + 1) * most))


class _JoinedTeam(Team):
    def __init__(self, heartbeat: Heartbeat) -> None:
        # Not loaded where nobody needs it.
        from torch import distributed

        self._torch = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.heartbeat = heartbeat

    def first(self, function: Callable[[], T]) -> T:
        message: list[Any] = [None]
        if self.is_first:
            message[0] = function()
        self._torch.broadcast_object_list(message, src=0)
        result: T = message[0]
        return result

    def wait_for_first(self) -> None:
        self.heartbeat.wait_at("opened")

    def add_up(self, numbers: Tensor) -> Tensor:
        self._torch.all_reduce(numbers)
        return numbers

    def share_out(self, tensor: Tensor, owner: int) -> None:
        self._torch.broadcast(tensor, src=owner)

    def add_up_all(self, tensors: list[Tensor]) -> None:
        # In a few large messages. All engines but the plain one have their gradients all at once,
        # so there is nothing to send while others are computed.
        while tensors:
            sizes = itertools.accumulate(tensor.numel() for tensor in tensors)
            n = max(1, sum(size <= _MESSAGE for size in sizes))
            some, tensors = tensors[:n], tensors[n:]
            packed = torch.cat([tensor.reshape(-1) for tensor in some])
            self._torch.all_reduce(packed)
            parts = torch.split(packed, [tensor.numel() for tensor in some])
            torch._foreach_copy_(some, [p.view_as(t) for p, t in zip(parts, some, strict=True)])

    def gather_rows(self, tensor: Tensor, n_rows: int) -> Tensor:
        most = -(-n_rows // self.size)
        padded = tensor.new_zeros(most, *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_first else None
        self._torch.gather(padded, parts)
        return tensor if parts is None else torch.cat(parts)[:n_rows]

    def exchange(self, pieces: list[Tensor], sizes: list[int]) -> list[Tensor]:
        sent = torch.cat([piece.reshape(-1) for piece in pieces])
        got = sent.new_empty(sum(sizes))
        counts = [piece.numel() for piece in pieces]
        self._torch.all_to_all_single(got, sent, sizes, counts)
        return list(torch.split(got, sizes))

    def any(self, flag: bool) -> bool:
        # In the processor's memory: to ask for it waits for no GPU.
        flags = torch.tensor([float(flag)])
        self._torch.all_reduce(flags)
        return bool(flags)

    def is_first_to(self, what: str) -> bool:
        return self.heartbeat.is_first_to(what)

    @contextlib.contextmanager
    def joint_pass(self) -> Iterator[None]:
        self.heartbeat.in_joint_pass = True
        yield
        self.heartbeat.in_joint_pass = False

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
        if self.is_first:
            remember_run(run)
        if self.is_first and RUN_NOTE in os.environ:
            Path(os.environ[RUN_NOTE]).write_text(str(run), encoding="utf-8")


@contextlib.contextmanager
def joined_team(
    device: str = "auto", asked: Mapping[str, object] = MappingProxyType({})
) -> Iterator[Team]:
    """The team of this process, for as long as the block runs.

    `asked` is what this process was started with, by name.

    Raises:
        BadInputError: the processes did not find each other, or were not started alike.
        LostProcessError: one of them ended or hangs; told by one of the others.
    """
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    local_rank = os.environ.get("LOCAL_RANK", "0")
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(local_rank))
    with contextlib.ExitStack() as stack:
        try:
            meeting = met("cpu:gloo,cuda:nccl" if on_gpus else "gloo", asked)
            heartbeat = stack.enter_context(meeting)
        except (MinitxError, KeyboardInterrupt) as error:
            if local_rank != "0":  # One line for each machine.
                raise SystemExit(getattr(error, "exit_code", 128 + SIGTERM)) from None
            raise
        try:
            yield _JoinedTeam(heartbeat)
        except MinitxError as error:
            heartbeat.end(error.exit_code, error.what, error.fix)
            if heartbeat.rank == 0:
                if not heartbeat.go_on:
                    heartbeat.require_no_failure()
                raise
            # The first one says it. It may save, or wait for this one.
            with contextlib.suppress(Exception):
                torch.distributed.destroy_process_group()
            heartbeat.wait_for_first()
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            if heartbeat.rank == 0:
                raise
            what = f"process {heartbeat.rank} was asked to stop before the first step"
            heartbeat.end(128 + SIGTERM, what, "Start the command again")
            raise SystemExit(128 + SIGTERM) from None
        except RuntimeError as error:
            if any(word in str(error).lower() for word in _BROKEN):
                heartbeat.tell_loss()
            raise
        finally:
            with contextlib.suppress(Exception):
                torch.distributed.destroy_process_group()
