"""The curves of a report, as data for its script, and the plotting library that draws them.

The library is uPlot (MIT), 120 kB of script as the package `uplot-python` ships it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minitx.errors import BadInputError
from minitx.report.terminal.printable import visible
from minitx.training.history import RunHistory, Series
from minitx.training.observer import Event

MOST_POINTS = 8_000
"""Logged steps of one run that are drawn; of more, so many evenly spaced ones and extremes."""

_STEP_COLUMNS = ("tokens", "loss", "learning_rate", "gradient_norm")
_EVALUATION_FIGURES = {
    "train_loss": "train_loss", "holdout_loss": "holdout_loss", "perplexity": "holdout_perplexity",
    "bits_per_byte": "holdout_bits_per_byte",
}  # fmt: skip
_LIBRARY_FILES = ("static/uPlot.iife.js", "static/uPlot.min.css")


def plotting_library() -> tuple[str, str]:
    """Script and style sheet of uPlot.

    Raises:
        BadInputError: its package is not installed.
    """
    package = find_spec("uplot")
    # Only its files are needed: importing it would load IPython.
    for folder in (package and package.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            files = [Path(folder) / name for name in _LIBRARY_FILES]
            script, style = (file.read_text(encoding="utf-8") for file in files)
            return script.replace("</script", "<\\/script"), style
    raise BadInputError(
        "the curves of a report need the package uplot-python, which is not installed",
        'Install it with: pip install "minitx[report]"',
    )


def problems(history: RunHistory) -> list[Event]:
    """The events that a page numbers and marks in its curves."""
    return [event for event in history.events if event.severity != "info"]


def curves(name: str, history: RunHistory) -> dict[str, Any]:
    """What the page's script draws of one run."""
    steps = history.steps.thinned(MOST_POINTS, "loss")
    evaluations = history.evaluations
    return {
        "name": visible(name),
        "logged": len(history.steps),
        "steps": {
            "step": steps.step.tolist(),
            "seconds": _plain(steps.columns["elapsed_seconds"]),
            **{name: _plain(steps.columns[name]) for name in _STEP_COLUMNS},
        },
        "evaluations": {
            **_axes(history, [report.step for report in evaluations]),
            **{
                name: _plain(getattr(report, attribute) for report in evaluations)
                for name, attribute in _EVALUATION_FIGURES.items()
            },
        },
        "gradient_norms": _layers(history, history.gradient_norms),
        "update_ratios": _layers(history, history.update_ratios),
        "events": [
            {
                "step": event.step,
                "tokens": _number(history.at("tokens", event.step)),
                "seconds": _number(history.at("elapsed_seconds", event.step)),
                "name": visible(event.name),
                "severity": event.severity,
            }
            for event in problems(history)
        ],
    }


def _layers(history: RunHistory, series: Series) -> dict[str, Any]:
    names = list(series.columns)
    if names:
        series = series.thinned(MOST_POINTS // 4, names[0])
    layers = [
        {"name": visible(name.replace("blocks.", "layer ")), "values": _plain(values)}
        for name, values in series.columns.items()
    ]
    return {**_axes(history, series.step.tolist()), "layers": layers}


def _axes(history: RunHistory, steps: Sequence[int]) -> dict[str, list[float | None]]:
    return {
        "step": list(steps),
        "tokens": _plain(history.at("tokens", step) for step in steps),
        "seconds": _plain(history.at("elapsed_seconds", step) for step in steps),
    }


def _plain(values: Iterable[float]) -> list[float | None]:
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
    """Six significant digits; None for what JSON can't say."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")
