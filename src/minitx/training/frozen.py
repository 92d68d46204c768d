"""Parts of a model that stay as they are: `minitx train --freeze`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from minitx.checkpoint.own_model import OwnModel
from minitx.errors import BadInputError
from minitx.model import Transformer

_BLOCKS = re.compile(r"blocks(?:\.(\d+)(?:-(\d+))?)?")


def freeze(model: Transformer, text: str) -> Transformer:
    """Let training leave the named parts alone.

    Args:
        text: like ``embedding,blocks.0-3`` or ``all-but-head``; parts are `embedding`, `positions`,
            `blocks` (all of them), `blocks.2`, `blocks.0-3`, `norm` and `head`.

    Raises:
        BadInputError: the model has no such part, or nothing is left to train.
    """
    if isinstance(model, OwnModel):
        raise BadInputError("--freeze knows no parts of a model of your own", "Leave it out")
    names = dict.fromkeys(part_of(name) for name, _ in model.named_parameters())
    rest = text.removeprefix("all-but-")
    named = {name for word in rest.split(",") for name in _named(word.strip(), names)}
    frozen = named if rest == text else names.keys() - named
    if names.keys() <= frozen:
        raise BadInputError(f"--freeze {text} leaves nothing to train", "Name fewer parts")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)
    return model


def part_of(name: str) -> str:
    """The part that a parameter belongs to: `blocks.0`, or the first word of its name."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "blocks" else first


def _named(word: str, names: Iterable[str]) -> list[str]:
    wanted = [word]
    if match := _BLOCKS.fullmatch(word):
        first, last = match[1], match[2] or match[1]
        wanted = [
            name for name in names if name.startswith("blocks.")
            and (first is None or int(first) <= int(name.split(".")[1]) <= int(last or first))
        ]  # fmt: skip
        if first is not None and f"blocks.{int(last or first)}" not in wanted:
            wanted = [word]
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        blocks = sum(name.startswith("blocks.") for name in names)
        others = ", ".join(name for name in names if not name.startswith("blocks."))
        tied = "; the head is the embedding here" if word == "head" else ""
        raise BadInputError(
            f"--freeze names {word!r}, which the model does not have{tied}",
            f"Name {others}, blocks.0-{blocks - 1} or parts of these, or all-but- and a part",
        )
    return wanted
