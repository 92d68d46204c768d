"""What loggers of figures have in common: which figures a run has, and by which names.

A new one is a file beside this, with a class that registers itself and has three methods.
"""

from __future__ import annotations

import contextlib
import importlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from minitx.errors import BadInputError
from minitx.files import json_bytes, read_json, write_atomically
from minitx.training.observer import (
    EvaluationReport,
    Event,
    HealthReport,
    ProbeReport,
    RunStart,
    StepReport,
    TrainingObserver,
)

IDS_FILE = "loggers.json"
"""In a run: what each logger calls it, so that a resumed run goes on there."""


class FigureLogger(TrainingObserver):
    """Turns events into figures and texts, each with a name and a step.

    Attributes:
        package: that must be installed for it, and the name of the extra that brings it; empty
            if it needs none.
    """

    package: ClassVar[str] = ""

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step."""
        raise NotImplementedError

    def text(self, step: int, name: str, text: str) -> None:
        """Note a sample, or what an event said."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Note what the run is made of, by the keys of `run.toml`; nothing of the text is in it."""

    @classmethod
    def load(cls, module: str = "") -> Any:
        """Import the package, or a module in another one that needs it.

        Raises:
            BadInputError: it is not installed.
        """
        try:
            return importlib.import_module(module or cls.package)
        except ImportError:
            raise BadInputError(
                f"--log-to {cls.package} needs the package {cls.package}, which is not installed",
                f'Install it with: pip install "minitx[{cls.package}]"',
            ) from None

    def on_start(self, start: RunStart) -> None:
        """Note the settings."""
        tables = ("tokenizer", "model", "train")
        named = {name: asdict(getattr(start.config, name)) for name in tables}
        named["train"].pop("start")  # A path.
        self.settings({f"{name}.{key}": named[name][key] for name in named for key in named[name]})

    def on_step(self, report: StepReport) -> None:
        """Note the step's figures."""
        figures = {
            "train/loss": report.loss,
            "train/perplexity": report.perplexity,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "timing/tokens_per_second": report.tokens_per_second,
        }
        self.figures(report.step, figures)

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Note the holdout's figures and the sample."""
        figures = {
            "holdout/loss": report.holdout_loss,
            "holdout/perplexity": report.holdout_perplexity,
            "holdout/bits_per_byte": report.holdout_bits_per_byte,
        }
        if report.old_holdout_loss is not None:
            figures["holdout/old_loss"] = report.old_holdout_loss
        self.figures(report.step, figures)
        if report.sample:
            self.text(report.step, "sample", report.sample_prompt + report.sample)

    def on_health(self, report: HealthReport) -> None:
        """Note each layer's figures."""
        figures = {f"gradient_norm/{name}": norm for name, norm in report.gradient_norms.items()}
        figures |= {f"update_ratio/{name}": ratio for name, ratio in report.update_ratios.items()}
        self.figures(report.step, {f"health/{name}": value for name, value in figures.items()})

    def on_probe(self, report: ProbeReport) -> None:
        """Note each layer's figures, entropies as the mean of a layer's heads."""
        figures = {"probe/output_logit": report.output_logit}
        for layer, heads in enumerate(report.attention_entropy):
            figures[f"probe/attention_entropy/{layer}"] = sum(heads) / len(heads)
            figures[f"probe/attention_score/{layer}"] = report.attention_score[layer]
            figures[f"probe/dead_activations/{layer}"] = report.dead_activations[layer]
        self.figures(report.step, figures)

    def on_event(self, event: Event) -> None:
        """Note the event as a text."""
        parts = (f"{event.severity}: {event.message}", event.cause, event.fix)
        self.text(event.step, f"event/{event.name}", ". ".join(part for part in parts if part))


def kept_id(run: Path, logger: str, new: Callable[[], str] = lambda: uuid.uuid4().hex[:8]) -> str:
    """What a logger calls a run: as when it began, or a new name, which is kept."""
    ids: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        ids = read_json(run / IDS_FILE)
    if not isinstance(ids.get(logger), str):
        ids[logger] = new()
        write_atomically(run / IDS_FILE, json_bytes(ids))
    return str(ids[logger])
