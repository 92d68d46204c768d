"""TensorBoard event files in the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minitx.files import os_errors_as_bad_input
from minitx.training.logging import LOGGERS
from minitx.training.logging.figures import FigureLogger


@LOGGERS.register("tensorboard")
class TensorBoardLogger(FigureLogger):
    """Writes event files; what an earlier session wrote past `first_step` is hidden."""

    package = "tensorboard"

    def __init__(self, run: Path, first_step: int = 0) -> None:
        writer, purge_step = self.load("torch.utils.tensorboard").SummaryWriter, None
        if first_step:
            purge_step = first_step + 1
        with os_errors_as_bad_input(f"{run / 'tensorboard'} can't be written", "Free some space"):
            self._writer = writer(str(run / "tensorboard"), purge_step=purge_step)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text; indented by four, Markdown shows a sample as it is."""
        if name == "sample":
            text = "    " + text.replace("\n", "\n    ")
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._writer.close()
