"""Load a model to speak with: what `minitx generate` does, as library calls.

speaker = open_speaker(resolve_checkpoint(None))
print(speaker.generate(["To be or not"], SamplingConfig(top_k=40))[0].text)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from minitx.checkpoint import load_model
from minitx.compute import choose_device
from minitx.config import GenerationRequest, SamplingConfig
from minitx.corpus.reading import piped_text
from minitx.errors import BadInputError
from minitx.generation import Generation, generate
from minitx.generation.beam import beam_search
from minitx.generation.loop import OnText
from minitx.model import Transformer
from minitx.model.stored_weights import store_weights
from minitx.tokenizer import Tokenizer

_LARGEST_PROMPT_FILE = 1 << 30


@dataclass(frozen=True)
class Speaker:
    """A model ready to generate.

    Attributes:
        checkpoint: its directory.
        model: in eval mode.
        tokenizer: of the model.
    """

    checkpoint: Path
    model: Transformer
    tokenizer: Tokenizer

    def generate(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        on_text: OnText | None = None,
        record_probabilities: bool = False,
    ) -> list[Generation]:
        """Continue texts: see `minitx.generation.generate`."""
        return generate(self.model, self.tokenizer, prompts, config, on_text, record_probabilities)

    def beam_search(self, prompt: str, beams: int, max_new_tokens: int) -> list[Generation]:
        """Find the likeliest continuations: see `minitx.generation.beam.beam_search`."""
        return beam_search(self.model, self.tokenizer, prompt, beams, max_new_tokens)


def open_speaker(
    checkpoint: Path, device: str = "auto", dtype: str = "auto", quantize: str | None = None
) -> Speaker:
    """Load a model to generate with.

    Args:
        checkpoint: a checkpoint directory, for example from `resolve_checkpoint`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: of the weights; `auto` and `float32` keep them exact, `bfloat16` halves them.
        quantize: `int8` keeps weights in 8 bits, `bfloat16` in 16; None as `dtype` says.

    Raises:
        BadInputError, DamagedFileError: see `load_model`; or the device does not go with it.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise BadInputError(f"dtype is {dtype!r}", "Choose one of auto, float32, bfloat16")
    where = choose_device(device)
    if quantize is not None and dtype == "bfloat16" != quantize:
        raise BadInputError(f"{quantize} and bfloat16 are both asked for", "Leave out --dtype")
    if where.type != "cpu":
        if quantize == "int8":
            raise BadInputError(
                f"weights of 8 bits are not read on {where.type}",
                "Use --device cpu, or --dtype bfloat16",
            )
        half = "bfloat16" in (dtype, quantize)
        loaded = load_model(checkpoint, where, torch.bfloat16 if half else torch.float32)
    else:
        loaded = load_model(checkpoint, where, torch.float32)
        kept = quantize or ("bfloat16" if dtype == "bfloat16" else None)
        if kept is not None:
            store_weights(loaded.model, kept)
    return Speaker(checkpoint, loaded.model, loaded.tokenizer)


def prompts_of(request: GenerationRequest, stdin: TextIO | None) -> list[str]:
    """The prompts that are asked for: of a file, given, or piped in; none if they are typed.

    Raises:
        BadInputError: there are none, or they can't be read.
    """
    if request.interactive:
        return []
    if request.prompt_file is not None:
        return read_prompts(request.prompt_file)
    if request.prompt is not None:
        return [request.prompt]
    fix = 'Give one with --prompt "To be", or --interactive'
    return [piped_text(stdin, "there is no prompt", fix)]


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: each line's `prompt` in a ``.jsonl``, the whole text of any other.

    Raises:
        BadInputError: it can't be read, or a line is not an object with a `prompt`.
    """
    try:
        # Some files (/dev/zero) tell no size and have no end.
        if path.is_char_device() or path.is_block_device():
            raise BadInputError(f"prompt file {path} is a device", "Name a text file")
        if path.stat().st_size > _LARGEST_PROMPT_FILE:
            raise BadInputError(f"{path} is larger than a gigabyte", "Split it")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadInputError(
            f"prompt file {path} can't be read ({error.strerror})", "Name a file that exists"
        ) from None
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"prompt file {path} is not UTF-8 at byte {error.start}", "Save it as UTF-8 text"
        ) from None
    if path.suffix != ".jsonl":
        return [text]
    lines = enumerate(text.splitlines(), start=1)
    prompts = [_prompt_of(path, number, line) for number, line in lines if line.strip()]
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
        values["log_probabilities"] = [one.log_probability for one in generation.chosen]
        values["sampled_log_probabilities"] = [
            one.sampled_log_probability for one in generation.chosen
        ]
        values["entropies"] = [one.entropy for one in generation.chosen]
        values["alternatives"] = [
            [
                {"id": token, "piece": tokenizer.piece(token), "probability": probability}
                for token, probability in one.alternatives
                if token < tokenizer.vocab_size
            ]
            for one in generation.chosen
        ]
    return values


def in_batches(
    speaker: Speaker, prompts: Sequence[str], config: SamplingConfig, size: int = 16
) -> Iterator[Generation]:
    """Generate for many prompts, a few at a time, in order.

    Raises:
        BadInputError: as in `generate`; results before it were given.
    """
    for start in range(0, len(prompts), size):
        yield from speaker.generate(
            prompts[start : start + size], config, record_probabilities=True
        )


def _prompt_of(path: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise BadInputError(
            f"line {number} of {path} is no JSON object with a prompt",
            'Write lines like {"prompt": "To be"}',
        )
    return prompt
