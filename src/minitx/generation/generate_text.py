"""Generation: feed the text, draw the next token, append it, again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from minitx.config import SamplingConfig
from minitx.generation.batch import Piece, TextBatch
from minitx.generation.generated import Generation
from minitx.generation.requests import check_settings, prompt_ids
from minitx.generation.row import Row
from minitx.model import Transformer, evaluating
from minitx.tokenizer import Tokenizer

ROWS_AT_ONCE = 64
"""Continuations drawn in one batch; more wait for their turn."""

OnText = Callable[[int, str], None]


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig,
    on_text: OnText | None = None,
    record_probabilities: bool = False,
) -> list[Generation]:
    """Continue texts.

    Args:
        model, tokenizer: the model is left in the mode it was in.
        prompts: each gets `num_samples` continuations.
        config: how to draw.
        on_text: told each piece of text as soon as it is certain: which generation, and the text.
            Called in torch's inference mode.
        record_probabilities: fill `Generation.chosen`.

    Returns:
        `len(prompts) * num_samples` generations, those of a prompt side by side.

    Raises:
        BadInputError: a prompt is empty, too long, or has characters the tokenizer never saw; or a
            setting does not fit the vocabulary.
    """
    results: list[Generation] = []
    rows: list[Row] = []
    for prompt in prompts:
        ids = prompt_ids(model, tokenizer, prompt)
        for sample in range(config.num_samples):
            results.append(Generation(prompt, ids, sample))
            rows.append(Row(ids, config, sample, record_probabilities))
    check_settings(model, config)
    with evaluating(model):
        batch = TextBatch(model, tokenizer)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            turn = slice(start, start + ROWS_AT_ONCE)
            _run(batch, rows[turn], results[turn], start, on_text)
    return results


def stream(
    model: Transformer, tokenizer: Tokenizer, prompt: str, config: SamplingConfig
) -> Iterator[str]:
    """Continue one text, piece by piece as it becomes certain.

    Raises:
        BadInputError: as in `generate`, before the first piece.
    """
    row = Row(prompt_ids(model, tokenizer, prompt), config)
    check_settings(model, config)
    batch = TextBatch(model, tokenizer)
    batch.check(row)

    def pieces() -> Iterator[str]:
        with evaluating(model):
            for step in _steps(batch, [row]):
                yield from (piece.text for piece in step if piece.text)

    return pieces()


def _steps(batch: TextBatch, rows: Sequence[Row]) -> Iterator[list[Piece]]:
    yield batch.add(rows)
    while batch.rows:
        yield batch.step()


@torch.inference_mode()
def _run(
    batch: TextBatch,
    rows: Sequence[Row],
    results: Sequence[Generation],
    first: int,
    on_text: OnText | None,
) -> None:
    index_of = {row: index for index, row in enumerate(rows)}
    began = time.perf_counter()
    for step in _steps(batch, rows):
        now = time.perf_counter() - began
        for piece in step:
            index = index_of[piece.row]
            if len(piece.row.ids) == 1:
                results[index].seconds_to_first_token = now
            if piece.finish_reason is not None:
                result, row = results[index], piece.row
                result.ids, result.text, result.chosen = row.ids, row.stream.text, row.chosen
                result.finish_reason, result.seconds = piece.finish_reason, now
            if on_text is not None and piece.text:
                on_text(first + index, piece.text)
