"""The sections of a report that are text and tables: they need no script.

Whatever comes from a run (text of a corpus, names of files and events) is escaped here.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import RenderableType

from minitx.checkpoint.rundir import config_bytes
from minitx.evaluation.holdout_figures import HoldoutReport, Report, SurprisingText
from minitx.report.heatmap import Scale
from minitx.report.holdout_report import holdout_report
from minitx.report.html_page import table
from minitx.report.rich_html import elements
from minitx.report.surprise import TOP_LOSS, token_text
from minitx.report.terminal import visible
from minitx.report.training_report import spread_evaluations
from minitx.report.training_summary import next_steps, run_path
from minitx.report.units import count, duration, fixed
from minitx.training.observer import perplexity
from minitx.workflows.report import RunStory, Stories

MOST_SAMPLES = 200
_MOST_EVALUATIONS = 400
_WIDTH = 100
_TABLES = ("data", "tokenizer", "model", "train")
_NOT_KNOWN = "–"


def text(words: str) -> str:
    """Text of a run as HTML: escaped, and every control character visible."""
    return html.escape(visible(words.replace("\r\n", "\n")))


def name_of(story: RunStory) -> str:
    """How a run is called on the page: its path, relative where that is shorter."""
    return run_path(story.run.path)


# ---- what came of it -----------------------------------------------------------------------------


def summary(stories: Stories) -> str:
    """How good each run became, in how much training."""
    if len(stories.runs) == 1:
        facts = "".join(
            f"<div><dt>{name}</dt><dd>{value}</dd></div>"
            for name, value in _facts(stories.runs[0]).items()
        )
        return f'<dl class="facts">{facts}</dl>'
    rows = [
        [_swatch(number) + text(name_of(story)), *_facts(story).values()]
        for number, story in enumerate(stories.runs)
    ]
    names = ["run", *_facts(stories.runs[0])]
    return table(names, rows, numbers=range(1, len(names) - 1), caption="Results")


def _facts(story: RunStory) -> dict[str, str]:
    history, best = story.history, story.history.best
    steps = history.last_step
    reached = dict.fromkeys(
        ("best holdout loss", "perplexity", "bits per byte", "at step"), _NOT_KNOWN
    )
    if best is not None:
        reached = {
            "best holdout loss": fixed(best.holdout_loss, 4),
            "perplexity": fixed(perplexity(best.holdout_loss), 2),
            "bits per byte": fixed(best.holdout_bits_per_byte, 4),
            "at step": f"{best.step:,}",
        }
    return {
        **reached,
        "steps": f"{steps:,}",
        "training time": duration(history.at("elapsed_seconds", steps)),
        "tokens": _count(history.at("tokens", steps)),
        "parameters": count(story.config.model.n_parameters),
        "ended": text(history.ending or "not yet"),
    }


def about(stories: Stories) -> str:
    """One line on what was trained."""
    if len(stories.runs) > 1:
        return f"{len(stories.runs)} runs on one set of axes."
    config = stories.runs[0].config
    model = config.model
    corpus = ", ".join(config.data.corpus) or "the Python reference"
    return text(
        f"{model.architecture}: {model.n_layers} layers of {model.n_heads} heads, "
        f"{model.d_model} wide, context {model.context_length:,}, "
        f"{count(model.n_parameters)} parameters; {config.tokenizer.kind} tokenizer of "
        f"{model.vocab_size:,}; trained on {corpus}"
    )


def _count(value: float) -> str:
    return count(value) if math.isfinite(value) else _NOT_KNOWN


def _swatch(number: int) -> str:
    return f'<span class="swatch run-{number % 8}" aria-hidden="true"></span>'


# ---- evaluations, events, samples ----------------------------------------------------------------


def evaluations(stories: Stories) -> str:
    """A table of the evaluations of each run: the curves in numbers."""
    parts = []
    for story in stories.runs:
        best = story.history.best
        shown = spread_evaluations(story.history.evaluations, _MOST_EVALUATIONS)
        rows = [
            [
                f"{one.step:,}",
                fixed(one.train_loss, 4),
                fixed(one.holdout_loss, 4),
                fixed(perplexity(one.holdout_loss), 2),
                fixed(one.holdout_bits_per_byte, 4),
                "best" if one is best else "",
            ]
            for one in shown
        ]
        names = ["step", "train loss", "holdout loss", "holdout perplexity", "bits per byte", ""]
        if rows:
            caption = f"Evaluations of {text(name_of(story))}"
            parts.append(table(names, rows, numbers=range(5), caption=caption, shown=True))
    return "\n".join(parts) or "<p>There was no evaluation yet.</p>"


def events(stories: Stories) -> str:
    """What was diagnosed while training, in order, numbered as on the curve."""
    items = []
    for number, story in enumerate(stories.runs):
        for place, event in enumerate(story.history.events):
            words = [f"<p>{text(event.message)}</p>"]
            if event.cause:
                words.append(f"<p><b>Likely cause:</b> {text(event.cause)}</p>")
            if event.fix:
                words.append(f"<p><b>Try:</b> {text(event.fix)}</p>")
            of = f", {text(name_of(story))}" if len(stories.runs) > 1 else ""
            severity = event.severity if event.severity in ("info", "warning", "error") else "info"
            items.append(
                f'<li class="event {severity}" data-run="{number}" data-event="{place}"><h3>'
                f'<span class="severity">{severity}</span> {text(event.name)} at step '
                f"{event.step:,}{of}</h3>{''.join(words)}</li>"
            )
    if not items:
        return "<p>Nothing was diagnosed while it was trained.</p>"
    return f'<ol class="events">{"".join(items)}</ol>'


def samples(stories: Stories) -> str:
    """What each run wrote at its evaluations, first to last."""
    parts = []
    for number, story in enumerate(stories.runs):
        drawn = [one for one in story.history.evaluations if one.sample]
        shown = spread_evaluations(drawn, MOST_SAMPLES)
        if not shown:
            continue
        items = "".join(
            f'<li data-step="{one.step}"><h3>step {one.step:,}, holdout loss '
            f"{fixed(one.holdout_loss, 4)}</h3>"
            f'<pre><span class="prompt">{text(one.sample_prompt)}</span>{text(one.sample)}</pre>'
            "</li>"
            for one in shown
        )
        title = f"<h3>{text(name_of(story))}</h3>" if len(stories.runs) > 1 else ""
        left = (
            ""
            if len(shown) == len(drawn)
            else f'<p class="hint">{len(shown)} of {len(drawn)} samples, evenly spread.</p>'
        )
        parts.append(
            f'<div class="speech" data-run="{number}">{title}{left}'
            f'<ol class="samples">{items}</ol></div>'
        )
    return "\n".join(parts) or "<p>No sample was drawn yet.</p>"


# ---- the holdout ---------------------------------------------------------------------------------


def holdout(stories: Stories) -> str:
    """What `minitx eval` says, or why it is not there."""
    if len(stories.runs) > 1:
        if stories.comparison is None:
            return f"<p>The holdouts are not compared: {text(stories.left_out or '')}.</p>"
        return _report_html(stories.comparison)
    story = stories.runs[0]
    if story.holdout is None:
        return f"<p>Left out: {text(story.left_out.get('eval', ''))}.</p>"
    return _report_html(replace(story.holdout, surprising=())) + _surprising(story.holdout)


def _report_html(report: Report) -> str:
    parts: Iterable[RenderableType] = holdout_report(report, "color", _WIDTH)
    return elements(parts)


def _surprising(report: HoldoutReport) -> str:
    if not report.surprising:
        return ""
    passages = "".join(f"<li>{_passage(one)}</li>" for one in report.surprising)
    scale = _loss_scale()
    legend = "".join(
        f'<span style="background:{scale.color(v)};color:{scale.ink(v)}"> {v:g} </span>'
        for v in (0.0, 1.0, 2.5, 5.0, 7.5, 10.0)
    )
    return (
        "<h3>What surprised it most</h3>"
        '<p class="hint">The passages with the highest loss, nats per token; each token coloured '
        f'by its own: <span class="passage scale-of-losses">{legend}</span></p>'
        f'<ol class="passages">{passages}</ol>'
    )


def _passage(one: SurprisingText) -> str:
    scale = _loss_scale()
    tokens = "".join(
        f'<span style="background:{scale.color(loss)};color:{scale.ink(loss)}" '
        f'title="{loss:.2f} nats">{html.escape(token_text(token))}</span>'
        for token, loss in zip(one.tokens, one.losses, strict=True)
    )
    return f'<span class="loss">{one.loss:.2f}</span> <span class="passage">{tokens}</span>'


def _loss_scale() -> Scale:
    return Scale(TOP_LOSS, "norm")


# ---- how it was made -----------------------------------------------------------------------------


def configuration(stories: Stories) -> str:
    """Every number of the config; of several runs, what differs first."""
    if len(stories.runs) == 1:
        story = stories.runs[0]
        groups = []
        for name in _TABLES:
            rows = [[text(key), text(_value(value))] for key, value in _fields(story, name)]
            groups.append(
                f"<div><h3>[{name}]</h3>{table([], rows, caption=f'Config, {name}')}</div>"
            )
        return f'<div class="columns">{"".join(groups)}</div>'
    differing: list[list[str]] = []
    equal: list[list[str]] = []
    for name in _TABLES:
        for (key, _), *values in _by_key(stories.runs, name):
            row = [text(f"{name}.{key}"), *(text(_value(value)) for value in values)]
            (equal if len(set(row[1:])) == 1 else differing).append(row)
    names = ["", *(_swatch(i) + text(name_of(story)) for i, story in enumerate(stories.runs))]
    return (
        table(names, differing, caption="What differs")
        + f"<details><summary>The {len(equal)} settings that are equal</summary>"
        + table([], [row[:2] for row in equal], caption="What is equal")
        + "</details>"
    )


def reproduction(stories: Stories) -> str:
    """How to have each run again, and what it was made from and with."""
    parts = []
    for story in stories.runs:
        run = shlex.quote(name_of(story))
        commands = [
            f"minitx train --config {shlex.quote(run_path(story.run.config_file))}",
            *(one for one in next_steps(story.run.path) if " eval " in one or " attn " in one),
        ]
        facts: list[tuple[str, str]] = [("seed", str(story.config.train.seed))]
        if story.corpus is not None:
            facts.append(("text, SHA-256", story.corpus.digest))
            facts.append(("tokenizer, SHA-256", story.corpus.tokenizer_digest))
        if story.checkpoint is not None:
            facts.append(("checkpoint", run_path(story.checkpoint)))
            facts.append(("weights, SHA-256", story.weights_digest or _NOT_KNOWN))
        facts += list(story.made_with.items())
        rows = [[text(key), f"<code>{text(value)}</code>"] for key, value in facts]
        heading = f"<h3>{text(name_of(story))}</h3>" if len(stories.runs) > 1 else ""
        parts.append(
            f"{heading}<pre>{text(chr(10).join(commands))}</pre>"
            f"{table([], rows, caption=f'What {text(run)} was made from and with')}"
            "<details><summary>The whole config, as run.toml has it</summary>"
            f"<pre>{text(config_bytes(story.config).decode())}</pre></details>"
        )
    return "\n".join(parts)


def _fields(story: RunStory, name: str) -> list[tuple[str, Any]]:
    values = getattr(story.config, name)
    return [(one.name, getattr(values, one.name)) for one in dataclasses.fields(values)]


def _by_key(runs: Sequence[RunStory], name: str) -> Iterable[tuple[Any, ...]]:
    fields = [_fields(story, name) for story in runs]
    for of_key in zip(*fields, strict=True):
        yield (of_key[0], *(value for _, value in of_key))


def _value(value: Any) -> str:
    if value is None:
        return _NOT_KNOWN
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "the Python reference"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
