"""From logits to tokens: the settings of each row, in the documented order, then a draw."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from minitx import engine
from minitx.errors import BadInputError
from minitx.generation.filters import (
    bias_tensor,
    check_settings,
    draw,
    number,
    penalize,
    reads_text,
    reshape,
)
from minitx.generation.row import ALTERNATIVES, Chosen, Row
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.tokenizer.base import silent_ids

_KEPT_CONSTRAINTS = 64
_BYTES_THAT_MATTER = 256


class Chooser:
    """Draws the next token of each row."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = model.config.vocab_size
        self._device = model.embedding.weight.device
        self._end = model.config.end_id
        self._silent = _silent(model, tokenizer, self._device)
        silent = [] if self._silent is None else self._silent.nonzero().flatten().tolist()
        self._draw_kernel = engine.draw_kernel(silent, self._vocab_size)
        keep = functools.lru_cache(_KEPT_CONSTRAINTS)
        own = partial(BannedStrings, tokenizer, silent=silent)
        self._banned = keep(partial(own, vocab_size=self._vocab_size, device=self._device))
        self._required = keep(partial(RequiredStrings, tokenizer))

    def prepare(self, row: Row) -> None:
        """Get ready for a row that joins.

        Raises:
            BadInputError: a setting does not fit the vocabulary, or asks for what can't be done.
        """
        check_settings(row.config, self._vocab_size)
        if row.config.banned_strings:
            self._banned(row.config.banned_strings)
        if row.config.required_strings:
            self._required(row.config.required_strings).check_room(row.config.max_new_tokens)
        if reads_text(row.config):
            row.counts = torch.bincount(
                torch.tensor(row.prompt_ids), minlength=self._vocab_size
            ).to(self._device, torch.float32)

    def choose(self, rows: Sequence[Row], raw: Tensor) -> list[int]:
        """Draw a token for each row of logits `(rows, vocab_size)`; record it in those that ask."""
        logits = raw.float() if raw.dtype.itemsize < 4 else raw
        config = rows[0].config
        if all(row.config is config for row in rows):
            return self._choose_alike(rows, logits)
        alike: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(row.distribution, []).append(index)
        chosen = [0] * len(rows)
        for indices in alike.values():
            group_logits = logits[torch.tensor(indices, device=self._device)]
            ids = self._choose_alike([rows[index] for index in indices], group_logits)
            for index, token in zip(indices, ids, strict=True):
                chosen[index] = token
        return chosen

    def may_stop(self, row: Row) -> bool:
        """Whether a stop string or the end of the document would end the row now."""
        if len(row.ids) < row.config.min_new_tokens:
            return False
        return not row.config.required_strings or not self._missing(row)

    def _choose_alike(self, rows: Sequence[Row], own: Tensor) -> list[int]:
        config, recorded = rows[0].config, any(row.record for row in rows)
        numbers = [number(row.source, len(row.ids)) for row in rows]
        barred = [self._bars_end(row) for row in rows] if self._end is not None else []
        is_plain = rows[0].plain and own.is_cpu and own.dtype == torch.float32 and not recorded
        is_plain = is_plain and not any(barred)
        if is_plain and self._draw_kernel is not None:
            temperature = 0.0 if config.is_greedy else config.temperature
            chosen: list[int] = self._draw_kernel(own, temperature, config.top_k, numbers)
        else:
            logits = self._shaped(rows, own, barred)
            chosen = draw(logits, numbers)
        _require_tokens(own, chosen)
        for index, row in enumerate(rows):
            if row.config.required_strings:
                chosen[index] = self._forced(row, chosen[index])
        if recorded:
            noted = [index for index, row in enumerate(rows) if row.record]
            records = describe(own[noted], [chosen[index] for index in noted], logits[noted])
            for index, record in zip(noted, records, strict=True):
                # In place of what a step that failed has left.
                rows[index].chosen[len(rows[index].ids) :] = [record]
        return chosen

    def _bars_end(self, row: Row) -> bool:
        return row.config.ignore_eos or not self.may_stop(row)

    def _shaped(self, rows: Sequence[Row], logits: Tensor, barred: Sequence[bool]) -> Tensor:
        # After all settings.
        config = rows[0].config
        if rows[0].counts is not None:
            counts = torch.stack([row.counts for row in rows if row.counts is not None])
            logits = penalize(logits, counts, config)
        bias = bias_tensor(config, self._vocab_size, self._device)
        if bias is not None:
            logits = logits + bias
        if config.banned_strings:
            banned = self._banned(config.banned_strings)
            endings = [
                b"".join(map(self._tokenizer.token_bytes, row.ids[-_BYTES_THAT_MATTER:]))
                for row in rows
            ]
            masks = torch.stack([banned.mask(ending) for ending in endings])
            logits = logits.masked_fill(masks, -torch.inf)
        if self._silent is not None:
            logits = logits.masked_fill(self._silent, -torch.inf)
        if any(barred):
            logits = logits.clone()
            logits[torch.tensor(barred, device=self._device), self._end] = -torch.inf
        return reshape(logits, config)

    def _missing(self, row: Row) -> list[int]:
        # Ids of the required texts that it still lacks.
        return self._required(row.config.required_strings).missing(row.text)

    def _forced(self, row: Row, token: int) -> int:
        # The token itself, or the next one of the required texts when there is room for no other.
        if not row.forced:
            missing = self._missing(row)
            if missing and row.config.max_new_tokens - len(row.ids) <= len(missing):
                row.forced = missing
        return row.forced[len(row.ids) - row.config.max_new_tokens] if row.forced else token


def describe(own: Tensor, tokens: Sequence[int], drawn_from: Tensor | None = None) -> list[Chosen]:
    """A record of each token beside what else could have stood there.

    Args:
        own: the model's logits, `(positions, vocab_size)`.
        tokens: the one at each position.
        drawn_from: the logits after all settings, likewise; None if there were none.
    """
    log_probabilities = own.double().log_softmax(dim=-1)
    sampled, kept = log_probabilities, [own.size(-1)] * len(tokens)
    if drawn_from is not None:
        sampled = drawn_from.double().log_softmax(dim=-1)
        kept = (drawn_from > -torch.inf).sum(dim=-1).tolist()
    probabilities = log_probabilities.exp()
    entropies = -(probabilities * log_probabilities).nansum(dim=-1)
    top = probabilities.topk(min(ALTERNATIVES, own.size(-1)), dim=-1)
    return [
        Chosen(
            id=token,
            log_probability=float(log_probabilities[position, token]),
            sampled_log_probability=float(sampled[position, token]),
            entropy=float(entropies[position]),
            kept=kept[position],
            alternatives=tuple(
                zip(top.indices[position].tolist(), top.values[position].tolist(), strict=True)
            ),
        )
        for position, token in enumerate(tokens)
    ]


def _require_tokens(own: Tensor, chosen: Sequence[int]) -> None:
    # A row without a distribution gets an id that there is not, or one whose own logit is NaN.
    size, lines = own.size(1), own.numpy() if own.is_cpu else None
    if all(
        token < size and (lines is None or math.isfinite(lines[row, token]))
        for row, token in enumerate(chosen)
    ):
        return
    if bool(own.isfinite().all()):
        raise BadInputError("the settings rule out every token that could follow", "Ban less")
    raise BadInputError(
        "the model gives NaN or infinite logits", "Use another checkpoint; this one diverged"
    )


def _silent(model: Transformer, tokenizer: Tokenizer, device: torch.device) -> Tensor | None:
    """True for ids that say nothing: special tokens, and rows of the head without a token."""
    mask = torch.arange(model.config.vocab_size) >= tokenizer.vocab_size
    mask[silent_ids(tokenizer, model.config.end_id)] = True
    return mask.to(device) if bool(mask.any()) else None


class BannedStrings:
    """Rules out every token that would complete a banned text, however tokens cut it up.

    Raises:
        BadInputError: they rule out every token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        strings: tuple[str, ...],
        silent: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._banned = [string.encode("utf-8") for string in strings if string]
        self._tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        # A model may have more rows in its head than the tokenizer has ids.
        self._n_extra, self._device = vocab_size - len(self._tokens), device
        self._masks: dict[bytes, Tensor] = {}
        always = [any(banned in token for banned in self._banned) for token in self._tokens]
        if all(always[i] for i in {*range(len(always))}.difference(silent)):
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
        """Raise BadInputError if a continuation is too short for all of them."""
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
