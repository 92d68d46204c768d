"""What the sections of a report show, as values for its template `run.html`.

The template escapes whatever comes from a run: text of a corpus, names of files and events.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from minitx.config.toml import config_bytes
from minitx.evaluation.surprising import SurprisingText
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.evaluation.surprise import LEGEND_LOSSES, LOSS_SCALE
from minitx.report.pages.elements import Cell, Grid, Run, elements, text_cell, text_grid
from minitx.report.terminal.printable import run_path
from minitx.report.terminal.token_labels import text_label
from minitx.report.terminal.units import count, duration, fixed
from minitx.report.training.training_report import (
    EVALUATION_COLUMNS,
    evaluation_figures,
    next_steps,
    spread_evaluations,
)
from minitx.training.observer import perplexity
from minitx.workflows.report import RunStory, Stories

MOST_SAMPLES = 200
_MOST_EVALUATIONS = 400
_WIDTH = 100
_TABLES = ("data", "tokenizer", "model", "train")
_NOT_KNOWN = "–"
_DEFAULT_CORPUS = "the Python reference"


def name_of(story: RunStory) -> str:
    """How a run is called on the page: its path, relative where that is shorter."""
    return run_path(story.run.path)


def run_values(story: RunStory, number: int) -> dict[str, Any]:
    """What the page shows of one run, but for its curves and what was measured anew."""
    drawn = [report for report in story.history.evaluations if report.sample]
    return {
        "number": number,
        "name": name_of(story),
        "about": _about(story),
        "facts": _facts(story),
        "evaluations": _evaluations(story),
        "events": story.history.events,
        "has_problems": any(event.severity != "info" for event in story.history.events),
        "notes": _notes(story),
        "samples": [
            (report, fixed(report.holdout_loss, 4))
            for report in spread_evaluations(drawn, MOST_SAMPLES)
        ],
        "n_samples": len(drawn),
        "commands": _commands(story),
        "made_from": _made_from(story),
        "config": config_bytes(story.config).decode(),
    }


def _notes(story: RunStory) -> list[str]:
    """What happened and is no problem: the newest of each kind, on one line."""
    newest = {event.name: event for event in story.history.events if event.severity == "info"}
    return [f"At step {event.step:,}: {event.message}" for event in newest.values()]


def _about(story: RunStory) -> str:
    model = story.config.model
    return (
        f"{model.architecture}: {model.n_layers} layers of {model.n_heads} heads, "
        f"{model.d_model} wide, context {model.context_length:,}, "
        f"{count(model.n_parameters)} parameters; {story.config.tokenizer.kind} tokenizer of "
        f"{model.vocab_size:,}; trained on {', '.join(story.config.data.corpus) or _DEFAULT_CORPUS}"
    )


def _facts(story: RunStory) -> dict[str, str]:
    history, best = story.history, story.history.best
    steps = history.last_step
    tokens = history.at("tokens", steps)
    loss = bits_per_byte = math.nan
    scored: int | None = None
    if best is not None:
        loss, bits_per_byte = best.holdout_loss, best.holdout_bits_per_byte
        scored = best.holdout_tokens
        if story.holdout is not None and story.checkpoint == story.run.checkpoint(best.step):
            # Measured anew, on all of the holdout: the figure that the page has below, too.
            measured = story.holdout.plain
            loss, bits_per_byte = measured.loss, measured.bits_per_byte
            scored = measured.tokens_scored
    return {
        "best holdout loss": fixed(loss, 4) if best else _NOT_KNOWN,
        "perplexity": fixed(perplexity(loss), 2) if best else _NOT_KNOWN,
        "bits per byte": fixed(bits_per_byte, 4) if best else _NOT_KNOWN,
        "on holdout tokens": f"{scored:,}" if scored else _NOT_KNOWN,
        "at step": f"{best.step:,}" if best else _NOT_KNOWN,
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
    return text_grid([*EVALUATION_COLUMNS, ""], rows, numbers=range(5))


def _commands(story: RunStory) -> list[str]:
    return [
        f"minitx train --config {shlex.quote(run_path(story.run.config_file))}",
        *(line for line in next_steps(story.run.path) if " eval " in line or " attn " in line),
    ]


def _made_from(story: RunStory) -> Grid:
    facts: list[tuple[str, str]] = [("seed", str(story.config.train.seed))]
    if story.corpus is not None:
        facts.append(("text, SHA-256", story.corpus.digest))
        facts.append(("tokenizer, SHA-256", story.corpus.tokenizer_digest))
    if story.checkpoint is not None:
        facts.append(("checkpoint", run_path(story.checkpoint)))
        facts.append(("weights, SHA-256", story.weights_digest or _NOT_KNOWN))
    facts += list(story.made_with.items())
    return text_grid([], [[name, text_cell(value, "code")] for name, value in facts])


# ---- measured anew, or set side by side ----------------------------------------------------------


def holdout(stories: Stories) -> dict[str, Any]:
    """What `minitx eval` says, and the passages that surprised the model; or why neither."""
    if len(stories.runs) > 1:
        why_not = stories.left_out or ""
        return {"report": _report(stories.comparison), "why_not": why_not, "passages": []}
    story = stories.runs[0]
    surprising = story.holdout.surprising if story.holdout is not None else ()
    return {
        "report": _report(story.holdout and replace(story.holdout, surprising=())),
        "why_not": story.left_out.get("eval", ""),
        "passages": [(f"{passage.loss:.2f}", _tokens(passage)) for passage in surprising],
        "legend": [_shaded(f" {loss:g} ", loss) for loss in LEGEND_LOSSES],
    }


def _report(report: Any) -> Markup | None:
    return None if report is None else elements(holdout_report(report, "color", _WIDTH))


def _tokens(passage: SurprisingText) -> list[Run]:
    return [
        _shaded(text_label(token) or "?", loss, f"{loss:.2f} nats")
        for token, loss in zip(passage.tokens, passage.losses, strict=True)
    ]


def _shaded(words: str, loss: float, title: str | None = None) -> Run:
    return Run(words, style=LOSS_SCALE.css(loss), title=title)


def configuration(story: RunStory) -> list[tuple[str, Grid]]:
    """The config of a run, a table for each part of it."""
    return [(name, text_grid([], _settings(story, name))) for name in _TABLES]


def comparison(stories: Stories) -> dict[str, Any]:
    """Several runs side by side: how good they became, and how their configs differ."""
    # The name of each run behind a dot in the colour of its curves.
    swatches = [
        Cell([Run("", f"swatch run-{number % 8}"), Run(name_of(story))])
        for number, story in enumerate(stories.runs)
    ]
    facts = [_facts(story) for story in stories.runs]
    rows: list[list[str | Cell]] = [
        [swatch, *of_run.values()] for swatch, of_run in zip(swatches, facts, strict=True)
    ]
    differing: list[list[str]] = []
    equal: list[list[str]] = []
    for name in _TABLES:
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
        "results": text_grid(["run", *facts[0]], rows, numbers=range(1, len(facts[0]))),
        "differing": text_grid(["", *swatches], differing),
        "equal": text_grid([], equal),
    }


def _settings(story: RunStory, name: str) -> Sequence[tuple[str, str]]:
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
