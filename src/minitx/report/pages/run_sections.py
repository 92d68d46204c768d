"""What the sections of a report show, as values for its template `run.html`.

The template escapes whatever comes from a run: text of a corpus, names of files and events.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from minitx.config.run_config import TABLES
from minitx.config.toml import config_bytes
from minitx.evaluation.holdout_figures import Report
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.evaluation.surprise import LEGEND_LOSSES, LOSS_SCALE
from minitx.report.pages.elements import Cell, Grid, Run, elements
from minitx.report.pages.run_curves import problems
from minitx.report.terminal.printable import run_path, run_word
from minitx.report.terminal.units import count, duration
from minitx.report.training.training_report import (
    EVALUATION_COLUMNS,
    evaluation_figures,
    next_steps,
    spread_evaluations,
)
from minitx.workflows.report import RunStory, Stories

MOST_SAMPLES = 200
_MOST_EVALUATIONS = 400
_WIDTH = 100
_NOT_KNOWN = "–"
_DEFAULT_CORPUS = "the Python reference"


def name_of(story: RunStory) -> str:
    """How a run is called on the page: its path, relative where that is shorter."""
    return run_path(story.run.path)


def run_values(story: RunStory, number: int) -> dict[str, Any]:
    """What the page shows of one run, but for its curves and what was measured anew."""
    samples = [report for report in story.history.evaluations if report.sample]
    return {
        "number": number,
        "name": name_of(story),
        "story": story,
        "corpus": ", ".join(story.config.data.corpus) or _DEFAULT_CORPUS,
        "facts": _facts(story),
        "evaluations": _evaluations(story),
        "problems": problems(story.history),
        "notes": _notes(story),
        "samples": spread_evaluations(samples, MOST_SAMPLES),
        "n_samples": len(samples),
        "commands": _commands(story),
        "config": config_bytes(story.config).decode(),
    }


def _notes(story: RunStory) -> list[str]:
    """What happened and is no problem: the newest of each kind, on one line."""
    newest = {event.name: event for event in story.history.events if event.severity == "info"}
    return [f"At step {event.step:,}: {event.message}" for event in newest.values()]


def _facts(story: RunStory) -> dict[str, str]:
    history, best = story.history, story.history.best
    steps = history.last_step
    tokens = history.at("tokens", steps)
    scored = best.holdout_tokens if best else None
    if best and story.holdout and story.checkpoint == story.run.checkpoint(best.step):
        # Measured anew, on all of the holdout: the figure that the page has below, too.
        measured = story.holdout.plain
        scored = measured.tokens_scored
        best = replace(
            best, holdout_loss=measured.loss, holdout_bits_per_byte=measured.bits_per_byte
        )
    at_step, _, loss, perplexity, bits = evaluation_figures(best) if best else [_NOT_KNOWN] * 5
    return {
        "best holdout loss": loss,
        "perplexity": perplexity,
        "bits per byte": bits,
        "on holdout tokens": f"{scored:,}" if scored else _NOT_KNOWN,
        "at step": at_step,
        "steps": f"{steps:,}",
        "training time": duration(history.at("elapsed_seconds", steps)),
        "tokens": count(tokens) if math.isfinite(tokens) else _NOT_KNOWN,
        "parameters": count(story.config.model.n_parameters),
        "ended": history.ending or "not yet",
    }


def _evaluations(story: RunStory) -> Grid:
    rows = [
        [*evaluation_figures(report), "best" if report is story.history.best else ""]
        for report in spread_evaluations(story.history.evaluations, _MOST_EVALUATIONS)
    ]
    return Grid(rows, [*EVALUATION_COLUMNS, ""], numbers=range(len(EVALUATION_COLUMNS)))


def _commands(story: RunStory) -> list[str]:
    prompts = [report.sample_prompt for report in story.history.evaluations]
    steps = next_steps(
        story.run.path,
        prompts[-1] if prompts else "",
        has_prompt=bool(prompts) and prompts[-1].isprintable(),
        has_holdout=bool(prompts),
        has_unknown=story.holdout is None or story.holdout.text.unknown_tokens > 0,
    )
    return [
        f"minitx train --config {run_word(story.run.config_file)}",
        *(line for line in steps if " eval " in line or " attn " in line),
    ]


# ---- measured anew, or set side by side ----------------------------------------------------------


def holdout(stories: Stories) -> dict[str, Any]:
    """What `minitx eval` says, and the passages that surprised the model; or why neither."""
    if len(stories.runs) > 1:
        report = _report(stories.comparison)
        return {"report": report, "why_not": stories.left_out, "passages": ()}
    measured, left_out = stories.runs[0].holdout, stories.runs[0].left_out
    return {
        # The page has the passages below, with each token's loss to point at.
        "report": _report(measured and replace(measured, surprising=())),
        "why_not": left_out.get("eval"),
        "passages": measured.surprising if measured else (),
        "legend": LEGEND_LOSSES,
        "scale": LOSS_SCALE,
    }


def _report(report: Report | None) -> Markup | None:
    return None if report is None else elements(holdout_report(report, "color", _WIDTH))


def configuration(story: RunStory) -> list[tuple[str, Grid]]:
    """The config of a run, a table for each part of it."""
    return [(name, Grid(_settings(story, name))) for name in TABLES]


def comparison(stories: Stories) -> dict[str, Any]:
    """Several runs side by side: how good they became, and how their configs differ."""
    # The name of each run behind a dot in the colour of its curves.
    swatches = [
        Cell([Run("", f"swatch run-{number % 8}"), Run(name_of(story))])
        for number, story in enumerate(stories.runs)
    ]
    facts = [_facts(story) for story in stories.runs]
    results: list[list[str | Cell]] = [
        [swatch, *of_run.values()] for swatch, of_run in zip(swatches, facts, strict=True)
    ]
    differing: list[list[str]] = []
    equal: list[list[str]] = []
    for name in TABLES:
        tables = [_settings(story, name) for story in stories.runs]
        for settings in zip(*tables, strict=True):
            key, values = f"{name}.{settings[0][0]}", [value for _, value in settings]
            if len(set(values)) == 1:
                equal.append([key, values[0]])
            else:
                differing.append([key, *values])
    tokenizers = {story.corpus.tokenizer_digest for story in stories.runs if story.corpus}
    return {
        "tokenizers_differ": len(tokenizers) > 1,
        "results": Grid(results, ["run", *facts[0]], numbers=range(1, len(facts[0]))),
        "differing": Grid(differing, ["", *swatches]),
        "equal": Grid(equal),
    }


def _settings(story: RunStory, name: str) -> list[tuple[str, str]]:
    values = getattr(story.config, name)
    settings = {
        field.name: _setting(getattr(values, field.name)) for field in dataclasses.fields(values)
    }
    if name == "data" and not story.config.data.corpus:
        settings["corpus"] = _DEFAULT_CORPUS
    return list(settings.items())


def _setting(value: Any) -> str:
    if value is None or value in ((), {}):
        return _NOT_KNOWN
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
