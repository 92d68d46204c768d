"""One call of a learner's function, what it gave, and whether it left its inputs alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Trial:
    """A call.

    Attributes:
        about: the call in words, as a learner reads it: ``attention(queries, keys, values)``.
        function: what is called.
        inputs: with what; the function gets copies.
        is_causal: along axis -2 of the inputs and of the result, or along -1 of ids, nothing may
            be seen that comes later.
    """

    about: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    is_causal: bool = False


Code = SimpleNamespace
"""What has an exercise's functions: a learner's module, a solution with a slip, or a reference."""

Calls = Iterator[Trial]
Trials = Callable[[Code], Calls]
"""From code to the calls to make of it."""


class ChangedInputError(Exception):
    """A function wrote into what it was given."""


def result_of(trial: Trial) -> Any:
    """What the call returns.

    Raises:
        ChangedInputError: it changed an input in place.
    """
    given = copy.deepcopy(trial.inputs)
    result = trial.function(*given)
    for before, after in zip(trial.inputs, given, strict=True):
        if not isinstance(before, (nn.Module, torch.optim.Optimizer)) and not same(before, after):
            raise ChangedInputError(trial.about)
    return as_data(result)


def as_data(value: Any) -> Any:
    """A result without gradients and in containers of one kind, so that two can be compared."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return [as_data(inner) for inner in value]
    if isinstance(value, dict):
        return {as_key(key): as_data(inner) for key, inner in value.items()}
    if type(value).__module__ == "numpy":
        return torch.as_tensor(value)
    return value


def as_key(key: Any) -> Any:
    """A key of a dictionary as it is compared: a tensor with one number is that number."""
    return key.item() if isinstance(key, Tensor) and key.numel() == 1 else key


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal; floating-point numbers to about five digits."""
    if is_number(one) and is_number(other):
        first, second = torch.as_tensor(one), torch.as_tensor(other)
        if first.shape != second.shape:
            return False
        if isinstance(one, Tensor) and isinstance(other, Tensor) and kind_of(one) != kind_of(other):
            return False
        return bool(
            torch.isclose(
                first.double(), second.double(), rtol=1e-4, atol=1e-5, equal_nan=True
            ).all()
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (nn.Module, torch.optim.Optimizer)):
        return True
    return bool(one == other)


def kind_of(tensor: Tensor) -> str:
    """Which of three kinds of numbers are in a tensor, whatever their precision."""
    if tensor.dtype == torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "int"


def is_number(value: Any) -> bool:
    """Whether a value is a tensor or a plain number."""
    return isinstance(value, (Tensor, int, float)) and not isinstance(value, bool)
