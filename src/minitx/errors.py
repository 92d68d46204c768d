"""Errors that a person can act on: one line that names the thing, says why, and how to fix it.

Every error minitx raises on purpose derives from `MinitxError`. The command line prints it as
``error: WHAT. FIX`` on stderr, without a traceback, and exits with the class's `exit_code`.

| exit code | meaning                                                    |
| --------- | ---------------------------------------------------------- |
| 0         | done                                                       |
| 1         | a defect in minitx itself (a traceback is written)         |
| 2         | bad input: a flag, a file or a directory that can't be used |
| 3         | a damaged checkpoint or run file, detected on load         |
| 4         | training stopped because it became unstable                |
| 5         | the run directory is in use by another process             |
| 6         | one of several processes was lost; the run can be resumed  |
| 130       | interrupted (Ctrl-C), the run saved                        |
| 143       | terminated (SIGTERM or SIGHUP), the run saved              |
"""

from __future__ import annotations

from typing import Any


def as_sentence(text: str) -> str:
    """A text with a full stop, unless it ends as a sentence does."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


class MinitxError(Exception):
    """An expected failure, told in one line.

    Args:
        what: names the thing and says why it can't be used, without a final full stop.
        fix: what to do about it, as an imperative.
    """

    exit_code = 2

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{as_sentence(what)} {fix}")
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is else made again from its message alone, where another process raised it.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[MinitxError], arguments: tuple[str, ...]) -> MinitxError:
    return kind.__new__(kind, *arguments)


class BadInputError(MinitxError):
    """A flag, file or directory that can't be used as given (exit code 2)."""


class DamagedFileError(MinitxError):
    """A file of a checkpoint or run that fails its digest or does not parse (exit code 3)."""

    exit_code = 3


class InstabilityError(MinitxError):
    """Training can't go on: the loss is no longer a number or diverged (exit code 4)."""

    exit_code = 4


class RunLockedError(MinitxError):
    """Another process is writing to this run directory (exit code 5)."""

    exit_code = 5


class LostProcessError(MinitxError):
    """One of the processes that train together ended or hangs (exit code 6)."""

    exit_code = 6


class InterruptedRunError(MinitxError):
    """A signal ended the run after it was saved (exit code 128 + signal number)."""

    def __init__(self, what: str, fix: str, signal_number: int) -> None:
        super().__init__(what, fix)
        self.exit_code = 128 + signal_number


_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "invalid buffer size")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: that of Python, of torch on the CPU, or of a GPU.

    torch tells it as a RuntimeError of the CPU's allocator, or an OutOfMemoryError of the GPU's.
    """
    named = isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _NO_MEMORY
    )
    return named or isinstance(error, MemoryError)
