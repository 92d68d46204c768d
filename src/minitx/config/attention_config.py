"""What `minitx attn` shows of a model that reads a text."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minitx.config.checks import require
from minitx.config.options import Config, option
from minitx.errors import BadInputError

Index = int | Literal["all"] | None
MapKind = Literal["weight", "norm", "average", "rollout"]


def parse_index(name: str, text: str) -> Index:
    """A number from 0, or `all`; else a BadInputError."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadInputError(f"{name} is {text!r}", "Give a number from 0, or all")
    return int(text)


@dataclass(frozen=True)
class AttentionRequest(Config, named_by_flags=True):
    """What to show of a study; with nothing asked for, the most telling head and all roles."""

    layer: Index = option(
        None, "Which layer, from 0; all draws a grid.", metavar="N|all", parse=parse_index
    )
    head: Index = option(
        None, "Which head, from 0; all draws a grid.", metavar="N|all", parse=parse_index
    )
    average: bool = option(False, "Mean over heads: of --layer, or of all layers.")
    rollout: bool = option(False, "Attention multiplied through the layers.")
    norms: bool = option(False, "Weight times the norm of the value it fetches.")
    token: int | None = option(None, "List what this token looked at (-1 is the last).")
    top: int | None = option(
        None, "How many to list; without --token, for every token.", within=(1, 2**24)
    )
    roles: bool = option(False, "Table of all heads: roles, scores and controls.")
    lens: bool = option(False, "Logit lens: what each layer would predict next.")
    ablate: bool = option(False, "What the loss gains when each head is off.")
    check_mask: bool = option(False, "Change future tokens; check that no past logit changes.")

    def check(self) -> None:
        """Refuse two kinds of map at once."""
        require(
            self.average + self.rollout + self.norms <= 1,
            "--average, --rollout and --norms each name a kind of map",
            "Give one of them",
        )

    @property
    def kind(self) -> MapKind:
        """Of which kind the map is."""
        if self.average:
            return "average"
        return "rollout" if self.rollout else "norm" if self.norms else "weight"

    @property
    def wants_map(self) -> bool:
        """Whether a map is shown: by default, or because one is named."""
        named = self.layer is not None or self.head is not None or self.kind != "weight"
        tables = self.roles or self.lens or self.ablate or self.check_mask
        return named or not tables

    @property
    def is_default(self) -> bool:
        """Whether nothing in particular was asked for."""
        return self == AttentionRequest()
