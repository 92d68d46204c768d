"""Which weights of a run are loaded, where to, and in which format."""

# ruff: noqa: RUF009 (`option` makes a dataclass field)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from minitx.config.options import LOADED, Config, option
from minitx.config.train_config import DeviceName, DTypeName

CheckpointName = Literal["best", "last"]
WeightFormat = Literal["int8", "bfloat16"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
"""Formats with fewer bits that weights can be kept in."""


@dataclass(frozen=True)
class LoadConfig(Config):
    """Which checkpoint of a run is loaded, and how."""

    named_by_flags: ClassVar[bool] = True

    checkpoint: CheckpointName = option("best", "Which checkpoint of a run.", LOADED)
    device: DeviceName = option("auto", "Where to compute.", LOADED)
    dtype: DTypeName = option("auto", "Number format of the weights.", LOADED)
    quantize: WeightFormat | None = option(
        None, "Keep the weights in fewer bits; eval --quantize says what it costs.", LOADED
    )
