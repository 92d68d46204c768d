"""Muon: momentum whose update is orthogonalized (Jordan et al. 2024).

A gradient matrix is usually dominated by a few directions. Muon replaces the momentum matrix
U S V^T by U V^T, so that every direction it contains is followed at the same speed. A few matrix
products approximate U V^T; no singular values are ever computed.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitx.checkpoint.own_model import OwnModel
from minitx.config import TrainConfig
from minitx.engine import update_kernels
from minitx.model import Transformer, matrix_parameters
from minitx.training.optimizers import OPTIMIZERS
from minitx.training.optimizers.adamw import AdamWOptimizer
from minitx.training.team import ALONE, Team, rows_of

# Odd polynomials a x + b x^3 + c x^5, applied one after the other. Together they move every
# singular value from [0.01, 1] into [0.73, 1.27], and smaller ones up by a factor of 78. Each is
# the best approximation of 1 on the interval that those before it leave: the construction of
# Amsel et al. 2025 (The Polar Express, theorem 3.1), begun at 0.01. Jordan's five equal
# polynomials reach (0.68, 1.2) from there; three that differ do it at three fifths of the cost.
POLYNOMIALS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)

_SAFETY = 1.02
"""The first polynomial is steep at 1: rounding must not carry a singular value beyond."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, approximately, by matrix products alone.

    Args:
        matrices: `(n, rows, columns)`, any float dtype; the products run in that dtype.

    Returns:
        `(n, rows, columns)`: the same singular vectors, singular values from about 0.7 to 1.3.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    # First to a size at which squares neither overflow nor vanish.
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-20)
    gram = torch.bmm(x, x.mT)
    # No singular value exceeds the fourth root of their fourth powers' sum. That is the square
    # root of the Gram matrix's norm, and a much closer bound than the norm of x.
    bound = _SAFETY * torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True) + 1e-20
    x, gram = x * bound.rsqrt(), gram / bound
    for number, (a, b, c) in enumerate(POLYNOMIALS):
        if number:
            gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def _size(rows: int, columns: int) -> float:
    # An orthogonal update of a tall matrix has entries too small for its row count: scaling by
    # sqrt(rows / columns) keeps the change of the output's size comparable.
    return math.sqrt(max(1.0, rows / columns))


class Section(NamedTuple):
    """Some rows of a matrix: which matrix, the first of the rows, and how many."""

    matrix: int
    row: int
    rows: int
    columns: int


class Muon:
    """Muon over the blocks' matrices, batched: equal shapes are orthogonalized together.

    Args:
        parameters: `(name, parameter, row_sections)`; a fused matrix (queries, keys and values in
            one) is orthogonalized section by section, as the separate matrices that it stands for.
        momentum: decay of the running gradient; the update looks one step ahead (Nesterov).
        weight_decay: decoupled, scaled by the learning rate.
        dtype: of the products; bfloat16 is exact enough for a direction.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor, tuple[int, ...]]],
        *,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.names: list[str] = []
        self.parameters: list[Tensor] = []
        self.momenta: list[Tensor] = []
        self._row_sections: list[tuple[int, ...]] = []
        # By shape (rows, columns): in which matrix each such section is, and from which row on.
        groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for index, (name, parameter, row_sections) in enumerate(parameters):
            self.names.append(name)
            self.parameters.append(parameter)
            self.momenta.append(parameter.new_zeros(parameter.shape))
            self._row_sections.append(row_sections)
            row = 0
            for rows in row_sections:
                groups[rows, parameter.size(1)].append((index, row))
                row += rows
        self._groups = dict(groups)

    @torch.no_grad()
    def step(self, learning_rate: float, team: Team = ALONE, has_rows: bool = False) -> None:
        """Update every parameter from its `.grad`; in a team, each process does a part of them.

        With `has_rows`, parameters and gradients are the rows that this process has of each.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if len(gradients) < len(self.parameters):
            raise RuntimeError("Muon.step needs a gradient for every matrix")
        if has_rows:
            self._step_rows(learning_rate, gradients, team)
            return
        if not self._own(team.rank, team):
            pass  # There are more processes than matrices.
        elif self._kernels is not None and all(g.is_contiguous() for g in gradients):
            self._step_native(learning_rate, gradients, team)
        else:
            self._step_torch(learning_rate, gradients, team)
        self._exchange(self.parameters, team)

    def collect_state(self, team: Team) -> None:
        """Get the momenta of the parts that other processes do."""
        self._exchange(self.momenta, team)

    @torch.no_grad()
    def _exchange(self, tensors: list[Tensor], team: Team) -> None:
        # Each process's sections from that process, in one message.
        for owner in range(team.size if team.size > 1 else 0):
            own = self._own(owner, team)
            views = [tensors[s.matrix][s.row : s.row + s.rows] for s in own]
            if views:
                packed = torch.cat([view.reshape(-1) for view in views])
                team.share_out(packed, owner)
                if owner != team.rank:
                    parts = torch.split(packed, [view.numel() for view in views])
                    torch._foreach_copy_(
                        views, [p.view_as(v) for p, v in zip(parts, views, strict=True)]
                    )

    def _own(self, rank: int, team: Team) -> list[Section]:
        # From the largest on, in turns: about as much work for each.
        return self._sections[rank :: team.size]

    def _step_torch(self, learning_rate: float, gradients: list[Tensor], team: Team) -> None:
        ahead = self._momentum_step(learning_rate, gradients)
        groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for section in self._own(team.rank, team):
            groups[section.rows, section.columns].append((section.matrix, section.row))
        for (rows, columns), sections in groups.items():
            stacked = torch.stack([ahead[index][row : row + rows] for index, row in sections])
            updates = orthogonalize(stacked.to(self.dtype)).float()
            scale = learning_rate * _size(rows, columns)
            targets = [self.parameters[index][row : row + rows] for index, row in sections]
            torch._foreach_add_(targets, list(updates.unbind(0)), alpha=-scale)

    def _momentum_step(self, learning_rate: float, gradients: list[Tensor]) -> Sequence[Tensor]:
        torch._foreach_lerp_(self.momenta, gradients, 1.0 - self.momentum)
        if self.weight_decay:
            torch._foreach_mul_(self.parameters, 1.0 - learning_rate * self.weight_decay)
        return torch._foreach_lerp(gradients, self.momenta, self.momentum)

    def _step_rows(self, learning_rate: float, gradients: list[Tensor], team: Team) -> None:
        # In turns, of a matrix for each process: it gets that one whole, and sends back the rows
        # of its update. From the largest on, so that those of a turn are about as much work.
        ahead = self._momentum_step(learning_rate, gradients)
        n_rows = [sum(sections) for sections in self._row_sections]
        order = sorted(range(len(ahead)), key=lambda i: -n_rows[i] * ahead[i].size(1))
        nothing = gradients[0].new_empty(0)
        for start in range(0, len(order), team.size):
            turn: list[int | None] = [*order[start : start + team.size]]
            turn += [None] * (team.size - len(turn))
            mine = turn[team.rank]
            cuts = [0] * team.size
            if mine is not None:
                bounds = [rows_of(n_rows[mine], rank, team.size) for rank in range(team.size)]
                cuts = [(rows.stop - rows.start) * ahead[mine].size(1) for rows in bounds]
            asked = [nothing if i is None else ahead[i] for i in turn]
            matrix, update = torch.cat(team.exchange(asked, cuts)), nothing
            if mine is not None:
                update = self._update(mine, matrix.view(n_rows[mine], -1)).reshape(-1)
            sizes = [rows.numel() for rows in asked]
            updates = team.exchange(list(torch.split(update, cuts)), sizes)
            for i, rows in zip(turn, updates, strict=True):
                if i is not None:
                    self.parameters[i].add_(rows.view_as(ahead[i]), alpha=-learning_rate)

    def _update(self, index: int, matrix: Tensor) -> Tensor:
        # Of a whole matrix, each section by itself.
        sections = torch.split(matrix, list(self._row_sections[index]))
        return torch.cat([
            orthogonalize(part[None].to(self.dtype))[0].to(part.dtype) * _size(*part.shape)
            for part in sections
        ])  # fmt: skip

    @functools.cached_property
    def _kernels(self) -> Any:
        if self.dtype not in (torch.float32, torch.bfloat16):
            return None
        return update_kernels([*self.parameters, *self.momenta])

    @functools.cached_property
    def _sections(self) -> list[Section]:
        sections = [
            Section(index, row, *shape)
            for shape, group in self._groups.items()
            for index, row in group
        ]
        return sorted(sections, key=lambda section: -section.rows * section.columns)

    def _step_native(self, learning_rate: float, gradients: list[Tensor], team: Team) -> None:
        sections = self._own(team.rank, team)
        self._kernels.muon(
            sections, gradients, self.momenta, self.parameters,
            [learning_rate * _size(section.rows, section.columns) for section in sections],
            momentum=self.momentum, keep=1.0 - learning_rate * self.weight_decay,
            polynomials=POLYNOMIALS, safety=_SAFETY, dtype=self.dtype,
        )  # fmt: skip

    def state_tensors(self) -> dict[str, Tensor]:
        """The momentum of each matrix by the parameter's name, not copied."""
        return {f"{name}.momentum": m for name, m in zip(self.names, self.momenta, strict=True)}

    def product_flops(self) -> float:
        """Floating-point operations of the matrix products of a step."""
        flops = 0.0
        for shape, sections in self._groups.items():
            short, long = sorted(shape)
            # The Gram matrix, its square, and the product with the matrix, for each polynomial.
            flops += len(sections) * 2.0 * len(POLYNOMIALS) * (2 * short**2 * long + short**3)
        return flops


@OPTIMIZERS.register("muon")
class MuonOptimizer(AdamWOptimizer):
    """Muon for the blocks' matrices, AdamW for embeddings, head, norms and biases."""

    description = "muon for matrices, adamw for the rest"
    planned_rate = 0.01
    state_bytes = 4

    def __init__(
        self, model: Transformer, config: TrainConfig, product_dtype: torch.dtype | None = None
    ) -> None:
        own = model.matrices() if isinstance(model, OwnModel) else None
        matrices = list(matrix_parameters(model)) if own is None else own
        super().__init__(model, config, product_dtype, besides=[name for name, _, _ in matrices])
        self.muon = Muon(
            matrices,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            dtype=self.product_dtype,
        )

    @classmethod
    def peak_rates(cls, config: TrainConfig) -> dict[str, float]:
        """One for each of the two."""
        return {"muon": config.muon_learning_rate, "adamw": config.learning_rate}

    def update_parameters(self, rate_factor: float) -> None:
        """The step of both."""
        super().update_parameters(rate_factor)
        rate = rate_factor * self.config.muon_learning_rate
        self.muon.step(rate, self.team, self.has_rows)

    def collect_state(self) -> None:
        """Muon's momenta, of which each process of a team keeps those of its part."""
        if not self.has_rows:
            self.muon.collect_state(self.team)

    def state_tensors(self) -> dict[str, Tensor]:
        """AdamW's moments and Muon's momenta."""
        momenta = {f"muon.{name}": tensor for name, tensor in self.muon.state_tensors().items()}
        return super().state_tensors() | momenta

    def product_flops(self) -> float:
        """Muon's."""
        return self.muon.product_flops()
