"""MLflow: a local database, or the server that `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minitx.training.logging import LOGGERS
from minitx.training.logging.figures import FigureLogger, kept_id


@LOGGERS.register("mlflow")
class MLflowLogger(FigureLogger):
    """A run of the experiment `minitx`, or of that in `MLFLOW_EXPERIMENT_NAME`."""

    package = "mlflow"

    def __init__(self, run: Path, first_step: int = 0) -> None:
        mlflow = self.load()
        self._metric = self.load("mlflow.entities").Metric
        self._client = client = mlflow.MlflowClient()

        def new_id() -> str:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "minitx")
            known = client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else client.create_experiment(name)
            made = client.create_run(experiment, run_name=run.resolve().name)
            return str(made.info.run_id)

        self._id = kept_id(run, "mlflow", new_id)
        client.update_run(self._id, status="RUNNING")
        self._is_new = not client.get_run(self._id).data.params

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Send figures of a step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def text(self, step: int, name: str, text: str) -> None:
        """Send a text as a file."""
        self._client.log_text(self._id, text, f"{name}-{step:06d}.txt")

    def settings(self, values: Mapping[str, Any]) -> None:
        """Send the settings, which are never changed there."""
        for key, value in values.items() if self._is_new else ():
            self._client.log_param(self._id, key, value)

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._id)
