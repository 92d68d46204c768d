"""The page of `minitx report`: one file, nothing fetched, readable without its script.

What its sections show are values for the template `run.html`, which escapes whatever comes from a
run: text of a corpus, names of files and events.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from minitx.config.run_config import TABLES
from minitx.config.toml import config_bytes
from minitx.errors import BadInputError, MinitxError
from minitx.evaluation.holdout_figures import Report
from minitx.files import as_plain
from minitx.inspection.film import Film
from minitx.report.attention.film_view import induction_told, loss_rows
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.evaluation.surprise import LEGEND_LOSSES, LOSS_SCALE
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.elements import Cell, Grid, elements
from minitx.report.pages.run_curves import curves, plotting_library, problems
from minitx.report.pages.templates import render
from minitx.report.terminal.audit_view import audit_rows
from minitx.report.terminal.printable import printed_name, run_path, run_word
from minitx.report.terminal.tables import labelled
from minitx.report.terminal.units import count, duration
from minitx.report.training.plan_view import split_told
from minitx.report.training.training_report import (
    evaluation_columns,
    evaluation_figures,
    next_steps,
    spread_evaluations,
)
from minitx.workflows.report import RunStory, Stories

MAX_PAGE_BYTES = 12_000_000
_MOST_SAMPLES = 200
_SIZES = ("bytes", "characters", "tokens")
_MOST_EVALUATIONS = 400
_WIDTH = 100
_NOT_KNOWN = "–"
_DEFAULT_CORPUS = "the Python reference"


def page_path(stories: Stories) -> Path:
    """Where the page of these runs goes if nobody says: into the (first) run."""
    name = "report.html" if len(stories.runs) == 1 else "comparison.html"
    return stories.runs[0].run.path / name


def run_page(stories: Stories) -> str:
    """The page as one HTML document.

    Raises:
        BadInputError: when it would be larger than `MAX_PAGE_BYTES`, or the plotting library is
            not installed.
    """
    library_script, library_style = map(Markup, plotting_library())
    runs = [run_values(story, number) for number, story in enumerate(stories.runs)]
    digests = {story.corpus.tokenizer_digest for story in stories.runs if story.corpus}
    data = {
        "runs": [curves(run["name"], run["story"].history) for run in runs],
        "tokenizers_differ": len(digests) > 1,
    }
    film = stories.runs[0].film if len(runs) == 1 else None
    data["film"] = [] if film is None else film_lines(film)
    attention, why_no_attention = _attention(stories.runs[0])
    page = render(
        "run.html",
        title=", ".join(run["name"] for run in runs),
        runs=runs,
        corpus=_corpus(stories.runs[0]),
        holdout=_holdout(stories),
        attention=attention,
        why_no_attention=why_no_attention,
        film=None if film is None else _film(film),
        configuration=[(name, Grid(_settings(stories.runs[0], name))) for name in TABLES],
        comparison=_comparison(runs) if len(runs) > 1 else None,
        data=data,
        library_script=library_script,
        library_style=library_style,
    )
    size = len(page.encode("utf-8", "replace"))
    if size > MAX_PAGE_BYTES:
        raise BadInputError(
            f"the report would be {size / 1e6:.1f} MB, over its limit of "
            f"{MAX_PAGE_BYTES / 1e6:.0f} MB",
            "Leave out attention with --no-attn, or name fewer runs",
        )
    return page


def _attention(story: RunStory) -> tuple[str | None, str]:
    """The page of `minitx attn --html`; None and why, if it is left out."""
    if story.study is None:
        return None, story.left_out.get("attn", "")
    try:
        return study_page(story.study), ""
    except MinitxError as error:
        return None, error.what


def film_lines(film: Film) -> list[Any]:
    """The moments of a film, as film.js takes them."""
    return [as_plain(moment.to_line()) for moment in film.moments]


def _film(film: Film) -> dict[str, Any]:
    names, rows = loss_rows(film, film.moments)
    return {
        "induction": induction_told(film),
        "losses": Grid(rows, names, numbers=range(len(names))),
    }


def run_values(story: RunStory, number: int) -> dict[str, Any]:
    """What the page shows of one run, but for its curves and what was measured anew."""
    history = story.history
    samples = [report for report in history.evaluations if report.sample]
    # What is no problem: the newest of each kind, on one line.
    notes = {event.name: event for event in history.events if event.severity == "info"}
    return {
        "number": number,
        "name": run_path(story.run.path),
        "story": story,
        "corpus": ", ".join(story.config.data.corpus) or _DEFAULT_CORPUS,
        "facts": _facts(story),
        "evaluations": _evaluations(story),
        "problems": problems(history),
        "notes": [f"At step {event.step:,}: {event.message}" for event in notes.values()],
        "samples": spread_evaluations(samples, _MOST_SAMPLES),
        "n_samples": len(samples),
        "commands": _commands(story),
        "config": config_bytes(story.config).decode(),
    }


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
    columns = evaluation_columns(story.history.evaluations)
    rows = [
        [*evaluation_figures(report), "best" if report is story.history.best else ""]
        for report in spread_evaluations(story.history.evaluations, _MOST_EVALUATIONS)
    ]
    return Grid(rows, [*columns, ""], numbers=range(len(columns)))


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


def _corpus(story: RunStory) -> dict[str, Any]:
    """Both parts of the corpus in numbers, how they were told apart, and what they share."""
    noted, n_documents = story.corpus_notes, story.corpus_notes.get("documents", {})
    parts = [
        [title, *(f"{number:,}" if number else _NOT_KNOWN
                  for number in (n_documents.get(name), *map(noted[name].get, _SIZES)))]
        for name, title in (("train", "train part"), ("holdout", "holdout"))
        if name in noted
    ]  # fmt: skip
    rows = [("held out", split_told(story.config.data))] if parts else []
    rows += [
        ("" if i else "left out", f"{count:,} {printed_name(reason)}")
        for i, (reason, count) in enumerate([*noted.get("left_out", ()), *noted.get("skipped", ())])
    ]
    rows += [] if story.audit is None else audit_rows(story.audit)
    return {
        "parts": Grid(parts, ["", "documents", *_SIZES], numbers=range(1, len(_SIZES) + 2)),
        "told": elements([labelled(rows)]) if rows else None,
    }


def _holdout(stories: Stories) -> dict[str, Any]:
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


def _comparison(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs side by side: how good they became, and how their configs differ."""
    # The name of each run behind a dot in the colour of its curves.
    names = [
        Cell([("", {"class": f"swatch run-{run['number'] % 8}"}), (run["name"], {})])
        for run in runs
    ]
    results: list[list[str | Cell]] = [
        [name, *run["facts"].values()] for name, run in zip(names, runs, strict=True)
    ]
    differing: list[list[str]] = []
    equal: list[list[str]] = []
    for table in TABLES:
        settings_of_runs = [_settings(run["story"], table) for run in runs]
        for settings in zip(*settings_of_runs, strict=True):
            key, values = f"{table}.{settings[0][0]}", [value for _, value in settings]
            if len(set(values)) == 1:
                equal.append([key, values[0]])
            else:
                differing.append([key, *values])
    facts = runs[0]["facts"]
    return {
        "results": Grid(results, ["run", *facts], numbers=range(1, len(facts))),
        "differing": Grid(differing, ["", *names]),
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
