"""Which known slip, or which two together, give the very numbers that an answer gave."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from minitx.learn.exercise import Exercise, Slip
from minitx.learn.trial import Trials, result_of, same


def slips_that_explain(exercise: Exercise, trials: Trials, got: list[Any]) -> tuple[Slip, ...]:
    """The slips with which the solution gives what the answer gave; () if none.

    Args:
        exercise: with its slips.
        trials: to run them on.
        got: results of the answer, one for each trial, or for the first ones.
    """
    for slips in _alone_and_in_pairs(exercise.slips):
        code: str | None = exercise.solution
        for slip in slips:
            code = slip.applied(code) if code is not None else None
        if code is not None and _gives(code, trials, got):
            return slips
    return ()


def _alone_and_in_pairs(slips: tuple[Slip, ...]) -> Iterator[tuple[Slip, ...]]:
    yield from ((slip,) for slip in slips)
    yield from itertools.combinations(slips, 2)


def _gives(code: str, trials: Trials, got: list[Any]) -> bool:
    # A slip may raise where the answer does not: then it explains nothing.
    try:
        return all(
            same(result_of(trial), given)
            for trial, given in zip(trials(run(code)), got, strict=False)
        )
    except Exception:
        return False


def run(code: str, name: str = "a_slip") -> SimpleNamespace:
    """The names that a module of this code has."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec"), names)
    return SimpleNamespace(**names)
