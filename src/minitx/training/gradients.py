"""The gradients of a step: its passes, averaged, and shared out over the processes of a team.

A step has `accumulation` passes over batches, whatever the number of processes: these take turns
with whole passes, or where they are more than the passes, with the rows of one. Where a pass does
not fit into memory, it is divided, too. Of conversations each target counts alike, however many of
them a pass has. So a step learns from the same windows of the text, and
(but for passes that are divided) with the same masks of dropout, however many processes there are.
In float32, passes are added up in float64: then the sum hardly depends on who added up what.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.corpus.training_windows import NO_TARGET
from minitx.engine import loss_function
from minitx.errors import BadInputError, is_out_of_memory
from minitx.model import Transformer
from minitx.training.batches import Batch, Batches
from minitx.training.sharding import Shards
from minitx.training.team import ALONE, Team


class GradientPass:
    """Computes the loss of one batch, and adds its gradients to those in the parameters.

    Gradients are averaged over the `passes` of an optimizer step.

    Raises:
        BadInputError: torch.compile was asked for where it can't be used.
    """

    def __init__(
        self,
        model: Transformer,
        compute: Compute,
        passes: int = 1,
        engine: str = "auto",
        recompute: bool = False,
    ) -> None:
        self._loss, self._passes = loss_function(model, compute, engine, recompute), passes

    def __call__(
        self, inputs: Tensor, targets: Tensor, weight: float = 1.0, scale: float = 1.0
    ) -> Tensor:
        """Mean loss of a batch, `(batch, seq)` ids: a scalar in nats per token.

        Args:
            weight: part of a pass that the batch is; the loss is multiplied by it.
            scale: factor of the gradients alone.
        """
        loss = self._loss(inputs, targets)
        own = loss * weight if weight != 1.0 else loss
        part = own / self._passes if self._passes > 1 else own
        part = part * scale if scale != 1.0 else part
        part.backward()  # type: ignore[no-untyped-call]
        return own.detach()


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


def shares(step: int, passes: int, batch_size: int, team: Team, most_rows: int = 0) -> list[Share]:
    """What this process of a team does in a step, from 0; empty if there are too few rows.

    At most so many rows in one go; 0 is no limit.
    """
    first, pieces = step * passes, _pieces(passes, batch_size, team)
    own = range(team.rank, passes * pieces, team.size)
    # What a process has of a pass it divides further.
    parts = -(-_most_of_pass(passes, batch_size, team) // most_rows) if most_rows else 1
    if pieces == parts == 1:
        return [Share(first + index) for index in own]
    return [
        Share(first + index // pieces, slice(*ends))
        for index in own
        for start, stop in [_bounds(batch_size, pieces)[index % pieces]]
        for ends in (
            (start + a, start + b) for a, b in _bounds(stop - start, min(parts, stop - start))
        )
    ]


def _pieces(passes: int, batch_size: int, team: Team) -> int:
    # Processes divide a pass where they are more than the passes.
    return min(batch_size, -(-team.size // passes))


def _most_of_pass(passes: int, batch_size: int, team: Team) -> int:
    # Rows of a pass that one process has, at most.
    return -(-batch_size // _pieces(passes, batch_size, team))


def _bounds(rows: int, pieces: int) -> list[tuple[int, int]]:
    cuts = [rows * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(cuts))


class NoMemoryError(Exception):
    """Memory ran out in a pass in which other processes wait for this one."""


class StepGradients:
    """Leaves the gradients of a step in the parameters, or in the rows of `shards`.

    Attributes:
        micro_batch_size: rows of a pass that are computed at once; 0 is all. Halved where memory
            runs out.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Batches,
        config: TrainConfig,
        compute: Compute,
        team: Team = ALONE,
        shards: Shards | None = None,
    ) -> None:
        self._config, self._batches, self._team = config, batches, team
        self._shards = shards
        # Whether a model of one's own draws anything, nobody knows.
        self._draws = bool(model.config.dropout or model.config.code_file)
        self._pass = GradientPass(
            model, compute, config.accumulation, config.engine, config.recompute
        )
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._device = compute.device
        self._in_float64 = (
            config.accumulation > 1
            and compute.dtype == torch.float32
            and compute.device.type != "mps"  # Apple's GPUs have no float64.
            and shards is None
        )
        self._sums: dict[int, Tensor] = {}  # of the parameter with this number, in float64
        self.micro_batch_size = config.micro_batch_size

    def __call__(self, step: int, scale: float = 1.0) -> Tensor:
        """This process's part of the mean loss of a step: a scalar; over the team, they add up.

        The gradients are multiplied by `scale`.

        Raises:
            BadInputError: memory ran out with a single sequence.
            NoMemoryError: memory ran out, and there are `shards`; `micro_batch_size` is halved.
        """
        if self._shards is not None:
            with self._team.joint_pass():
                loss = self._own_part(step, scale)
            if loss is None:
                self._halve()
                raise NoMemoryError
            self._shards.take_gradients()
            return loss
        loss = self._own_part(step, scale)
        # Before any process waits for the gradients of another.
        while self._team.any(loss is None):
            self._halve()
            loss = self._own_part(step, scale)
        assert loss is not None
        if self._in_float64:
            self._team.add_up_all([self._sums[number] for number in sorted(self._sums)])
            for number, whole in self._sums.items():
                parameter = self._parameters[number]
                parameter.grad = whole.to(parameter.dtype)
        else:
            self._team.add_up_all([p.grad for p in self._parameters if p.grad is not None])
        return loss

    def _own_part(self, step: int, scale: float) -> Tensor | None:
        try:
            return self._passes(step, scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler, which keeps all that the pass had in memory.
        return None

    def _passes(self, step: int, scale: float) -> Tensor:
        config, total = self._config, torch.zeros((), device=self._device)
        n_passes = 0
        sizes = (config.accumulation, config.batch_size, self._team, self.micro_batch_size)
        for whole in self._sums.values():
            whole.zero_()
        weights = self._weights(step)
        for share in shares(step, *sizes):
            if self._draws:
                # A seed for each batch makes the masks a function of its number, so that a
                # resumed run needs no state of a random generator.
                torch.manual_seed(
                    _mixed_seed(config.seed, share.number, share.rows.start if share.rows else 0)
                )
            inputs, targets, weight = share.of(self._batches[share.number])
            weight *= weights.get(share.number, 1.0)
            if weight:
                total, n_passes = total + self._pass(inputs, targets, weight, scale), n_passes + 1
                if self._in_float64:
                    self._add_to_sums()
        if self._shards is not None:
            # The others gather each block as often as the one that has most to do.
            nothing = torch.zeros(1, 1, dtype=torch.int64, device=total.device)
            for _ in range(n_passes, self._most_passes(step)):
                self._pass(nothing, nothing, 0.0, scale)
        elif self._team.size > 1:  # A process that had nothing to do joins in all the same.
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if self._in_float64:
                self._add_to_sums()
        return total / config.accumulation if config.accumulation > 1 else total

    def _weights(self, step: int) -> dict[int, float]:
        # Of the passes of a step, if they may have more targets or fewer: on average 1.
        passes = self._config.accumulation
        if passes == 1 or self._batches.answers is None:
            return {}
        counts = {i: self._batches.n_targets(i) for i in range(step * passes, (step + 1) * passes)}
        total = max(1, sum(counts.values()))
        return {i: count * passes / total for i, count in counts.items()}

    def _most_passes(self, step: int) -> int:
        # Of a process of the team in this step.
        config, counts = self._config, []
        for rank in range(self._team.size):
            member = Team()
            member.rank, member.size = rank, self._team.size
            sizes = (config.accumulation, config.batch_size, member, self.micro_batch_size)
            counts.append(len(shares(step, *sizes)))
        return max(counts)

    def _add_to_sums(self) -> None:
        for number, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                if number not in self._sums:
                    self._sums[number] = torch.zeros_like(parameter, dtype=torch.float64)
                self._sums[number] += parameter.grad
                parameter.grad = None

    def _halve(self) -> None:
        config = self._config
        most = _most_of_pass(config.accumulation, config.batch_size, self._team)
        rows = min(self.micro_batch_size or most, most)
        if rows == 1:
            raise BadInputError(
                "memory ran out with one sequence at a time",
                "Lower --context or the sizes of the model, or close other programs",
            )
        self.micro_batch_size = -(-rows // 2)
        for parameter in self._parameters:
            parameter.grad = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


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
