"""What a head is worth: the loss with its output set to zero, less the loss with it on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint.own_model import refuse_own
from minitx.evaluation.arrays import FloatArray, IdArray, IntArray
from minitx.inspection.interventions import Change, logits_after, record
from minitx.inspection.probe_texts import text_windows, windows_in_words
from minitx.model import Transformer, attention_layers, evaluating
from minitx.shown import Shown

WINDOWS = 16
WINDOW_LENGTH = 128


@dataclass(frozen=True)
class HeadAblation:
    """One head switched off.

    Attributes:
        loss_change: loss without it less the loss with it, in nats per token; above 0, the head
            helps.
        standard_error: of `loss_change`, over windows of text paired with themselves; None with
            fewer than two windows.
    """

    layer: int
    head: int
    loss_change: float
    standard_error: float | None


@dataclass(frozen=True)
class Ablation(Shown):
    """Every head switched off in turn.

    Attributes:
        loss: with all heads on, in nats per token.
        heads: in order of layer and head.
        measured_on: in words, the text that the losses were taken from.
    """

    loss: float
    heads: tuple[HeadAblation, ...]
    measured_on: str

    def of(self, layer: int, head: int) -> HeadAblation | None:
        """The figures of one head."""
        return next((one for one in self.heads if (one.layer, one.head) == (layer, head)), None)


def ablate_heads(
    model: Transformer, text_ids: IdArray, text_name: str = "the holdout"
) -> Ablation | None:
    """Switch each head off and measure the loss on the same windows of text.

    `text_ids` are (tokens,) of `text_name`, best of the holdout; only some windows are read. None
    when there are fewer than two, and so no target. The model is left as it was.
    """
    refuse_own(model, "switching a head off")
    config = model.config
    length = min(WINDOW_LENGTH, config.context_length, len(text_ids) - 1)
    if length < 1:
        return None
    windows = torch.from_numpy(text_windows(text_ids, length + 1, WINDOWS))
    windows = windows.to(model.embedding.weight.device)

    def losses() -> FloatArray:
        """Mean loss of each window, (windows,)."""
        by_window = model.token_losses(windows[:, :-1], windows[:, 1:]).double().mean(dim=1)
        return np.asarray(by_window.cpu().numpy(), dtype=np.float64)

    heads = []
    with torch.inference_mode(), evaluating(model):
        with_all = losses()
        for layer in range(config.n_layers):
            for head in range(config.n_heads):
                with head_off(model, layer, head):
                    change = losses() - with_all
                n = len(change)
                error = float(change.std(ddof=1)) / math.sqrt(n) if n > 1 else None
                heads.append(HeadAblation(layer, head, float(change.mean()), error))
    measured_on = windows_in_words(len(windows), length, text_name)
    return Ablation(float(with_all.mean()), tuple(heads), measured_on)


def ablate_for_token(
    model: Transformer, ids: IntArray, token: int
) -> tuple[FloatArray, FloatArray]:
    """What the logit of one token after a text, (seq,) ids, gains when a part is zeroed.

    Below 0, the part speaks for the token. In contrast to direct attribution, this counts what
    later layers make of the part.

    Returns:
        Of each head (n_layers, n_heads), and of each MLP (n_layers,).
    """
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    changes = [Change("heads", layer, None, head)
               for layer in range(n_layers) for head in range(n_heads)]  # fmt: skip
    changes += [Change("mlp", layer) for layer in range(n_layers)]
    whole = float(record(model, ids)[1][-1, token])
    found = logits_after(model, ids, changes)[:, token].double().cpu().numpy() - whole
    heads = found[: n_layers * n_heads].reshape(n_layers, n_heads)
    return heads, found[n_layers * n_heads :]


@contextmanager
def head_off(model: Transformer, layer: int, head: int) -> Iterator[None]:
    """Set what a head gives to its layer's output matrix to zero, for a while."""
    attention = attention_layers(model)[layer]
    columns = slice(head * attention.head_dim, (head + 1) * attention.head_dim)

    def silence(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        heads = inputs[0].clone()
        heads[..., columns] = 0.0
        return (heads,)

    with attention.output.register_forward_pre_hook(silence):
        yield
