"""Start a command again in several processes on this machine, as torchrun does."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError, LostProcessError
from minitx.files import shell_word
from minitx.training.launched import RUN_NOTE, is_launched, told_beside


def wanted_processes(given: int | None) -> int:
    """How many processes to start, of so many that were asked for: 0 for none but this one.

    Raises:
        BadInputError: torchrun has started another number.
    """
    if not is_launched():
        return given if given is not None and given > 1 else 0
    started = int(os.environ["WORLD_SIZE"])
    if given not in (None, started):
        raise BadInputError(
            f"--processes {given} was given, and torchrun started {started}",
            "Leave out --processes",
        )
    return 0


def processes_of(run: Path | None) -> int | None:
    """As many as a run had; None where torchrun has started some.

    Raises:
        BadInputError, DamagedFileError: there is no such run, or it can't be read.
    """
    return None if is_launched() else RunDirectory.open(run).read_config().train.processes


def run_processes(n: int, arguments: Sequence[str]) -> None:
    """Run `minitx` with these arguments in so many processes, and wait for them.

    Raises:
        LostProcessError: one was killed.
        SystemExit: with the exit code of the one that ended first with another than 0, which has
            said why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it says of processes that fail, they have said themselves.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="minitx-") as directory, _own_environment():
        note = Path(directory) / "run"
        os.environ[RUN_NOTE] = str(note)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=n,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",  # A name of this machine may not be known to itself.
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "minitx", *arguments)
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None
        except ChildFailedError as error:
            if told_beside(note).exists():
                raise SystemExit(LostProcessError.exit_code) from None
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            # Others end by SIGTERM, which the launcher sends them when one has failed.
            for rank in sorted(codes):
                if codes[rank] < 0 and -codes[rank] not in (signal.SIGTERM, signal.SIGINT):
                    raise _killed(rank, n, -codes[rank], note) from None
            ended = [codes[rank] for rank in sorted(codes) if codes[rank] > 0]
            if not ended:  # Before they could say anything.
                raise _killed(min(codes), n, signal.SIGTERM, note) from None
            raise SystemExit(ended[0]) from None


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """What is set in the block is for the processes started there: nothing of it stays."""
    before = set(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before:
            del os.environ[name]


def _killed(rank: int, n: int, number: int, note: Path) -> LostProcessError:
    fix = "Start the command again"
    if note.exists():
        run = shell_word(Path(note.read_text(encoding="utf-8")))
        fix = f"The last checkpoint is whole; go on with: minitx resume {run}"
    name = signal.Signals(number).name
    return LostProcessError(f"process {rank} of {n} was killed ({name})", fix)
