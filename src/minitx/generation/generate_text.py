"""Generation: feed the text, draw the next token (or keep the likeliest), append it, again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from minitx.config import SamplingConfig
from minitx.errors import BadInputError
from minitx.generation.batch import TextBatch
from minitx.generation.row import Generation, Row
from minitx.model import KVCache, Transformer, evaluating
from minitx.tokenizer import Tokenizer
from minitx.tokenizer.base import silent_ids

ROWS_AT_ONCE = 64
"""Continuations drawn in one batch; more wait for their turn."""

SAMPLED_ALONE = 20_000_000
"""Parameters of the largest model whose samples one thread draws."""

OnText = Callable[[int, str], None]


def prompt_ids(model: Transformer, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt that the model can continue.

    Raises:
        BadInputError: it is empty, longer than the context, or has unknown characters.
    """
    ids: list[int] = tokenizer.encode(prompt).tolist()
    context = model.config.context_length
    if not ids:
        raise BadInputError(
            "the prompt is empty, and a model continues a text",
            r"Give one with --prompt, for example --prompt $'\n'",
        )
    if len(ids) > context:
        raise BadInputError(
            f"the prompt has {len(ids):,} tokens, and the context of this model is {context:,}",
            f"Shorten it to {context:,} tokens, or train with a larger --context",
        )
    return ids


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig,
    on_text: OnText | None = None,
    record_probabilities: bool = False,
    first: int = 0,
) -> list[Generation]:
    """Continue texts.

    Args:
        model, tokenizer: the model is left in the mode it was in.
        prompts: each gets `num_samples` continuations.
        on_text: told each piece of text as soon as it is certain: which generation, and the text.
            Called in torch's inference mode.
        record_probabilities: fill `Generation.chosen`.
        first: position of the first of these prompts in the whole list. Each continuation draws
            its own numbers, which follow from the seed and its position.

    Returns:
        `len(prompts) * num_samples` generations, those of a prompt side by side.

    Raises:
        BadInputError: a prompt is empty, too long, or has characters the tokenizer never saw; or a
            setting does not fit the vocabulary.
    """
    rows: list[Row] = []
    for position, prompt in enumerate(prompts, start=first):
        ids, start = prompt_ids(model, tokenizer, prompt), position * config.num_samples
        samples = range(start, start + config.num_samples)
        rows += [Row(ids, config, sample, record_probabilities) for sample in samples]
    with evaluating(model):
        batch = TextBatch(model, tokenizer)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            _run(batch, rows[start : start + ROWS_AT_ONCE], start, on_text)
    return [
        Generation(
            prompts[index // config.num_samples], row.prompt_ids,
            index % config.num_samples, row.ids,
            row.stream.text, row.finish_reason or "length", row.chosen,
            row.seconds_to_first_token, row.seconds,
        )
        for index, row in enumerate(rows)
    ]  # fmt: skip


def stream(
    model: Transformer, tokenizer: Tokenizer, prompt: str, config: SamplingConfig
) -> Iterator[str]:
    """Continue one text, piece by piece as it becomes certain.

    Raises:
        BadInputError: as in `generate`, before the first piece.
    """
    row = Row(prompt_ids(model, tokenizer, prompt), config)
    batch = TextBatch(model, tokenizer)
    batch.check(row)

    def pieces() -> Iterator[str]:
        with evaluating(model):
            for step in _steps(batch, [row]):
                yield from (row.piece for row in step if row.piece)

    return pieces()


def continue_ids(
    model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], config: SamplingConfig
) -> str:
    """What follows at least one id, at most the context of them, on one thread if that is faster.

    Raises:
        BadInputError: a setting does not fit the vocabulary, or a logit is NaN.
    """
    row = Row(list(ids), config)
    with evaluating(model), sampling_threads(model):
        for _ in _steps(TextBatch(model, tokenizer), [row]):
            pass
    return row.text


@contextmanager
def sampling_threads(model: Transformer) -> Iterator[None]:
    """Draw with one thread where the model is small, and all else keeps as many as it had.

    Where others are busy, threads that meet at each token wait for each other longest of all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if model.config.n_parameters <= SAMPLED_ALONE else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _steps(batch: TextBatch, rows: Sequence[Row]) -> Iterator[list[Row]]:
    spoken = batch.add(rows)
    while spoken:
        for row in spoken:
            if row.failure is not None:
                raise row.failure
        yield spoken
        spoken = batch.step()


@torch.inference_mode()
def _run(batch: TextBatch, rows: Sequence[Row], first: int, on_text: OnText | None) -> None:
    index_of = {row: index for index, row in enumerate(rows, start=first)}
    began = time.perf_counter()
    for step in _steps(batch, rows):
        now = time.perf_counter() - began
        for row in step:
            if len(row.ids) == 1:
                row.seconds_to_first_token = now
            row.seconds = now
            if on_text is not None and row.piece:
                on_text(index_of[row], row.piece)


def beam_search(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    beams: int,
    max_new_tokens: int,
    ignore_eos: bool = False,
) -> list[Generation]:
    """Keep the likeliest texts at every step, instead of drawing one.

    All have the same length, or end by themselves (unless `ignore_eos`), so their log-probabilities
    compare without a length penalty. They are likelier than greedy choice, and duller than
    sampling: the likeliest text is seldom one that a person would write (Holtzman et al. 2020,
    section 3).

    Returns:
        `beams` generations (fewer if there are not as many texts), the likeliest first; `sample`
        is the rank.

    Raises:
        BadInputError: the prompt does not fit, or prompt and continuation exceed the context.
    """
    ids = prompt_ids(model, tokenizer, prompt)
    context, vocab_size = model.config.context_length, tokenizer.vocab_size
    end: Any = model.config.end_id
    barred = silent_ids(tokenizer, end)
    if ignore_eos and end is not None:
        barred, end = [*barred, end], None
    if len(ids) + max_new_tokens > context:
        raise BadInputError(
            f"beam search over {len(ids):,} + {max_new_tokens:,} tokens exceeds the context of "
            f"{context:,}",
            f"Use --max-new-tokens {max(1, context - len(ids))} or a shorter prompt",
        )
    if not 1 <= beams <= 1024:
        raise BadInputError(f"beams is {beams}", "Choose --beams from 1 to 1024")
    weight = model.embedding.weight
    with torch.inference_mode(), evaluating(model):
        cache = KVCache(model.config, 1, context, weight.device, weight.dtype)
        logits = model(torch.tensor([ids], device=weight.device), cache=cache, last_only=True)
        totals = torch.zeros(1, dtype=torch.float64, device=weight.device)
        texts: list[list[int]] = [[]]
        for step in range(max_new_tokens):
            steps = logits[:, -1, :vocab_size].double().log_softmax(dim=-1)
            steps[:, barred] = -torch.inf
            # A text that has ended goes on with its end, which costs nothing.
            for row in [i for i, text in enumerate(texts) if end is not None and end in text]:
                steps[row] = -torch.inf
                steps[row, end] = 0.0
            candidates = (totals[:, None] + steps).flatten()
            kept = int(min(beams, int((candidates > -torch.inf).sum())))
            if not kept:
                raise BadInputError("the model gives NaN logits", "Use another checkpoint")
            totals, best = candidates.topk(kept)
            rows = (best // vocab_size).tolist()
            tokens = (best % vocab_size).tolist()
            texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=True)]
            if end is not None and all(end in text for text in texts):
                break
            if step < max_new_tokens - 1:
                cache.select(rows)
                newest = torch.tensor(tokens, device=weight.device)[:, None]
                logits = model(newest, cache=cache)
    return [
        Generation(
            prompt, ids, rank, ids=text[: text.index(end) + 1] if end in text else text,
            text=tokenizer.decode([token for token in text if token != end]),
            finish_reason="stop" if end in text else "length",
        )
        for rank, text in enumerate(texts)
    ]  # fmt: skip
