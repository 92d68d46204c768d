"""Activation patching: which part of a model makes the difference between two prompts.

The model reads a corrupted prompt, and one part of what it computes is replaced by what that part
was in a clean prompt of as many tokens (Meng et al. 2022, ROME, section 2; Wang et al. 2022, IOI).
Where that brings the clean answer back, the part carries what the answer hangs on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from minitx.errors import BadInputError
from minitx.evaluation.arrays import FloatArray, IntArray
from minitx.inspection.interventions import Change, Part, logits_after, record
from minitx.model import Transformer
from minitx.shown import Shown

BY_POSITION: tuple[Part, ...] = ("residual", "attention", "mlp")


@dataclass(frozen=True, eq=False)
class Patching(Shown):
    """The logit of an answer after the corrupted prompt, with parts of the clean run put in.

    Attributes:
        token: the answer.
        against: a token whose logit is taken off, so that what lifts both counts for nothing;
            None for none.
        clean, corrupted: that figure in either run, as it is.
        residual, attention, mlp: (n_layers, seq) with the stream before a block, or what its
            attention or its MLP adds, replaced at one position.
        heads: (n_layers, n_heads) with a head's output replaced at all positions.
        tokens: text of each token of the corrupted prompt.
        text, against_text: of the answer, and of the other token.
    """

    token: int
    against: int | None
    clean: float
    corrupted: float
    residual: FloatArray
    attention: FloatArray
    mlp: FloatArray
    heads: FloatArray
    tokens: tuple[str, ...]
    text: str = ""
    against_text: str = ""

    def recovered(self, figures: FloatArray) -> FloatArray:
        """As a part of the way from corrupted (0) to clean (1); nothing where they are equal."""
        way = self.clean - self.corrupted
        return (figures - self.corrupted) / way if way else np.zeros_like(figures)


class Patcher:
    """Two prompts that a model has read, and an answer that is followed through it.

    Args:
        clean, corrupted: (seq,) ids each.
        token: the answer; the clean prompt's likeliest next token if None.
        against: the token whose logit is taken off. If no answer is given, it is the corrupted
            prompt's likeliest next token, unless that is the answer itself.

    Raises:
        BadInputError: the prompts differ in length, or not at all.
    """

    def __init__(
        self,
        model: Transformer,
        clean: IntArray,
        corrupted: IntArray,
        token: int | None = None,
        against: int | None = None,
    ) -> None:
        if len(clean) != len(corrupted):
            raise BadInputError(
                f"the clean prompt has {len(clean):,} tokens and the corrupted one "
                f"{len(corrupted):,}, so their positions don't correspond",
                "Give prompts of equally many tokens; minitx tokenize shows them",
            )
        if np.array_equal(clean, corrupted):
            raise BadInputError("the two prompts are the same", "Change a word in one of them")
        self.model, self.ids = model, corrupted
        self.activations, after_clean = record(model, clean)
        _, after_corrupted = record(model, corrupted)
        if token is None:
            token, likeliest = int(after_clean[-1].argmax()), int(after_corrupted[-1].argmax())
            against = likeliest if likeliest != token else None
        self.token, self.against = token, against
        self.clean = float(self._figures(after_clean[-1:])[0])
        self.corrupted = float(self._figures(after_corrupted[-1:])[0])

    def _figures(self, logits: Tensor) -> FloatArray:
        found = logits[:, self.token].double()
        if self.against is not None:
            found = found - logits[:, self.against].double()
        return np.asarray(found.cpu().numpy(), np.float64)

    def patched(
        self, part: Part, layer: int, heads: Sequence[int | None], positions: Sequence[int | None]
    ) -> FloatArray:
        """The figure with one part as in the clean run, (heads, positions); None is all of them."""
        values = self.activations[part, layer]
        changes = [Change(part, layer, values, head, at) for head in heads for at in positions]
        figures = self._figures(logits_after(self.model, self.ids, changes))
        return np.reshape(figures, (len(heads), len(positions)))

    def head_by_position(self, layer: int, head: int) -> FloatArray:
        """One head replaced at one position each, (seq,)."""
        return np.asarray(self.patched("heads", layer, [head], range(len(self.ids)))[0])

    def everywhere(self, piece: Callable[[int], str] = str) -> Patching:
        """Every layer, head and position in turn; `piece` gives the text of an id."""
        layers, positions = range(self.model.config.n_layers), range(len(self.ids))
        by_part = {
            part: np.concatenate([self.patched(part, i, [None], positions) for i in layers])
            for part in BY_POSITION
        }
        heads = range(self.model.config.n_heads)
        return Patching(
            self.token,
            self.against,
            self.clean,
            self.corrupted,
            heads=np.stack([self.patched("heads", i, heads, [None])[:, 0] for i in layers]),
            tokens=tuple(piece(int(i)) for i in self.ids),
            text=piece(self.token),
            against_text="" if self.against is None else piece(self.against),
            **by_part,
        )
