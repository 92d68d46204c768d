"""Texts that must not appear, and texts that must."""

from __future__ import annotations

import torch
from torch import Tensor

from minitx.errors import BadInputError
from minitx.tokenizer import Tokenizer


class BannedStrings:
    """Rules out every token that would complete a banned text, however tokens cut it up.

    Raises:
        BadInputError: they rule out every token.
    """

    def __init__(
        self, tokenizer: Tokenizer, strings: tuple[str, ...], vocab_size: int, device: torch.device
    ) -> None:
        self._banned = [string.encode("utf-8") for string in strings if string]
        self._tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        # A model may have more rows in its head than the tokenizer has ids.
        self._n_extra, self._device = vocab_size - len(self._tokens), device
        self._masks: dict[bytes, Tensor] = {}
        always = [any(banned in token for banned in self._banned) for token in self._tokens]
        if all(always):
            raise BadInputError("every token has a banned string in it", "Ban less")
        self._always = self._mask(always)

    def mask(self, text: bytes) -> Tensor:
        """True for each token that is ruled out after this text, `(vocab_size,)`."""
        mask = self._always
        for banned in self._banned:
            for size in range(1, len(banned)):
                if text.endswith(banned[:size]):
                    mask = mask | self._completing(banned[size:])
        return mask

    def _completing(self, rest: bytes) -> Tensor:
        if rest not in self._masks:
            self._masks[rest] = self._mask([token.startswith(rest) for token in self._tokens])
        return self._masks[rest]

    def _mask(self, ruled_out: list[bool]) -> Tensor:
        ruled_out += [False] * self._n_extra
        return torch.tensor(ruled_out, dtype=torch.bool, device=self._device)


class RequiredStrings:
    """Writes out, at the end, the required texts that have not appeared by themselves.

    Raises:
        BadInputError: the vocabulary lacks one of their characters.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...]) -> None:
        self._ids = {string: tokenizer.encode(string).tolist() for string in strings if string}

    def check_room(self, max_new_tokens: int) -> None:
        """Refuse a continuation that is too short for all of them.

        Raises:
            BadInputError: naming how many tokens they are.
        """
        needed = sum(map(len, self._ids.values()))
        if needed > max_new_tokens:
            raise BadInputError(
                f"the required strings are {needed} tokens, and only {max_new_tokens} may be "
                "generated",
                f"Use --max-new-tokens {needed} or more",
            )

    def missing(self, text: str) -> list[int]:
        """Ids of the required texts that this text lacks, in the order given."""
        return [i for string, ids in self._ids.items() if string not in text for i in ids]
