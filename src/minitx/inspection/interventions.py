"""Parts of a forward pass, recorded, or replaced by other values to see what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from minitx.errors import BadInputError
from minitx.evaluation.arrays import IntArray
from minitx.model import Transformer, evaluating

Part = Literal["residual", "heads", "attention", "mlp"]
"""Of a block: the stream before it, the heads' weighted sums of values, and what attention and the
MLP add to the stream.
"""

Activations = dict[tuple[Part, int], Tensor]
"""Of one text, by part and layer: `(seq, width)`; the heads lie side by side."""

_AT_ONCE = 1 << 22  # Numbers of the widest layer, in the rows of one pass.


@dataclass(frozen=True)
class Change:
    """What one part of one layer is replaced by.

    Attributes:
        values: `(seq, width)` as in `Activations`; None sets it to zero.
        head: of the part `heads`, the only one that changes; None for all.
        position: the only one that changes; None for all.
    """

    part: Part
    layer: int
    values: Tensor | None = None
    head: int | None = None
    position: int | None = None

    def make(self, here: Tensor, head_dim: int) -> None:
        """Write the values over those of one text, `(seq, width)`."""
        start = 0 if self.head is None else self.head * head_dim
        columns = slice(start, None if self.head is None else start + head_dim)
        rows = slice(None) if self.position is None else self.position
        here[rows, columns] = 0.0 if self.values is None else self.values[rows, columns]


def require_blocks(model: Transformer) -> None:
    """Refuse a model whose parts are not those of `model/transformer.py`."""
    if len(model.blocks) != model.config.n_layers:
        raise BadInputError(
            "this needs the parts of a model, and those of one that is not ours are not known",
            "Look at its predictions, or at a model that minitx builds",
        )


@contextmanager
def visiting(
    model: Transformer, visit: Callable[[Part, int, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `visit` with each part `(batch, seq, width)`; what it returns replaces the part.

    Raises:
        BadInputError: as `require_blocks`.
    """
    require_blocks(model)

    def before(part: Part, layer: int) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = visit(part, layer, given[0])
            return None if changed is None else (changed, *given[1:])

        return hook

    def after(part: Part, layer: int) -> Callable[..., Any]:
        return lambda _, given, out: visit(part, layer, out)

    with ExitStack() as hooks:
        for i, block in enumerate(model.blocks):
            attention: Any = block.attention
            mlp: Any = block.mlp
            hooks.enter_context(block.register_forward_pre_hook(before("residual", i)))
            hooks.enter_context(attention.output.register_forward_pre_hook(before("heads", i)))
            hooks.enter_context(attention.register_forward_hook(after("attention", i)))
            hooks.enter_context(mlp.register_forward_hook(after("mlp", i)))
        yield


@torch.inference_mode()
def record(model: Transformer, ids: IntArray) -> tuple[Activations, Tensor]:
    """The activations of a text, `(seq,)` ids, and its logits `(seq, vocab_size)`."""
    found: Activations = {}

    def visit(part: Part, layer: int, values: Tensor) -> None:
        found[part, layer] = values[0]

    text = torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)
    with evaluating(model), visiting(model, visit):
        logits: Tensor = model(text[None])[0]
    return found, logits


@torch.inference_mode()
def logits_after(model: Transformer, ids: IntArray, changes: Sequence[Change]) -> Tensor:
    """Logits after the last token of a text with one change each, `(changes, vocab_size)`.

    The changes are rows of a batch, and each is made in its own row alone.
    """
    config = model.config
    text = torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)
    widest = max(2 * config.d_ff, config.n_heads * (2 * config.head_dim + len(ids)))
    n_rows = max(1, _AT_ONCE // (len(ids) * widest))
    logits = []
    for start in range(0, len(changes), n_rows):
        rows = changes[start : start + n_rows]

        def visit(
            part: Part, layer: int, values: Tensor, rows: Sequence[Change] = rows
        ) -> Tensor | None:
            here = [i for i, row in enumerate(rows) if (row.part, row.layer) == (part, layer)]
            if not here:
                return None
            changed = values.clone()
            for i in here:
                rows[i].make(changed[i], config.head_dim)
            return changed

        with evaluating(model), visiting(model, visit):
            logits.append(model(text.expand(len(rows), -1), last_only=True)[:, 0])
    return torch.cat(logits)
