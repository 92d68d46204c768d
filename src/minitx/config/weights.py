"""Formats with fewer bits that weights can be kept in."""

from __future__ import annotations

from typing import Literal

WeightFormat = Literal["int8", "bfloat16"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = ("int8", "bfloat16")
