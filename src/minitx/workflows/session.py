"""A session of training: everything that the steps from where a run stands to its end need.

Both a new run and a resumed one are a session; they differ in where model and state come from.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitx import __version__
from minitx.checkpoint.rundir import RunDirectory
from minitx.compute import Compute, EngineChoice
from minitx.config import RunConfig
from minitx.corpus import EncodedCorpus
from minitx.model import Transformer
from minitx.tokenizer import Tokenizer
from minitx.training.observer import RunStart
from minitx.training.state import TrainingState


@dataclass(frozen=True)
class Session:
    """Everything that a session of training needs.

    Attributes:
        run: its directory, locked by the caller.
        reasons: for each key that the plan chose.
        engine: what computes, and why.
        optimizer_tensors: saved moments; None for a new run.
        diagnosis: what `diagnosis.json` of the checkpoint says; empty for a new run.
        good_state_tensors: of the states that a rollback may return to.
        commit: changes the run's files, and gives the corpus where it is then.
        loggers: names of those that note the run beside `metrics.jsonl`.
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
    optimizer_tensors: dict[str, Tensor] | None = None
    diagnosis: dict[str, Any] = field(default_factory=dict)
    good_state_tensors: dict[str, Tensor] = field(default_factory=dict)
    loggers: tuple[str, ...] = ()
    commit: Callable[[], EncodedCorpus] | None = None

    def committed(self) -> Session:
        """The session after the run's files were changed as it needs them.

        Called when nothing can be refused any more: a refusal leaves every file as it was.
        """
        return self if self.commit is None else replace(self, corpus=self.commit(), commit=None)

    def start(self) -> RunStart:
        """What observers are told before the first step."""
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
            n_holdout_unknown=self.corpus.holdout.unknown,
        )

    def made_with(self) -> dict[str, str]:
        """What a run's numbers depend on beside its settings (docs/reproducible.md)."""
        start = self.start()
        return {
            "minitx": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "device": start.device,
            "threads": str(torch.get_num_threads()),
            "dtype": start.dtype,
            "engine": start.engine,
            "kernels": self.engine.reason,
        }
