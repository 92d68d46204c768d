"""What `minitx tokenize` is asked for."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitx.config.checks import require
from minitx.config.options import COUNT_OR_NONE, Config, option


@dataclass(frozen=True)
class TokenizeRequest(Config, named_by_flags=True):
    """Which tokenizer, what it does to which text, and how much of that is shown.

    A new tokenizer has what is `fixed` of the keys of `TokenizerConfig`.

    Raises:
        BadInputError: a finished tokenizer is named, and something is fixed of a new one.
    """

    corpus: tuple[str, ...] = option(
        (),
        "Text to train a tokenizer on: files, directories, globs, or - for standard input. With "
        "--tokenizer, text to encode.",
        is_argument=True,
    )
    tokenizer: Path | None = option(None, "Use the tokenizer of this directory, run or checkpoint.")
    text: str | None = option(None, "Encode this text.")
    decode: str | None = option(None, 'Decode these ids, like "18 47 56"; - reads them.')
    out: Path | None = option(None, "Save the tokenizer to this directory.")
    show: int = option(120, "How many tokens are shown.", within=COUNT_OR_NONE)
    json: bool = option(False, "Print one JSON object, with all ids.")
    fixed: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse two tokenizers."""
        require(
            self.tokenizer is None or not self.fixed,
            "--tokenizer names a finished tokenizer, and --kind or --vocab-size a new one",
            "Give one or the other",
        )
