"""The film of a run: what its model did with one prompt, at some moments of training.

`film.jsonl` has a line for each moment, written by `film_recorder` and read here.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from minitx.evaluation.arrays import Float32Array
from minitx.inspection.head_roles import NAMED_FROM
from minitx.training.logging.metrics_file import read_metrics

MOMENT = "moment"
"""The kind of a film's lines."""


@dataclass(frozen=True)
class LensMoment:
    """After the token at `position`: for each reading of the residual stream (at the embedding,
    then after each layer) the probability of the token that follows, and the likeliest tokens.
    """

    position: int
    following: str
    chances: tuple[float, ...]
    likeliest: tuple[tuple[tuple[str, float], ...], ...]

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> LensMoment:
        """As in `Moment.from_line`."""
        likeliest = (((str(text), float(p)) for text, p in some) for some in line["likeliest"])
        return cls(
            int(line["position"]),
            str(line["following"]),
            tuple(map(float, line["chances"])),
            tuple(map(tuple, likeliest)),
        )


@dataclass(frozen=True, eq=False)
class Moment:
    """What was seen at one step.

    Attributes:
        tokens: text of each token of the prompt.
        layers, heads: whose attention is kept; none of a model of one's own that shows none.
        roles: of each head, layer by layer, the role that it is named after, or None.
        strengths: of that role; of a head without one, 0.
        induction: of each head, the strength of that role; empty where the context is too short.
        loss: on windows of the holdout, nats per token.
        classes: the same by class of token.
        lens: of the last positions; empty for a model of one's own.
        sample: how the prompt goes on with the likeliest token each time.
        maps: attention on the prompt, packed as by `quantise`, in base64.
    """

    step: int
    tokens: tuple[str, ...]
    layers: int
    heads: int
    roles: tuple[str | None, ...]
    strengths: tuple[float, ...]
    induction: tuple[float, ...]
    loss: float
    classes: Mapping[str, float]
    lens: tuple[LensMoment, ...]
    sample: str
    maps: str

    def to_line(self) -> dict[str, Any]:
        """As `film.jsonl` has it."""
        return {"kind": MOMENT, **vars(self), "lens": [vars(each) for each in self.lens]}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Moment:
        """The moment of such a line.

        Raises:
            KeyError, TypeError, ValueError: another version wrote it, or it is damaged.
        """
        found = {field.name: line[field.name] for field in fields(cls)}
        found["lens"] = tuple(map(LensMoment.from_line, found["lens"]))
        found["classes"] = {str(name): float(loss) for name, loss in dict(found["classes"]).items()}
        for name, kind in (("tokens", str), ("strengths", float), ("induction", float)):
            found[name] = tuple(map(kind, found[name]))
        found["loss"], found["sample"] = float(found["loss"]), str(found["sample"])
        moment = cls(**found)
        n_heads = moment.layers * moment.heads
        if not len(moment.roles) == len(moment.strengths) in (0, n_heads):
            raise ValueError("roles are not those of the heads")
        if len(moment.packed) != n_heads * len(moment.tokens) * (len(moment.tokens) + 1) // 2:
            raise ValueError("maps are not those of the heads")
        return moment

    @property
    def packed(self) -> bytes:
        """The maps as bytes."""
        return base64.b64decode(self.maps)

    def map(self, layer: int, head: int) -> Float32Array:
        """Weights of a head on the prompt, (tokens, tokens), to within 0.4 percentage points."""
        size = len(self.tokens)
        packed = np.frombuffer(self.packed, np.uint8).reshape(self.layers * self.heads, -1)
        weights = np.zeros((size, size), np.float32)
        weights[np.tril_indices(size)] = (packed[layer * self.heads + head] / 255.0) ** 2
        return weights


@dataclass(frozen=True)
class Film:
    """The moments of a run, in order of their steps; at least one."""

    moments: tuple[Moment, ...]

    @property
    def induction_since(self) -> Moment | None:
        """The moment from which on some head does induction, to the end; None if none does."""
        since = None
        for moment in reversed(self.moments):
            if not max(moment.induction, default=0.0) >= NAMED_FROM:
                break
            since = moment
        return since

    def at(self, step: int) -> Moment:
        """The moment nearest to a step."""
        return min(self.moments, key=lambda moment: abs(moment.step - step))

    def spread(self, count: int) -> list[Moment]:
        """At most so many of the moments, evenly spread, first and last among them."""
        places = np.linspace(0, len(self.moments) - 1, min(count, len(self.moments)))
        return [self.moments[i] for i in places.round().astype(int)]


def read_film(path: Path) -> Film | None:
    """The film of a file; None if there is none. Lines that can't be used are passed over."""
    moments: dict[int, Moment] = {}
    for line in read_metrics(path):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if line["kind"] == MOMENT:
                moments[line["step"]] = Moment.from_line(line)
    # Of one that was cut short after the text or the model changed, the newer is told.
    return Film(tuple(moments[step] for step in sorted(moments))) if moments else None
