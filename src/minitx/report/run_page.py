"""The page of `minitx report`: one file, nothing fetched, readable without its script."""

from __future__ import annotations

import html
from pathlib import Path

from minitx.config import AttentionRequest
from minitx.errors import BadInputError, MinitxError
from minitx.report import run_sections as sections
from minitx.report.attention_page import study_page
from minitx.report.html_page import fill, safe_json, template, write_page
from minitx.report.run_curves import curves, plotting_library
from minitx.workflows.report import Stories

MAX_PAGE_BYTES = 12_000_000
PAGE_NAME = "report.html"
COMPARISON_NAME = "comparison.html"


def page_path(stories: Stories) -> Path:
    """Where the page of these runs goes if nobody says: into the (first) run."""
    name = PAGE_NAME if len(stories.runs) == 1 else COMPARISON_NAME
    return stories.runs[0].run.path / name


def save_run_page(stories: Stories, path: Path) -> None:
    """Lay the page out and write it.

    Raises:
        BadInputError: as `run_page`, or when it can't be written.
    """
    write_page(run_page(stories), path)


def run_page(stories: Stories) -> str:
    """The page as one HTML document.

    Raises:
        BadInputError: when it would be larger than `MAX_PAGE_BYTES`, or the plotting library is
            not installed.
    """
    script, style = plotting_library()
    names = [sections.name_of(story) for story in stories.runs]
    data = {
        "runs": curves([(sections.name_of(story), story.history) for story in stories.runs]),
        "tokenizers_differ": len(
            {one.corpus and one.corpus.tokenizer_digest for one in stories.runs}
        )
        > 1,
    }
    title = sections.text(", ".join(names))
    page = fill(
        template("run.html"),
        {
            "title": title,
            "heading": title if len(names) == 1 else f"{len(names)} runs compared",
            "style": style + template("base.css") + template("run.css"),
            "about": sections.about(stories),
            "summary": sections.summary(stories),
            "events": sections.events(stories),
            "samples": sections.samples(stories),
            "evaluations": sections.evaluations(stories),
            "holdout": sections.holdout(stories),
            "attention": _attention(stories),
            "configuration": sections.configuration(stories),
            "reproduction": sections.reproduction(stories),
            "data": safe_json(data),
            "library": script,
            "script": template("run.js"),
        },
    )
    size = len(page.encode("utf-8", "replace"))
    if size > MAX_PAGE_BYTES:
        raise BadInputError(
            f"the report would be {size / 1e6:.1f} MB, over its limit of "
            f"{MAX_PAGE_BYTES / 1e6:.0f} MB",
            "Leave out attention with --no-attn, or name fewer runs",
        )
    return page


def _attention(stories: Stories) -> str:
    """The page of `minitx attn --html` in a frame of its own, or why it is not there."""
    if len(stories.runs) > 1:
        return "<p>Shown in the report of a single run: <code>minitx report RUN</code>.</p>"
    story = stories.runs[0]
    if story.study is None:
        return f"<p>Left out: {sections.text(story.left_out.get('attn', ''))}.</p>"
    try:
        page = study_page(story.study, AttentionRequest())
    except MinitxError as error:
        return f"<p>Left out: {sections.text(error.what)}.</p>"
    return f'<iframe id="attention" title="What it looks at" srcdoc="{html.escape(page)}"></iframe>'
