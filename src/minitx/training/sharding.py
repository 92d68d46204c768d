"""A model that is shared out over the processes of a team: each has some rows of every parameter.

torch's `fully_shard` (FSDP2; Zhao et al. 2023) gathers a block's parameters when it is computed,
and hands every process its rows of the gradients. An optimizer sees a model that has these rows
alone, and so has moments of these rows alone. Whatever looks at the model sees a plain one, in the
first process, for as long as all processes gather it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.errors import BadInputError
from minitx.model import Transformer, without_memory
from minitx.training.optimizers import OPTIMIZERS
from minitx.training.team import Team, rows_of


def require_shardable(train: Mapping[str, Any], is_own_model: bool = False) -> None:
    """Refuse what `shard` can't go together with, of keys of `TrainConfig`.

    Raises:
        BadInputError: saying what to leave out.
    """
    if not train.get("shard"):
        return
    name = train.get("optimizer", TrainConfig.optimizer)
    if train["processes"] == 1:
        what = "--shard shares a model out over processes, and this is the only one"
        fix = "Give --processes 2, or start with torchrun; or leave it out: --no-shard"
    elif not OPTIMIZERS.get(name).updates_rows:
        what = f"--shard gives an optimizer some rows of a matrix, and {name} needs whole ones"
        fix = "Use --optimizer muon or adamw, or leave out --shard"
    elif train.get("engine") == "torch-compile":
        what = "--shard and --engine torch-compile can't go together"
        fix = "Leave out one of them"
    elif is_own_model:
        what, fix = "--shard knows no blocks in this model", "Leave it out"
    else:
        return
    raise BadInputError(what, fix)


class Shards:
    """Shares out `model` itself, which has the same weights in all processes of the team.

    Weights that are on a CPU move to the device of `compute` in rows.

    Attributes:
        trained: the model that was given; every process takes part in each of its passes.
        rows: the rows that this process has, as parameters of a model that computes nothing.
        whole: a plain model, without numbers but within `gathered`.
    """

    def __init__(self, model: Transformer, compute: Compute, team: Team) -> None:
        # Not loaded where nobody needs it: a second of each process.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.trained, self._team, self._device = model, team, compute.device
        mesh = init_device_mesh(compute.device.type, (team.size,))
        # Blocks are gathered in the format of products. What autocast makes of float32 weights
        # would be kept for the way back, and be a whole model.
        low = None if compute.dtype == torch.float32 else compute.dtype
        of_blocks = MixedPrecisionPolicy(low, low and torch.float32, cast_forward_inputs=False)
        units: list[Any] = [*model.blocks, model]
        for unit in units:
            policy = MixedPrecisionPolicy() if unit is model else of_blocks
            fully_shard(unit, mesh=mesh, mp_policy=policy)
            # Losses are parts of the mean already. Not every backend has sums with a factor.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        self._n_rows = {name: len(parameter) for name, parameter in model.named_parameters()}
        self.rows, self.whole = without_memory(model.config), without_memory(model.config)
        self._empty = dict(self.whole.named_parameters())
        sharded: dict[str, Any] = dict(model.named_parameters())
        _assign(self.rows, {name: p.to_local().detach() for name, p in sharded.items()})

    def take_gradients(self) -> None:
        """Move the gradients of the model's last passes to the parameters of `rows`."""
        sharded: list[Any] = [*self.trained.parameters()]
        for mine, parameter in zip(self.rows.parameters(), sharded, strict=True):
            mine.grad = parameter.grad.to_local()
            parameter.grad = None

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of which each process has rows, in the first one's memory.

        Args:
            tensors: named by the parameters that they belong to; others are alike everywhere.

        Returns:
            By name, on the CPU, not to be changed by later steps; empty in all but the first.
        """
        whole = {}
        for name, tensor in tensors.items():
            n_rows = self._rows_named(name) if tensor.dim() else None
            gathered = tensor if n_rows is None else self._team.gather_rows(tensor, n_rows)
            if self._team.is_first:
                whole[name] = gathered.detach().to("cpu", copy=True)
        return whole

    def own_rows(self, name: str) -> slice | None:
        """Which rows of a tensor of that name this process has; None for all."""
        n_rows = self._rows_named(name)
        return None if n_rows is None else rows_of(n_rows, self._team.rank, self._team.size)

    @contextlib.contextmanager
    def gathered(self, device: torch.device | None = None) -> Iterator[bool]:
        """The weights are in `whole`, in the first process, for as long as the block runs.

        Gives whether this is the first one.

        On the device that the model is trained on, unless another is given.
        """
        weights = self.gather(dict(self.rows.named_parameters()))
        if weights:
            device = device or self._device
            _assign(self.whole, {name: weights.pop(name).to(device) for name in [*weights]})
        try:
            yield self._team.is_first
        finally:
            _assign(self.whole, self._empty)

    def _rows_named(self, name: str) -> int | None:
        # "norm.gain" is also a part of "blocks.0.attention_norm.gain".
        owner = max((known for known in self._n_rows if known in name), key=len, default=None)
        return None if owner is None else self._n_rows[owner]


def _assign(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, nn.Parameter(weight))
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight
