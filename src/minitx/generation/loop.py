"""Generation: feed the text, draw the next token, append it, again.

Past the context the window slides: when a row has filled it, the oldest quarter is forgotten, and
the newest three quarters are read anew in one pass, from position 0. So a token is always
predicted from at least three quarters of the context (once there is that much), and the cost of
rereading is spread over a quarter of the context's length in tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minitx.config import SamplingConfig
from minitx.errors import BadInputError
from minitx.generation.constraints import BannedStrings, RequiredStrings
from minitx.generation.draws import draw, uniform
from minitx.generation.filters import bias_tensor, penalize, reads_text, reshape
from minitx.generation.text_stream import TextStream
from minitx.model import KVCache, Transformer
from minitx.tokenizer import Tokenizer

ROWS_AT_ONCE = 64
"""Continuations drawn in one batch; more wait for their turn."""

ALTERNATIVES = 5
"""Likeliest tokens noted at each position with `record_probabilities`."""

OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class Chosen:
    """One generated token and what stood beside it.

    Attributes:
        id: the token.
        log_probability: under the model's own distribution, nats.
        sampled_log_probability: under the distribution it was drawn from, after all settings.
        entropy: of the model's own distribution, nats.
        kept: tokens that the settings left to draw from.
        alternatives: the likeliest tokens and their probabilities in the model's distribution.
    """

    id: int
    log_probability: float
    sampled_log_probability: float
    entropy: float
    kept: int
    alternatives: tuple[tuple[int, float], ...]


@dataclass
class Generation:
    """One continuation.

    Attributes:
        prompt: the text it continues.
        prompt_ids: the same as ids.
        sample: which continuation of the prompt, from 0.
        ids: the new tokens.
        text: what they say, a stop string left out.
        finish_reason: `stop` at a stop string, `length` at `max_new_tokens`.
        chosen: a record of each new token; empty unless asked for.
        seconds_to_first_token: from the start of its batch.
        seconds: from the start of its batch to its end.
    """

    prompt: str
    prompt_ids: list[int]
    sample: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = "length"
    chosen: list[Chosen] = field(default_factory=list)
    seconds_to_first_token: float = 0.0
    seconds: float = 0.0


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: SamplingConfig,
    on_text: OnText | None = None,
    record_probabilities: bool = False,
) -> list[Generation]:
    """Continue texts.

    The same seed gives the same text, whatever else is drawn in the same batch (but for the last
    bits of float32 products, which may differ between batch sizes and could in principle turn a
    draw).

    Args:
        model: left in the mode it was in.
        tokenizer: of the model.
        prompts: each gets `num_samples` continuations.
        config: how to draw.
        on_text: told each piece of text as soon as it is certain: which generation, and the text.
        record_probabilities: fill `Generation.chosen`.

    Returns:
        `len(prompts) * num_samples` generations, those of a prompt side by side.

    Raises:
        BadInputError: a prompt is empty, too long, or has characters the tokenizer never saw; or a
            setting does not fit the vocabulary.
    """
    results: list[Generation] = []
    rows: list[_Row] = []
    for prompt in prompts:
        ids = prompt_ids(model, tokenizer, prompt)
        for sample in range(config.num_samples):
            results.append(Generation(prompt, ids, sample))
            rows.append(_Row(len(results) - 1, results[-1], TextStream(config.stop_strings)))
    check_settings(model, config)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), ROWS_AT_ONCE):
                batch = rows[start : start + ROWS_AT_ONCE]
                _Batch(model, tokenizer, config, batch, record_probabilities).run(on_text)
    finally:
        model.train(was_training)
    return results


def stream(
    model: Transformer, tokenizer: Tokenizer, prompt: str, config: SamplingConfig
) -> Iterator[str]:
    """Continue one text, piece by piece as it becomes certain.

    Raises:
        BadInputError: as in `generate`, before the first piece.
    """
    ids = prompt_ids(model, tokenizer, prompt)
    check_settings(model, config)
    row = _Row(0, Generation(prompt, ids, 0), TextStream(config.stop_strings))
    batch = _Batch(model, tokenizer, config, [row], record=False)

    def pieces() -> Iterator[str]:
        was_training = model.training
        model.eval()
        try:
            steps = batch.steps()
            while True:
                # Not around the yield: the caller's own tensors are none of our business.
                with torch.inference_mode():
                    found = next(steps, None)
                if found is None:
                    return
                yield from (text for _, text in found if text)
        finally:
            model.train(was_training)

    return pieces()


def prompt_ids(model: Transformer, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt that the model can continue.

    Raises:
        BadInputError: it is empty, longer than the context, or has unknown characters.
    """
    ids = [int(i) for i in tokenizer.encode(prompt)]
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


def check_settings(model: Transformer, config: SamplingConfig) -> None:
    """Refuse settings that don't fit a model's vocabulary.

    Raises:
        BadInputError: naming the setting.
    """
    vocab_size = model.config.vocab_size
    if config.top_k is not None and config.top_k > vocab_size:
        raise BadInputError(
            f"top-k is {config.top_k}, and the vocabulary has {vocab_size:,} tokens",
            f"Choose --top-k from 1 to {vocab_size}",
        )
    for token in config.logit_bias:
        if not 0 <= token < vocab_size:
            raise BadInputError(
                f"logit bias names token {token}, and the vocabulary has {vocab_size:,}",
                f"Choose ids from 0 to {vocab_size - 1}",
            )


def window_after_slide(context_length: int) -> int:
    """How many of the newest tokens are kept when the window slides."""
    return context_length - context_length // 4


@dataclass
class _Row:
    """One generation under way, and the text that it has given out."""

    index: int
    generation: Generation
    stream: TextStream
    forced: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.generation.ids

    @property
    def text(self) -> str:
        return self.stream.text + self.stream.held


class _Batch:
    """Rows that are drawn side by side; a row that ends leaves the batch."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        config: SamplingConfig,
        rows: list[_Row],
        record: bool,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.rows = rows
        self.record = record
        weight = model.embedding.weight
        self.device = weight.device
        longest = max(len(row.generation.prompt_ids) for row in rows)
        capacity = min(model.config.context_length, longest + config.max_new_tokens)
        self.cache = KVCache(model.config, 0, capacity, self.device, weight.dtype)
        self.bias = bias_tensor(config, model.config.vocab_size, self.device)
        self.silent = _silent(model, tokenizer, self.device)
        self.banned = (
            BannedStrings(tokenizer, config.banned_strings, self.device)
            if config.banned_strings
            else None
        )
        self.required = (
            RequiredStrings(tokenizer, config.required_strings, config.max_new_tokens)
            if config.required_strings
            else None
        )
        self.counts: Tensor | None = None
        self.token_bytes = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]

    def run(self, on_text: OnText | None) -> None:
        """Draw all rows to their end."""
        for found in self.steps():
            if on_text is not None:
                for index, text in found:
                    if text:
                        on_text(index, text)

    def steps(self) -> Iterator[list[tuple[int, str]]]:
        """Draw one token in every row; give (generation, new text) pairs."""
        began = time.perf_counter()
        logits = self._read_prompts()
        while self.rows:
            ids = self._choose(logits)
            found, going = [], []
            for place, (row, token) in enumerate(zip(self.rows, ids, strict=True)):
                text, ended = self._append(place, row, token)
                now = time.perf_counter() - began
                if len(row.ids) == 1:
                    row.generation.seconds_to_first_token = now
                if ended:
                    row.generation.seconds = now
                else:
                    going.append(place)
                found.append((row.index, text))
            yield found
            if len(going) < len(self.rows):
                self._keep(going)
            if self.rows:
                logits = self._feed()

    def _read_prompts(self) -> Tensor:
        # Each different prompt is read once, all in one pass; its samples start from copies.
        asked = [tuple(row.generation.prompt_ids) for row in self.rows]
        prompts = list(dict.fromkeys(asked))
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
        for place, prompt in enumerate(prompts):
            ids[place, : len(prompt)] = torch.tensor(prompt)
        weight = self.model.embedding.weight
        self.cache = KVCache(
            self.model.config, len(prompts), self.cache.capacity, self.device, weight.dtype
        )
        same = bool((lengths == lengths[0]).all())
        logits: Tensor = self.model(
            ids.to(self.device),
            cache=self.cache,
            lengths=None if same else lengths,
            last_only=True,
        )[:, 0]
        places = [prompts.index(prompt) for prompt in asked]
        if places != list(range(len(prompts))):
            self.cache.select(places)
            logits = logits[torch.tensor(places, device=self.device)]
        if reads_text(self.config):
            self.counts = torch.zeros(
                len(self.rows), self.model.config.vocab_size, device=self.device
            )
            for place, prompt in enumerate(asked):
                given = torch.tensor(prompt, device=self.device)
                self.counts[place].index_add_(0, given, torch.ones(len(given), device=self.device))
        return logits

    def _feed(self) -> Tensor:
        newest = torch.tensor([[row.ids[-1]] for row in self.rows], device=self.device)
        self._slide()
        logits: Tensor = self.model(newest, cache=self.cache)[:, -1]
        return logits

    def _slide(self) -> None:
        # Full rows are reread without their newest token, which the next pass feeds.
        if self.cache.common_length is not None and self.cache.common_length < self.cache.capacity:
            return
        lengths = self.cache.lengths.tolist()
        full = [place for place, length in enumerate(lengths) if length == self.cache.capacity]
        if not full:
            return
        kept = window_after_slide(self.model.config.context_length) - 1
        texts = []
        for place in full:
            row = self.rows[place].generation
            everything = row.prompt_ids + row.ids
            texts.append(everything[len(everything) - 1 - kept : -1])
        weight = self.model.embedding.weight
        fresh = KVCache(
            self.model.config, len(full), self.cache.capacity, self.device, weight.dtype
        )
        if kept:
            self.model(torch.tensor(texts, device=self.device), cache=fresh, last_only=True)
        self.cache.replace(full, fresh)

    def _choose(self, raw: Tensor) -> list[int]:
        config = self.config
        logits = raw.float() if raw.dtype.itemsize < 4 else raw
        own = logits
        if self.counts is not None:
            logits = penalize(
                logits,
                self.counts,
                config.repetition_penalty,
                config.frequency_penalty,
                config.presence_penalty,
            )
        if self.bias is not None:
            logits = logits + self.bias
        if self.banned is not None:
            masks = [
                self.banned.mask(b"".join(self.token_bytes[i] for i in row.ids[-256:]))
                for row in self.rows
            ]
            logits = logits.masked_fill(_padded(torch.stack(masks), logits), -torch.inf)
        if self.silent is not None:
            logits = logits.masked_fill(self.silent, -torch.inf)
        logits = reshape(logits, config)
        if config.temperature == 0.0:
            ids = logits.argmax(dim=-1)
        else:
            numbers = [
                uniform(config.seed, row.generation.sample, len(row.ids)) for row in self.rows
            ]
            ids = draw(logits, numbers)
        chosen: list[int] = ids.tolist()
        if self.required is not None:
            chosen = [
                self._forced(row, token) for row, token in zip(self.rows, chosen, strict=True)
            ]
        if self.record:
            self._note(own, logits, chosen)
        return chosen

    def _forced(self, row: _Row, token: int) -> int:
        # The token itself, or the next one of the required texts when there is room for no other.
        assert self.required is not None
        if not row.forced:
            missing = self.required.missing(row.text)
            if missing and self.config.max_new_tokens - len(row.ids) <= len(missing):
                row.forced = missing
        return row.forced.pop(0) if row.forced else token

    def _note(self, own: Tensor, logits: Tensor, chosen: list[int]) -> None:
        log_probabilities = own.double().log_softmax(dim=-1)
        sampled = logits.double().log_softmax(dim=-1)
        probabilities = log_probabilities.exp()
        entropies = -(probabilities * log_probabilities).nansum(dim=-1)
        top = probabilities.topk(min(ALTERNATIVES, own.size(-1)), dim=-1)
        kept = (logits > -torch.inf).sum(dim=-1)
        for place, (row, token) in enumerate(zip(self.rows, chosen, strict=True)):
            row.generation.chosen.append(
                Chosen(
                    id=token,
                    log_probability=float(log_probabilities[place, token]),
                    sampled_log_probability=float(sampled[place, token]),
                    entropy=float(entropies[place]),
                    kept=int(kept[place]),
                    alternatives=tuple(
                        zip(top.indices[place].tolist(), top.values[place].tolist(), strict=True)
                    ),
                )
            )

    def _append(self, place: int, row: _Row, token: int) -> tuple[str, bool]:
        # The text that is now certain, and whether the row ends here.
        row.ids.append(token)
        if self.counts is not None:
            self.counts[place, token] += 1.0
        may_stop = len(row.ids) >= self.config.min_new_tokens
        if self.required is not None and self.required.missing(row.text):
            may_stop = False
        text = row.stream.feed(self.token_bytes[token], may_stop)
        ended = row.stream.stopped
        if ended:
            row.generation.finish_reason = "stop"
        elif len(row.ids) >= self.config.max_new_tokens:
            text, ended = text + row.stream.finish(), True
        row.generation.text = row.stream.text
        return text, ended

    def _keep(self, places: list[int]) -> None:
        self.rows = [self.rows[place] for place in places]
        if places:
            self.cache.select(places)
            if self.counts is not None:
                self.counts = self.counts[torch.tensor(places, device=self.device)]


def _silent(model: Transformer, tokenizer: Tokenizer, device: torch.device) -> Tensor | None:
    """True for ids that say nothing: the unknown token, and rows of the head without a token."""
    mask = torch.arange(model.config.vocab_size) >= tokenizer.vocab_size
    if tokenizer.unknown_id is not None:
        mask[tokenizer.unknown_id] = True
    return mask.to(device) if bool(mask.any()) else None


def _padded(mask: Tensor, logits: Tensor) -> Tensor:
    # A model may have more rows in its head than the tokenizer has ids.
    extra = logits.size(-1) - mask.size(-1)
    return torch.nn.functional.pad(mask, (0, extra)) if extra else mask
