"""trackio: a local database, which `trackio show --project minitx` shows."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minitx.training.logging import LOGGERS
from minitx.training.logging.figures import FigureLogger, kept_id


@LOGGERS.register("trackio")
class TrackioLogger(FigureLogger):
    """A run of the project `minitx`, or of that in `TRACKIO_PROJECT`."""

    package = "trackio"

    def __init__(self, run: Path, first_step: int = 0) -> None:
        self._trackio = trackio = self.load()
        # It finds its runs by name, and directories elsewhere have runs of the same one.
        name = f"{run.resolve().name}-{kept_id(run, 'trackio')}"
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "minitx"), name=name, resume="allow",
                embed=False,
            )  # fmt: skip

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Queue figures of a step."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Queue a text."""
        self._run.log({name: text}, step=step)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Have the settings sent with the first figures."""
        self._run.config.update(values)

    def close(self) -> None:
        """Wait until what is queued is in the database."""
        with contextlib.redirect_stdout(io.StringIO()):
            # The run's own would leave it to be finished, and told of, once more at the exit.
            self._trackio.finish()
