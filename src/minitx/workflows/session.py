"""A session of training: everything that the steps from where a run stands to its end need.

Both a new run and a resumed one are a session; they differ in where model and state come from.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minitx import __version__
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute, EngineChoice
from minitx.config import RunConfig
from minitx.corpus import EncodedCorpus
from minitx.engine import kernel_build
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.observer import RunStart
from minitx.training.state import TrainingState


@dataclass(frozen=True)
class Session:
    """Everything that a session of training needs; its run is locked by the caller.

    Attributes:
        reasons: for each key that the plan chose.
        loggers: names of those that note the run beside `metrics.jsonl`.
        checkpoint: that it goes on from; None for a new run.
    """

    run: RunDirectory
    config: RunConfig
    reasons: dict[str, str]
    corpus: EncodedCorpus
    tokenizer: Tokenizer
    model: Transformer
    compute: Compute
    engine: EngineChoice
    state: TrainingState
    loggers: tuple[str, ...] = ()
    checkpoint: Path | None = None

    def committed(self) -> Session:
        """The session after the run's files were changed as it needs them.

        Called when nothing can be refused any more: a refusal leaves every file as it was.
        """
        self.run.drop_after(self.state.step)
        if self.corpus.directory == self.run.new_data:
            self.run.adopt_new_data()
        self.run.write_config(self.config)
        return replace(self, corpus=replace(self.corpus, directory=self.run.data))

    def start(self, prompt: str) -> RunStart:
        """What observers are told before the first step; `prompt` is one to try afterwards."""
        return RunStart(
            run=self.run.path,
            config=self.config,
            reasons={**self.reasons, "engine": self.engine.reason},
            n_parameters=self.config.model.n_parameters,
            n_train_tokens=len(self.corpus.train_ids),
            n_holdout_tokens=len(self.corpus.holdout_ids),
            device=self.compute.description,
            dtype=self.compute.dtype_name,
            engine=self.engine.engine,
            first_step=self.state.step,
            n_unknown_tokens=self.corpus.holdout.unknown,
            prompt=prompt,
        )

    def made_with(self) -> dict[str, str]:
        """What a run's numbers depend on beside its settings (docs/reproducible.md)."""
        family, version = kernel_build()
        return {
            "minitx": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "device": self.compute.description,
            "threads": str(torch.get_num_threads()),
            "dtype": self.compute.dtype_name,
            "engine": self.engine.engine,
            "kernels": self.engine.reason,
            "kernel_family": family,
            "kernel_version": version,
        }
