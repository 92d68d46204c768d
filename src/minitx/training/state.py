"""Where a run stands: all that a resumed run must know beside the weights.

The order of the data and the masks of dropout are no state: both follow from the seed and the
number of steps done.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from minitx.files import json_bytes


@dataclass
class TrainingState:
    """Counters and sums of one run; losses are in nats per token.

    Attributes:
        steps: planned number of optimizer steps.
        steps_decided: false while a time budget may still change `steps`.
        step: optimizer steps done.
        elapsed_seconds: training time, evaluations and earlier sessions included.
        loss_sum, loss_count: of the training losses since the last evaluation.
        train_loss: mean training loss before the last evaluation; NaN before the first.
        best_step, best_holdout_loss: of the lowest holdout loss so far.
        holdout_loss, holdout_margin, holdout_tokens, scored_step: of the last evaluation: see
            `HoldoutLoss`, and after which step it was.
        rewarm_step: step at which a finished run was lengthened, so that its learning rate rises
            gently once more; -1 if it was not.
        rate_scale: what the learning rate is multiplied with since the last rollback.
        loss_scale, scale_kept_for, skipped_steps: see `LossScale`; the second counts steps since
            the scale was changed.
    """

    steps: int
    steps_decided: bool = True
    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    train_loss: float = math.nan
    best_step: int = 0
    best_holdout_loss: float = math.inf
    holdout_loss: float = math.nan
    holdout_margin: float = math.nan
    holdout_tokens: int = 0
    scored_step: int = 0
    evaluations_since_best: int = 0
    rewarm_step: int = -1
    rollbacks: int = 0
    rate_scale: float = 1.0
    loss_scale: float = 2.0**16
    scale_kept_for: int = 0
    skipped_steps: int = 0

    def to_json(self) -> bytes:
        """As a JSON object; floats in full, so that they come back to the bit."""
        values = {
            _FILE_KEYS.get(name, name): str(value)
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in dataclasses.asdict(self).items()
        }
        return json_bytes(values)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainingState:
        """Take up what `to_json` wrote.

        Raises:
            ValueError: it is not the state of a run.
        """
        fields = {_FILE_KEYS.get(f.name, f.name): f for f in dataclasses.fields(cls)}
        if not set(fields) - set(_LATER) <= set(values) <= set(fields):
            raise ValueError("its keys are not those of a training state")
        return cls(
            **{fields[key].name: _read(str(fields[key].type), values[key], key) for key in values}
        )


_LATER = (
    "loss_scale", "scale_kept_for", "skipped_steps",
    "holdout_margin", "holdout_tokens", "scored_step",
)  # fmt: skip
"""Which the files of earlier versions lack."""

_FILE_KEYS = {"steps_decided": "steps_settled"}
"""Names in the file where it keeps those of earlier versions."""


def _read(kind: str, value: Any, key: str) -> Any:
    if kind == "float" and isinstance(value, (float, int, str)) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and type(value) is int and value >= -1:
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    raise ValueError(f"{key} is {value!r}")
