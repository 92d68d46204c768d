"""The key/value cache: what attention would otherwise compute again for every new token.

The keys and values of a position never change once it is read, because no position looks ahead.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minitx.config import ModelConfig
from minitx.errors import BadInputError


class KVCache:
    """Keys and values of every layer for a batch of texts, which may differ in length.

    Args:
        config: of the model.
        batch_size: rows.
        capacity: positions that a row can hold.
        device: where.
        dtype: of the keys and values.

    Attributes:
        keys, values: per layer `(batch, n_kv_heads, capacity, head_dim)`.
        lengths: `(batch,)` int64 on the CPU: positions held by each row. What lies beyond them is
            left over, and never looked at.

    Raises:
        BadInputError: the capacity exceeds the model's context.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity > config.context_length:
            raise BadInputError(
                f"a cache of {capacity:,} positions exceeds the context of "
                f"{config.context_length:,}",
                "Make a smaller one",
            )
        shape = (batch_size, config.n_kv_heads, capacity, config.head_dim)
        self.capacity = capacity
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64)
        self._counts = self.lengths.numpy()
        self._common: int | None = 0

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    @property
    def common_length(self) -> int | None:
        """Positions held by every row; None where the rows differ."""
        return self._common

    @property
    def longest(self) -> int:
        """Positions held by the row that holds the most; 0 without rows."""
        if self._common is not None:
            return self._common
        return int(self.lengths.max())

    def require_room(self, tokens: int) -> None:
        """Refuse `tokens` more positions than there is room for.

        Raises:
            BadInputError: naming both numbers.
        """
        held = self.longest
        if held + tokens > self.capacity:
            raise BadInputError(
                f"the cache holds {held:,} of {self.capacity:,} positions, and {tokens:,} more "
                "were given",
                "Make it larger, or start a new one with the newest tokens",
            )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens behind what each row holds; `advance` follows.

        Args:
            layer: whose.
            keys, values: `(batch, n_kv_heads, new, head_dim)`.

        Returns:
            All keys and values that there are then, `(batch, n_kv_heads, longest + new,
            head_dim)` each.
        """
        new, end = keys.size(2), self.longest + keys.size(2)
        for stored, fresh in ((self.keys[layer], keys), (self.values[layer], values)):
            if self._common is not None:
                stored[:, :, self._common : end] = fresh
            else:
                rows = torch.arange(self.batch_size, device=stored.device)[:, None]
                positions = self.lengths.to(stored.device)[:, None] + torch.arange(
                    new, device=stored.device
                )
                stored[rows, :, positions] = fresh.transpose(1, 2).to(stored.dtype)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, tokens: int | Tensor) -> None:
        """Count positions just written: a number for all rows, or one for each `(batch,)`."""
        if isinstance(tokens, int):
            # Through NumPy's view of it, whose small additions take less time than torch's.
            np.add(self._counts, tokens, out=self._counts)
            if self._common is not None:
                self._common += tokens
        else:
            self.set_lengths(self.lengths + tokens.cpu())

    def set_lengths(self, lengths: Tensor) -> None:
        """Declare how many positions each row holds, `(batch,)`."""
        self.lengths = lengths.detach().to("cpu", torch.int64).clone()
        self._counts = self.lengths.numpy()
        if len(lengths) == 0:
            self._common = 0
            return
        shortest, longest = torch.aminmax(self.lengths)
        self._common = int(longest) if shortest == longest else None

    def truncate(self, lengths: Tensor | int) -> None:
        """Forget each row's positions from `lengths` on (one for all rows, or `(batch,)`)."""
        wanted = torch.as_tensor(lengths, dtype=torch.int64).cpu().expand(self.batch_size)
        if bool((wanted > self.lengths).any()) or bool((wanted < 0).any()):
            raise ValueError("a cache can be truncated to at most what it holds")
        self.set_lengths(wanted)

    def select(self, rows: Tensor | list[int]) -> None:
        """Keep these rows, in this order; a row named twice is copied."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        there = index.to(self.keys[0].device)
        self.keys = [keys.index_select(0, there) for keys in self.keys]
        self.values = [values.index_select(0, there) for values in self.values]
        self.set_lengths(self.lengths[index.cpu()])

    def replace(self, rows: list[int], other: KVCache) -> None:
        """Let these rows hold what the rows of another cache of the same capacity hold."""
        index = torch.tensor(rows, device=self.keys[0].device)
        for mine, theirs in zip(
            (*self.keys, *self.values), (*other.keys, *other.values), strict=True
        ):
            mine.index_copy_(0, index, theirs)
        self.set_lengths(self.lengths.index_copy(0, torch.tensor(rows), other.lengths))
