"""Direct logit attribution: what each part of a model adds to the logit of one token.

The last residual stream is a sum of what was written to it: the embedding, each head, each MLP,
and biases. The last norm divides it by one number, and the head multiplies it by a matrix. With
that number as it was in this pass, a logit is linear in the stream, and so a sum over the parts
(Elhage et al. 2021, "A mathematical framework for transformer circuits"; Wang et al. 2022, IOI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from minitx.evaluation.arrays import IntArray
from minitx.inspection.interventions import record
from minitx.model import Transformer
from minitx.shown import Shown


@dataclass(frozen=True)
class Contribution:
    """What one part adds to the logit; `layer` and `head` are None where it has none."""

    part: str
    logit: float
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """In words: `head 1.0`, `MLP 1`, `embedding`."""
        if self.head is not None:
            return f"head {self.layer}.{self.head}"
        return self.part if self.layer is None else f"{self.part} {self.layer}"


@dataclass(frozen=True)
class Attribution(Shown):
    """The logit of one token after a text, as a sum.

    Attributes:
        token: whose logit.
        logit: as the model has it.
        contributions: they sum to `logit`, up to rounding. What a head or an MLP adds is counted
            with the token's own direction: what it does by way of later layers is theirs.
        text: of the token; empty if it is not known.
    """

    token: int
    logit: float
    contributions: tuple[Contribution, ...]
    text: str = ""

    @property
    def total(self) -> float:
        """The sum of the contributions."""
        return sum(each.logit for each in self.contributions)


@torch.inference_mode()
def attribute(model: Transformer, ids: IntArray, token: int, text: str = "") -> Attribution:
    """Split the logit that `token` has after the text `ids`, (seq,), among the model's parts."""
    activations, logits = record(model, ids)
    config, last = model.config, len(ids) - 1
    n_layers = config.n_layers
    stream = sum_of(
        activations["residual", n_layers - 1][last],
        activations["attention", n_layers - 1][last],
        activations["mlp", n_layers - 1][last],
    )
    weight = model.head.weight[token].double()
    gain, bias = model.norm.gain.double(), getattr(model.norm, "bias", None)
    if bias is None:
        direction = weight * gain / (stream.pow(2).mean() + config.norm_eps).sqrt()
    else:
        # The norm takes the mean off the stream. To take it off the direction is the same.
        direction = weight * gain / (stream.var(correction=0) + config.norm_eps).sqrt()
        direction = direction - direction.mean()

    def logit(written: Tensor) -> float:
        return float(written.double() @ direction)

    here = torch.tensor(int(ids[last]), device=weight.device)
    found = [Contribution("embedding", logit(model.embedding(here)))]
    if model.positions is not None:
        found.append(Contribution("position", logit(model.positions.weight[last])))
    for layer, block in enumerate(model.blocks):
        output = cast(nn.Linear, block.attention.output)  # type: ignore[union-attr]
        # (heads, W) times (D, heads, W): what each head writes, (heads, D).
        mixed = activations["heads", layer][last].double().view(config.n_heads, -1)
        matrix = output.weight.double().view(config.d_model, config.n_heads, -1)
        written = torch.einsum("hw,dhw->hd", mixed, matrix)
        found += [
            Contribution("head", logit(of_head), layer, head)
            for head, of_head in enumerate(written)
        ]
        if output.bias is not None:
            found.append(Contribution("attention bias", logit(output.bias), layer))
        found.append(Contribution("MLP", logit(activations["mlp", layer][last]), layer))
    if bias is not None:
        found.append(Contribution("norm bias", float(weight @ bias.double())))
    return Attribution(token, float(logits[last, token]), tuple(found), text)


def sum_of(*parts: Tensor) -> Tensor:
    """The sum of tensors, in float64."""
    return torch.stack([part.double() for part in parts]).sum(dim=0)
