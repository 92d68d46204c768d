"""Studies, maps and reports show themselves where a notebook or rich asks them to."""

import html
import io
import re

import pytest
from rich.console import Console

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.shown import Shown
from minitx.workflows.attend import choose_maps, open_study
from minitx.workflows.evaluate import EvaluationSettings, compare_checkpoints, evaluate_holdout


def display(value):
    """What a notebook's formatter does: ask the type, not the object, for each representation."""
    method = getattr(type(value), "_repr_html_", None)
    return {"text/html": method(value)} if method else {}


def printed(value, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(value)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def study(tiny_run):
    return open_study(resolve_checkpoint(tiny_run), "3 green bottles")


@pytest.fixture(scope="module")
def report(tiny_run):
    return evaluate_holdout(resolve_checkpoint(tiny_run), EvaluationSettings(baselines=False))


def test_a_study_is_the_page_in_a_frame(study):
    shown = display(study)["text/html"]
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert "All heads" in printed(study)


def test_a_map_is_a_table_with_its_tokens(study):
    (shown,) = choose_maps(study, "weight", 1, 0).maps
    assert "layer 1, head 0" in display(shown)["text/html"]
    assert display(shown)["text/html"].count("<td title=") == 15 * 16 // 2
    assert "14 s" in printed(shown)


def test_all_maps_are_a_grid_and_roles_a_table(study):
    assert "1.1" in printed(study.maps)
    assert "<pre" in display(study.maps)["text/html"]
    assert "background-color: #" in display(study.maps)["text/html"]
    assert "control" in printed(study.roles)
    assert "control" in display(study.roles)["text/html"]


def test_reports_are_what_eval_prints(report, tiny_run):
    assert "perplexity" in printed(report)
    assert "What surprised it most" in display(report)["text/html"]
    one = resolve_checkpoint(tiny_run)
    both = compare_checkpoints([one, one], None, EvaluationSettings())
    assert "2 against 1" in printed(both)


def test_what_has_no_view_says_so():
    with pytest.raises(NotImplementedError, match="Shown"):
        printed(Shown())
