"""Many prompts and their continuations, from a file and as JSON: for `minitx generate`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from minitx.checkpoint.rundir import named_run
from minitx.config import GenerationRequest, SamplingConfig
from minitx.corpus.sources import piped_text, plain_text_of
from minitx.errors import BadInputError
from minitx.files import shell_word
from minitx.generation import Generation
from minitx.tokenizer import Tokenizer
from minitx.workflows.load import LoadedModel

_LARGEST_PROMPT_FILE = 1 << 30


def refuse_text(run: Path | None) -> None:
    """Raise BadInputError for a text where a run is named: ``minitx generate "Once upon"``."""
    if run is None or os.path.lexists(named_run(run)):
        return
    advice = f"if it is a text, write --prompt {shell_word(run)}"
    if re.search(r"\s|[!?,;:.\"]$", str(run)) is not None:
        raise BadInputError(f"there is no run {str(run)!r}", f"I{advice[1:]}")
    if os.sep not in str(run):
        raise BadInputError(
            f"{run} does not exist", f"Name a run or checkpoint directory; {advice}"
        )


def prompts_of(request: GenerationRequest, stdin: TextIO | None) -> list[str]:
    """The prompts that are asked for: of a file, given, or piped in; none if they are typed.

    Raises:
        BadInputError: there are none, or they can't be read.
    """
    if request.interactive:
        return []
    if request.prompt_file is not None:
        return _read_prompts(request.prompt_file)
    if request.prompt is not None:
        return [request.prompt]
    fix = 'Give one with --prompt "To be", or --interactive'
    return [piped_text(stdin, "there is no prompt", fix)]


def _read_prompts(path: Path) -> list[str]:
    """Prompts of a file: each line's `prompt` in a ``.jsonl``, the whole text of any other."""
    parts: list[str] = []
    for part in plain_text_of(path, "prompt file"):
        parts.append(part)
        # A pipe tells no size, and some have no end.
        if sum(map(len, parts)) > _LARGEST_PROMPT_FILE:
            raise BadInputError(f"{path} is larger than a gigabyte", "Split it")
    text = "".join(parts)
    if path.suffix != ".jsonl":
        return [text]
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError, RecursionError):
            prompt = None
        if not isinstance(prompt, str):
            raise BadInputError(
                f"line {number} of {path} is not a JSON object with a prompt",
                'Write lines like {"prompt": "To be"}',
            )
        prompts.append(prompt)
    if not prompts:
        raise BadInputError(f"prompt file {path} is empty", 'Write lines like {"prompt": "..."}')
    return prompts


def as_json(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """One generation as a JSON object; log-probabilities in nats, times in seconds."""
    n_tokens = len(generation.ids)
    values: dict[str, Any] = {
        "prompt": generation.prompt,
        "sample": generation.sample,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "prompt_ids": generation.prompt_ids,
        "ids": generation.ids,
        "timing": {
            "seconds_to_first_token": generation.seconds_to_first_token,
            "seconds": generation.seconds,
            "tokens_per_second": n_tokens / generation.seconds if generation.seconds else 0.0,
        },
    }
    if generation.chosen:
        chosen = generation.chosen
        values["log_probabilities"] = [token.log_probability for token in chosen]
        values["sampled_log_probabilities"] = [token.sampled_log_probability for token in chosen]
        values["entropies"] = [token.entropy for token in chosen]
        values["alternatives"] = [
            [
                {"id": id, "piece": tokenizer.piece(id), "probability": probability}
                for id, probability in token.alternatives
                if id < tokenizer.vocab_size
            ]
            for token in chosen
        ]
    return values


def in_batches(
    model: LoadedModel, prompts: Sequence[str], config: SamplingConfig, size: int = 16
) -> Iterator[Generation]:
    """Generate for many prompts, a few at a time, in order.

    Raises:
        BadInputError: as in `sample`, after the results before it.
    """
    for start in range(0, len(prompts), size):
        turn = prompts[start : start + size]
        yield from model.sample(turn, config, record_probabilities=True, first=start)
