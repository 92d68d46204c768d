"""What a check of the causal mask gives: the ways through a model, and the first leak of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minitx.shown import Shown

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Leak:
    """A logit that moved when only later tokens changed.

    Attributes:
        position: the earliest position whose logits moved.
        cut: tokens after this position were changed.
        largest_change: of any logit that should not have moved.
        layer: where the leak comes in; None if it is outside the layers.
        heads: heads of that layer whose output moved; empty if it is not in attention.
        place: the same in words.
    """

    position: int
    cut: int
    largest_change: float
    layer: int | None
    heads: tuple[int, ...]
    place: str


@dataclass(frozen=True)
class PathCheck:
    """One way through the model, checked.

    Attributes:
        path: which way.
        cuts: number of cuts made.
        logits: how many logits were compared.
        leak: the first found, or None: not one bit moved.
    """

    path: str
    cuts: int
    logits: int
    leak: Leak | None


@dataclass(frozen=True)
class MaskCheck(Shown):
    """All ways through the model, checked on texts of `length` tokens."""

    length: int
    paths: tuple[PathCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether no logit moved anywhere."""
        return all(path.leak is None for path in self.paths)


def moved_bits(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where two tensors differ in any bit; 0 and -0 are one number, and so is every NaN."""
    return (before != after) & ~(before.isnan() & after.isnan())
