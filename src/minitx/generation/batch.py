"""Rows drawn side by side, each with settings of its own, that join and leave between steps.

A step feeds every row's newest token in one pass and draws the next one for each (Yu et al. 2022,
Orca, section 3: scheduling by iteration). A row's text follows from its prompt, settings and seed,
whoever is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minitx.generation.chooser import Chooser
from minitx.generation.row import Row
from minitx.generation.text_reader import TextReader, window_after_slide
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer


class TextBatch:
    """Rows under way, of a model in eval mode that is not changed while this lives."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._chooser = Chooser(model, tokenizer)
        self._kept = window_after_slide(model.config.context_length) - 1
        self.clear()

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that go on."""
        return self._rows

    def clear(self) -> None:
        """Drop all rows, and the memory that they had."""
        self._rows: list[Row] = []
        self._reader = TextReader(self._model)

    def check(self, row: Row) -> None:
        """Raise BadInputError, naming the setting, for a row that can't join."""
        self._chooser.prepare(row)

    @torch.inference_mode()
    def add(self, rows: Sequence[Row]) -> list[Row]:
        """Read prompts, the same prompt once, and draw a first token for each; as in `step`.

        Raises:
            BadInputError: as in `check`, before anything is read.
        """
        for row in rows:
            self.check(row)
        if not rows:
            return []
        # Room for all that they will say, so that nothing is moved for lack of it.
        self._reader.cache.reserve(
            max(len(row.prompt_ids) + row.config.max_new_tokens for row in rows)
        )
        logits = self._reader.read([row.prompt_ids for row in rows])
        self._rows.extend(rows)
        return self._speak(rows, logits)

    def step(self) -> list[Row]:
        """Draw the next token of every row: all are returned, and those that end or fail leave."""
        if not self._rows:
            return []
        # To enter this mode takes as long as to draw a token, so callers in a hurry are in it.
        if torch.is_inference_mode_enabled():
            return self._step()
        with torch.inference_mode():
            return self._step()

    def remove(self, row: Row) -> None:
        """Let a row leave before its end; one that is not here is no error."""
        if row not in self._rows:
            return
        index = self._rows.index(row)
        with torch.inference_mode():
            self._reader.cache.leave(index)
        last = self._rows.pop()
        if index < len(self._rows):
            self._rows[index] = last

    def _step(self) -> list[Row]:
        for index in self._reader.full_rows():
            # One at a time: whatever is beside it, a row is reread to the same numbers.
            tokens = self._rows[index].prompt_ids + self._rows[index].ids
            self._reader.slide(index, tokens[-self._kept - 1 : -1])
        logits = self._reader.feed([row.ids[-1] for row in self._rows])
        return self._speak(list(self._rows), logits)

    def _speak(self, rows: Sequence[Row], logits: Tensor) -> list[Row]:
        tokens: list[int] = []
        try:
            tokens = self._chooser.choose(rows, logits)
        except Exception as error:
            if len(rows) > 1:
                # A row's fault is its own: the others speak as if it were not beside them.
                turns = (slice(index, index + 1) for index in range(len(rows)))
                return [row for turn in turns for row in self._speak(rows[turn], logits[turn])]
            rows[0].failure = error
        for row, token in zip(rows, tokens):  # noqa: B905 (there is no token of one that failed)
            try:
                self._append(row, token)
            except Exception as error:
                row.failure = error
        for row in rows:
            if row.finish_reason is not None or row.failure is not None:
                self.remove(row)
        return list(rows)

    def _append(self, row: Row, token: int) -> None:
        row.ids.append(token)
        if row.counts is not None:
            row.counts[token] += 1.0
        stream = row.stream
        if token == self._model.config.end_id:
            row.piece = stream.finish()
            row.finish_reason = "stop"
            return
        content = self._tokenizer.token_bytes(token)
        row.piece = stream.feed(content, not stream.stops or self._chooser.may_stop(row))
        if stream.stopped:
            row.finish_reason = "stop"
        elif len(row.ids) >= row.config.max_new_tokens:
            row.piece += stream.finish()
            row.finish_reason = "length"
