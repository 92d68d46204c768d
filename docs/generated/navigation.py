"""The site's navigation: pages in the order in which a newcomer wants them.

Pages are named by what they are in `docs/`. One that is named here and is not there is left out;
one that is there and not named here stands at the end of its part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PARTS: dict[str, tuple[str, ...]] = {
    "Learn": (
        "learn/index.md",
        "learn/course.md",
        "learn/chapter-1.md",
        "learn/tokens.md",
        "learn/chapter-2.md",
        "learn/attention.md",
        "learn/masking.md",
        "learn/cost.md",
        "learn/positions.md",
        "learn/chapter-3.md",
        "learn/training.md",
        "learn/fit.md",
        "learn/wrong.md",
        "learn/chapter-4.md",
        "learn/sampling.md",
        "learn/chapter-5.md",
        "learn/induction.md",
        "learn/questions.md",
    ),
    "Use": (
        "python.md",
        "corpus.md",
        "plan.md",
        "own_model.md",
        "generation.md",
        "evaluation.md",
        "attention.md",
        "explore.md",
        "report.md",
        "runs.md",
        "diagnosis.md",
        "serving.md",
        "ecosystem.md",
    ),
    "Rely on it": (
        "install.md",
        "processes.md",
        "scaling.md",
        "reliability.md",
        "reproducible.md",
        "performance.md",
        "files.md",
    ),
    "Reference": ("reference/cli.md", "reference/config.md", "reference/api.md"),
}
REST = "Use"
"""The part of pages that no part names."""


def navigation(pages: Iterable[str]) -> list[dict[str, Any]]:
    """The nav of mkdocs.

    Args:
        pages: paths of all pages, relative to `docs/`.
    """
    left = set(pages)
    entries: dict[str, list[str]] = {}
    for part, names in PARTS.items():
        entries[part] = [name for name in names if name in left]
        left -= set(entries[part])
    for name in sorted(left - {"index.md"}):
        folder = name.rpartition("/")[0]
        part = next((p for p, of in PARTS.items() if folder and of[0].startswith(folder)), REST)
        entries[part].append(name)
    home: list[dict[str, Any]] = [{"Start": "index.md"}] if "index.md" in left else []
    return home + [{part: names} for part, names in entries.items() if names]
