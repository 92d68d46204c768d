"""The gradients of a step: its passes, averaged, and shared out over the processes of a team.

A step has `accumulation` passes over batches, whatever the number of processes: these take turns
with whole passes, or where they are more than the passes, with the rows of one. So a step learns
from the same windows of the text, and (but for passes that are divided) with the same masks of
dropout, however many processes there are.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.corpus.training_windows import NO_TARGET
from minitx.engine import loss_function
from minitx.model import Transformer
from minitx.training.batches import Batch, Batches
from minitx.training.team import ALONE, Team


class GradientPass:
    """Computes the loss of one batch, and adds its gradients to those in the parameters.

    Gradients are averaged over the `passes` of an optimizer step, and by the last pass of each
    process, over the `team`.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used.
    """

    def __init__(
        self,
        model: Transformer,
        compute: Compute,
        passes: int = 1,
        engine: str = "auto",
        team: Team = ALONE,
    ) -> None:
        self._loss = loss_function(model, compute, engine)
        self._passes, self._team = passes, team
        # Any: `no_sync` is known to the modules of a team alone.
        self._module: Any = None
        if team.size > 1:
            self._module = team.gradient_module(_Loss(model, self._loss))

    def __call__(
        self, inputs: Tensor, targets: Tensor, weight: float = 1.0, is_last: bool = True
    ) -> Tensor:
        """Mean loss of a batch, `(batch, seq)` ids: a scalar in nats per token.

        Args:
            weight: part of a pass that the batch is.
            is_last: whether this process has no further pass in this step.
        """
        if self._module is None:
            loss = self._loss(inputs, targets)
            part = loss / self._passes if self._passes > 1 else loss
            part.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        with contextlib.nullcontext() if is_last else self._module.no_sync():
            loss = self._module(inputs, targets)
            # The mean over the team is taken afterwards.
            (loss * (weight * self._team.size / self._passes)).backward()
        own: Tensor = loss.detach() * weight
        return own


class _Loss(nn.Module):
    # The form in which torch averages gradients over processes.

    def __init__(self, model: Transformer, loss: object) -> None:
        super().__init__()
        self.model = model
        self._function = loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self._function(inputs, targets)  # type: ignore[operator]
        return loss


@dataclass(frozen=True)
class Share:
    """What a process computes in one go: some rows of a pass; None for all."""

    number: int
    rows: slice | None = None

    def of(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """Inputs and targets of these rows, and which part of the pass's targets they are."""
        if self.rows is None:
            return *batch, 1.0
        inputs, targets = (part[self.rows] for part in batch)
        counts = [int((part != NO_TARGET).sum()) for part in (targets, batch[1])]
        return inputs, targets, counts[0] / max(1, counts[1])


def shares(step: int, passes: int, batch_size: int, team: Team) -> list[Share]:
    """What this process of a team does in a step, from 0; empty if there are too few rows."""
    first, pieces = step * passes, min(batch_size, -(-team.size // passes))
    own = range(team.rank, passes * pieces, team.size)
    if pieces == 1:
        return [Share(first + index) for index in own]
    cuts = [batch_size * piece // pieces for piece in range(pieces + 1)]
    rows = [slice(*ends) for ends in itertools.pairwise(cuts)]
    return [Share(first + index // pieces, rows[index % pieces]) for index in own]


class StepGradients:
    """Leaves the gradients of a step in the parameters."""

    def __init__(
        self,
        model: Transformer,
        batches: Batches,
        config: TrainConfig,
        compute: Compute,
        team: Team = ALONE,
    ) -> None:
        self._config, self._batches, self._team = config, batches, team
        # Whether a model of one's own draws anything, nobody knows.
        self._draws = bool(model.config.dropout or model.config.code_file)
        self._pass = GradientPass(model, compute, config.accumulation, config.engine, team)

    def __call__(self, step: int) -> Tensor:
        """This process's part of the mean loss of a step: a scalar; over the team, they add up."""
        total: Tensor | None = None
        config = self._config
        own = shares(step, config.accumulation, config.batch_size, self._team)
        for share in own or [Share(step * config.accumulation, slice(0, 1))]:
            if self._draws:
                # A seed for each batch makes the masks a function of its number, so that a
                # resumed run needs no state of a random generator.
                torch.manual_seed(
                    _mixed_seed(config.seed, share.number, share.rows.start if share.rows else 0)
                )
            inputs, targets, weight = share.of(self._batches[share.number])
            is_last = not own or share is own[-1]
            loss = self._pass(inputs, targets, weight if own else 0.0, is_last)
            total = loss if total is None else total + loss
        assert total is not None
        return total / config.accumulation if config.accumulation > 1 else total


def _mixed_seed(seed: int, number: int, row: int) -> int:
    # Neighbouring numbers must give unrelated seeds: the finalizer of SplitMix64.
    z = (seed * 0x9E3779B97F4A7C15 + number + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z + row) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63


def number_after(number: int, config: TrainConfig, team: Team = ALONE) -> int:
    """The batch that this process will most likely ask for after a batch."""
    step = number // config.accumulation
    for of_step in (step, step + 1):
        own = shares(of_step, config.accumulation, config.batch_size, team)
        later = [share.number for share in own if share.number > number]
        if later:
            return later[0]
    return number + config.accumulation
