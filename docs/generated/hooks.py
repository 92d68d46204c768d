"""What mkdocs calls while it builds: pages made from the code, navigation, links out of `docs/`."""

from __future__ import annotations

import json
import re
from typing import Any

from api_reference import api_reference
from cli_reference import cli_reference
from config_reference import config_reference
from course_pages import course_pages
from mkdocs.structure.files import File, Files
from navigation import navigation

from minitx.cli.app import app
from minitx.config.run_config import config_schema

_OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)[^)]*\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code, and then put all in order."""
    files.append(File.generated(config, "reference/cli.md", content=cli_reference(app)))
    files.append(File.generated(config, "reference/config.md", content=config_reference()))
    files.append(File.generated(config, "reference/api.md", content=api_reference()))
    schema = json.dumps(config_schema(), indent=2)
    files.append(File.generated(config, "reference/run.schema.json", content=schema))
    for path, content in course_pages():
        files.append(File.generated(config, path, content=content))
    config.nav = navigation(page.src_uri for page in files.documentation_pages())
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keep the words of links to files of the repository; they are no pages of the site."""
    depth = page.file.src_uri.count("/")

    def kept(link: re.Match[str]) -> str:
        climbs = link[0].partition("](")[2].count("../")
        return link[1] if climbs > depth else link[0]

    return _OUT_OF_DOCS.sub(kept, markdown)
