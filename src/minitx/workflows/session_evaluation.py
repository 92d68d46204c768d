"""How a session looks at its model: the holdout loss, and a sample to read."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from minitx.config import SamplingConfig
from minitx.evaluation.arrays import bits_per
from minitx.evaluation.scoring import score, windows_for
from minitx.generation import generate
from minitx.training.hooks import HoldoutLoss, StopEvaluation
from minitx.training.signals import StopRequest
from minitx.workflows.session import Session

_SAMPLE_TOKENS = {"cpu": 160}
_SAMPLE_TOKENS_ELSEWHERE = 64
"""One token takes a GPU as long as a step of a small model does."""


def holdout_scorer(session: Session, stop: StopRequest) -> Callable[[bool], HoldoutLoss]:
    """Give a function that scores the holdout; see `RunHooks.evaluate`."""
    corpus, config = session.corpus, session.config.train
    # The first token is never scored, so its bytes are not counted.
    unscored = sum(len(session.tokenizer.token_bytes(int(i))) for i in corpus.holdout_ids[:1])
    n_targets = max(1, len(corpus.holdout_ids) - 1)
    bytes_per_token = max(1, corpus.holdout.bytes - unscored) / n_targets

    def evaluate(closing: bool) -> HoldoutLoss:
        def check_stop(_: int) -> None:
            if closing and stop.signal_number is not None:
                raise StopEvaluation

        n_tokens = config.closing_tokens if closing else config.evaluation_tokens
        windows = windows_for(
            session.model, max_tokens=n_tokens, autocast_dtype=session.compute.dtype
        )
        scored = score(session.model, corpus.holdout_ids, windows, check_stop)
        bits = bits_per(scored.loss, bytes_per_token)
        return HoldoutLoss(scored.loss, bits, scored.n_tokens)

    return evaluate


def sampler(session: Session) -> Callable[[], tuple[str, str]]:
    """Give a function that draws a sample: prompt and continuation."""
    prompt = sample_prompt(session)
    config = SamplingConfig(
        temperature=0.8,
        top_k=min(40, session.model.config.vocab_size),
        max_new_tokens=_SAMPLE_TOKENS.get(session.compute.device.type, _SAMPLE_TOKENS_ELSEWHERE),
        seed=session.config.train.seed,
    )

    def sample() -> tuple[str, str]:
        drawn = generate(session.model, session.tokenizer, [prompt], config)
        return prompt, drawn[0].text

    return sample


def short_prompt(session: Session) -> str:
    """A prompt to type, of at most 24 printable characters that the tokenizer knows.

    Empty if no token of the vocabulary is such a text.
    """
    tokenizer, words = session.tokenizer, sample_prompt(session).split()
    texts = (" ".join(words[:n]) for n in range(len(words), 0, -1))
    tokens = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    for text in itertools.chain(texts, tokens):
        is_typed = text.isprintable() and text == text.strip() and len(text) <= 24
        if text and is_typed and not tokenizer.unknown_characters(text):
            return text
    return ""


def sample_prompt(session: Session) -> str:
    """What each sample of a run continues."""
    # The first words of a line of the holdout: text like the corpus, but never trained on.
    text = session.corpus.holdout_beginning(4000)
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    limit = session.model.config.context_length // 2
    for line in [*lines, text.strip()]:
        words = line.split()
        prompt = " ".join(words[:4])[:40]
        if not prompt or session.tokenizer.unknown_characters(prompt):
            continue
        if len(session.tokenizer.encode(prompt)) <= limit:
            return prompt
    # Whatever the text: one token that stands for itself, of the train part if it has one.
    tokenizer = session.tokenizer
    for token in (*session.corpus.train_ids[:1000].tolist(), *range(tokenizer.vocab_size)):
        prompt = tokenizer.decode([token])
        if token != tokenizer.unknown_id and prompt and not tokenizer.unknown_characters(prompt):
            return prompt
    return tokenizer.decode(session.corpus.train_ids[:1])
