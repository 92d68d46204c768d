"""TensorBoard event files, if asked for: the figures of `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minitx.errors import BadInputError
from minitx.files import os_errors_as_bad_input
from minitx.training.logging import LOGGERS
from minitx.training.observer import (
    EvaluationReport,
    Event,
    HealthReport,
    ProbeReport,
    StepReport,
    TrainingObserver,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@LOGGERS.register("tensorboard")
def tensorboard_of_run(run: Path, first_step: int) -> TensorBoardLogger:
    """The logger that `--tensorboard` asks for."""
    return TensorBoardLogger(run / "tensorboard", first_step)


class TensorBoardLogger(TrainingObserver):
    """Writes event files; what an earlier session wrote past `first_step` is hidden.

    Raises:
        BadInputError: if tensorboard is not installed.
    """

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BadInputError(
                "TensorBoard files need the package tensorboard, which is not installed",
                'Install it with: pip install "minitx[tensorboard]"',
            ) from error
        purge_step = first_step + 1 if first_step else None
        with os_errors_as_bad_input(f"{directory} can't be written", "Leave out --tensorboard"):
            self._writer: SummaryWriter = SummaryWriter(str(directory), purge_step=purge_step)

    def on_step(self, report: StepReport) -> None:
        """Write the step's figures."""
        figures = {
            "train/loss": report.loss,
            "train/perplexity": report.perplexity,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "timing/tokens_per_second": report.tokens_per_second,
        }
        self._scalars(report.step, figures)

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Write the holdout's figures and the sample."""
        figures = {
            "holdout/loss": report.holdout_loss,
            "holdout/perplexity": report.holdout_perplexity,
            "holdout/bits_per_byte": report.holdout_bits_per_byte,
        }
        self._scalars(report.step, figures)
        if report.sample:
            # Indented by four, Markdown shows a text as it is.
            text = (report.sample_prompt + report.sample).replace("\n", "\n    ")
            self._writer.add_text("sample", "    " + text, report.step)

    def on_health(self, report: HealthReport) -> None:
        """Write each layer's figures."""
        figures = {f"gradient_norm/{name}": norm for name, norm in report.gradient_norms.items()}
        figures |= {f"update_ratio/{name}": ratio for name, ratio in report.update_ratios.items()}
        self._scalars(report.step, {f"health/{name}": value for name, value in figures.items()})

    def on_probe(self, report: ProbeReport) -> None:
        """Write each layer's figures, entropies as the mean of a layer's heads."""
        figures = {"probe/output_logit": report.output_logit}
        for layer, heads in enumerate(report.attention_entropy):
            figures[f"probe/attention_entropy/{layer}"] = sum(heads) / len(heads)
            figures[f"probe/attention_score/{layer}"] = report.attention_score[layer]
            figures[f"probe/dead_activations/{layer}"] = report.dead_activations[layer]
        self._scalars(report.step, figures)

    def on_event(self, event: Event) -> None:
        """Write the event as a text."""
        parts = (f"{event.severity}: {event.message}", event.cause, event.fix)
        text = ". ".join(part for part in parts if part)
        self._writer.add_text(f"event/{event.name}", text, event.step)

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._writer.close()

    def _scalars(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
