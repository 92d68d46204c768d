"""Open a run or a checkpoint, to use the model in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from minitx import engine
from minitx.checkpoint import SavedModel, load_model
from minitx.checkpoint.lock import is_held
from minitx.checkpoint.rundir import Which, find_run, resolve_checkpoint, use_checkpoint
from minitx.compute import choose_device
from minitx.config import SamplingConfig
from minitx.config.checks import require_one_of
from minitx.diagnosis.nonfinite import broken_weight
from minitx.errors import BadInputError
from minitx.generation import Generation, generate
from minitx.generation.generate_text import OnText, beam_search

_log = logging.getLogger("minitx")


class LoadedModel(SavedModel):
    """A model of a checkpoint, ready for use."""

    @property
    def run(self) -> Path | None:
        """The run that the checkpoint belongs to; None if it is in none."""
        run = find_run(self.directory)
        return None if run is None else run.path

    @property
    def step(self) -> int | None:
        """After how many steps the checkpoint was written; None if its name does not say."""
        return step_of(self.directory)

    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        on_text: OnText | None = None,
        record_probabilities: bool = False,
        first: int = 0,
    ) -> list[Generation]:
        """Continue texts: see `minitx.generation.generate`."""
        return generate(
            self.model, self.tokenizer, prompts, config, on_text, record_probabilities, first
        )

    def beam_search(
        self, prompt: str, beams: int, max_new_tokens: int, ignore_eos: bool = False
    ) -> list[Generation]:
        """Find the most likely continuations: see `minitx.generation.generate_text.beam_search`."""
        return beam_search(self.model, self.tokenizer, prompt, beams, max_new_tokens, ignore_eos)


def load(
    path: Path | None = None,
    which: Which = "best",
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
) -> LoadedModel:
    """Open a run (None is the newest) or a checkpoint directory.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: of the weights; `auto` and `float32` keep them exact, `bfloat16` halves them.
        quantize: `int8` keeps weights in 8 bits, `bfloat16` in 16; None as `dtype` says.

    Raises:
        BadInputError: there is no such run, the device does not go with the format, or a weight is
            NaN or infinite.
        DamagedFileError: the checkpoint, or each of the run, is damaged.
    """
    return use_checkpoint(
        lambda: resolve_checkpoint(path, which),
        lambda directory: open_checkpoint(directory, device, dtype, quantize),
    )


def open_checkpoint(
    directory: Path,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    allow_nonfinite: bool = False,
) -> LoadedModel:
    """Open a checkpoint directory, for example from `resolve_checkpoint`; else as `load`."""
    require_one_of("dtype", dtype, ("auto", "float32", "bfloat16"))
    where = choose_device(device)
    if quantize is not None and dtype == "bfloat16" != quantize:
        raise BadInputError(f"{quantize} and bfloat16 are both asked for", "Leave out --dtype")
    stored = quantize or (dtype if dtype == "bfloat16" else None)
    if where.type != "cpu" and stored == "int8":
        raise BadInputError(
            f"weights of 8 bits are not read on {where.type}",
            "Use --device cpu, or --dtype bfloat16",
        )
    half = where.type != "cpu" and stored == "bfloat16"
    loaded = load_model(directory, where, torch.bfloat16 if half else torch.float32)
    weight = None if allow_nonfinite else broken_weight(loaded.model)
    if weight is not None:
        raise BadInputError(
            f"{directory / 'model.safetensors'} holds NaN or infinity: {weight}",
            "Use another checkpoint; of a run, minitx diagnose says what happened",
        )
    if stored is not None and where.type == "cpu":
        engine.quantize(loaded.model, stored)
    return LoadedModel(directory, loaded.model, loaded.tokenizer)


def step_of(checkpoint: Path) -> int | None:
    """The number of steps in a checkpoint's name, if it has one."""
    number = checkpoint.absolute().name.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def used_checkpoint(directory: Path) -> str:
    """In one line: which run, step and checkpoint a directory is, and whether it is the best."""
    run, step = find_run(directory), step_of(directory)
    if run is None or step is None:
        return f"model {directory}"
    best = run.noted_best()
    facts = ["last"] if step == max(run.steps(), default=step) else []
    if best == step:
        facts.insert(0, "best")
    elif best is not None:
        facts.append(f"the best, step {best:,}, is {'kept' if best in run.steps() else 'missing'}")
    if is_held(run.path / "lock"):
        facts.append("still training")
    told = f" ({'; '.join(facts)})" if facts else ""
    path = run.path.absolute()
    if path.parent.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"run {path}, step {step:,}{told}"


def say_used(directories: Iterable[Path | str | None]) -> None:
    """Log which run, step and checkpoint were used, each in one line."""
    for directory in dict.fromkeys(Path(path) for path in directories if path is not None):
        _log.info(used_checkpoint(directory))
