"""Events as a training loop tells them, for tests of loggers."""

import math

from minitx.training.observer import EvaluationReport, StepReport


def step_report(step, loss=2.345, seconds=0.0):
    return StepReport(
        step=step,
        steps=10,
        loss=loss,
        gradient_norm=0.5 + step,
        learning_rate=1e-3 / step,
        tokens=8192 * step,
        tokens_per_second=41_000.5 + seconds,
        elapsed_seconds=step / 3 + seconds,
        seconds_left=1.0 + seconds,
    )


def evaluation(step, loss=2.0):
    return EvaluationReport(
        step=step,
        train_loss=loss - 0.1,
        holdout_loss=loss,
        holdout_bits_per_byte=loss / math.log(2),
        is_best=True,
        sample='wär\n"so" \x1b[31m ☃',
        sample_prompt="KING:\n",
    )
