"""Weights & Biases: online where this user is logged in, else files that `wandb sync` sends."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minitx.training.logging import LOGGERS
from minitx.training.logging.figures import FigureLogger, kept_id


@LOGGERS.register("wandb")
class WandbLogger(FigureLogger):
    """A run of the project `minitx`, or of that in `WANDB_PROJECT`; `WANDB_MODE` is obeyed."""

    package = "wandb"

    def __init__(self, run: Path, first_step: int = 0) -> None:
        wandb = self.load()
        # Nobody is asked for a key in the middle of a command.
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "minitx"), name=run.resolve().name,
            id=kept_id(run, "wandb"), resume="allow", dir=str(run), mode=mode,
            # No host, user or command line goes along.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_meta=True
            ),
        )  # fmt: skip
        # Its own steps only rise, and a resumed run may begin at an earlier one.
        self._run.define_metric("*", step_metric="step")

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Queue figures of a step."""
        self._run.log({"step": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        """Queue a text."""
        self._run.log({"step": step, name: text})

    def settings(self, values: Mapping[str, Any]) -> None:
        """Queue the settings."""
        self._run.config.update(dict(values), allow_val_change=True)

    def close(self) -> None:
        """Wait until what is queued is written or sent."""
        self._run.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return any("wandb" in host for host in netrc.netrc().hosts)
    return False
