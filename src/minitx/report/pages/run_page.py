"""The page of `minitx report`: one file, nothing fetched, readable without its script."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from minitx.config import AttentionRequest
from minitx.errors import BadInputError, MinitxError
from minitx.report.pages import run_sections as sections
from minitx.report.pages.attention_page import study_page
from minitx.report.pages.run_curves import curves, plotting_library
from minitx.report.pages.templates import render, write_page
from minitx.workflows.report import Stories

MAX_PAGE_BYTES = 12_000_000
PAGE_NAME = "report.html"
COMPARISON_NAME = "comparison.html"


def page_path(stories: Stories) -> Path:
    """Where the page of these runs goes if nobody says: into the (first) run."""
    name = PAGE_NAME if len(stories.runs) == 1 else COMPARISON_NAME
    return stories.runs[0].run.path / name


def save_run_page(stories: Stories, path: Path) -> None:
    """Lay the page out and write it; raises as `run_page` and `write_page` do."""
    write_page(run_page(stories), path)


def run_page(stories: Stories) -> str:
    """The page as one HTML document.

    Raises:
        BadInputError: when it would be larger than `MAX_PAGE_BYTES`, or the plotting library is
            not installed.
    """
    library_script, library_style = map(Markup, plotting_library())
    runs = [sections.run_values(story, number) for number, story in enumerate(stories.runs)]
    digests = {story.corpus and story.corpus.tokenizer_digest for story in stories.runs}
    data = {
        "runs": curves([(sections.name_of(story), story.history) for story in stories.runs]),
        "tokenizers_differ": len(digests) > 1,
    }
    attention, why_no_attention = _attention(stories)
    page = render(
        "run.html",
        title=", ".join(run["name"] for run in runs),
        runs=runs,
        holdout=sections.holdout(stories),
        attention=attention,
        why_no_attention=why_no_attention,
        configuration=sections.configuration(stories.runs[0]),
        comparison=sections.comparison(stories) if len(runs) > 1 else None,
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


def _attention(stories: Stories) -> tuple[str | None, str]:
    """The page of `minitx attn --html`; None and why, if it is left out."""
    story = stories.runs[0]
    if story.study is None:
        return None, story.left_out.get("attn", "")
    try:
        return study_page(story.study, AttentionRequest()), ""
    except MinitxError as error:
        return None, error.what
