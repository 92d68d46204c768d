"""Studies, maps and reports show themselves where a notebook or rich asks them to."""

import html
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import AttentionRequest
from minitx.inspection.head_roles import HeadRole, HeadRoles, RoleScore
from minitx.inspection.logit_lens import LogitLens
from minitx.report.attention.attention_screen import attention_screen
from minitx.shown import Shown
from minitx.workflows.attend import choose_maps, open_study
from minitx.workflows.evaluate import EvaluationSettings, compare_checkpoints, evaluate_holdout


def display(value):
    """What a notebook's formatter does: ask the type, not the object, for each representation."""
    method = getattr(type(value), "_repr_html_", None)
    return {"text/html": method(value)} if method else {}


def printed(value, **options):
    console = Console(file=io.StringIO(), width=100, **options)
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
    (shown,), _ = choose_maps(study, "weight", 1, 0)
    assert "layer 1, head 0" in display(shown)["text/html"]
    assert display(shown)["text/html"].count("<td title=") == 15 * 16 // 2
    assert "14 s" in printed(shown)


def test_all_maps_are_a_grid_and_roles_a_table(study):
    assert "1.1" in printed(study.maps)
    assert "<pre" in display(study.maps)["text/html"]
    assert "background-color: #" in display(study.maps)["text/html"]
    assert "control" in printed(study.roles)
    assert "control" in display(study.roles)["text/html"]


def test_the_lens_is_a_grid_of_every_layer_and_token(study):
    shown = display(study.lens)["text/html"]
    tokens = study.maps.tokens
    assert shown.count("<tr>") == 4
    assert shown.count('scope="col"') == len(tokens) + 2 == 17
    assert shown.count("<td title=") + shown.count('<td class="next" title=') == 3 * 15
    frames = sum(
        study.tokenizer.piece(int(study.lens.top_ids[at, i, 0])) == tokens[i + 1]
        for at in range(3)
        for i in range(14)
    )
    assert shown.count('class="next"') == frames
    assert f"{study.lens.loss[-1]:.3f}" in shown
    assert "likeliest after token 14, s" in printed(study.lens)


def test_a_lens_without_its_text_shows_ids():
    lens = LogitLens(np.full((2, 1, 1), 7), np.ones((2, 1, 1)), np.empty((2, 0)), np.empty(0))
    assert "7 100" in printed(lens)
    assert ">7</td>" in display(lens)["text/html"]
    assert 'class="next"' not in display(lens)["text/html"]


def test_text_of_a_lens_is_escaped():
    lens = LogitLens(np.full((2, 1, 1), 7), np.ones((2, 1, 1)), np.empty((2, 0)), np.empty(0))
    shown = display(lens.named(np.array([7]), lambda i: '<b title="x">'))["text/html"]
    assert "<b" not in shown
    assert "&lt;b" in shown


def test_a_token_that_looks_like_markup_is_printed_as_it_is():
    lens = LogitLens(np.full((2, 2, 1), 7), np.ones((2, 2, 1)), np.ones((2, 1)), np.ones(2))
    for piece in ("[/b]", "[red]x"):
        named = lens.named(np.array([7, 7]), lambda _, piece=piece: piece)
        assert f"likeliest after token 1, {piece}" in printed(named)


def test_a_map_says_in_a_whole_sentence_why_it_is_shown(study):
    def sentence(heads, request):
        study.__dict__["roles"] = HeadRoles(heads, "16 windows")
        shown = "\n".join(printed(part) for part in attention_screen(study, request, "blocks", 80))
        return re.search(r"Shown because.*", shown)[0]

    measured = study.roles
    induction = {"induction": RoleScore(0.9, 0.1)}
    named = tuple(HeadRole(i, j, "induction", induction) for i in (0, 1) for j in (0, 1))
    nameless = tuple(HeadRole(i, j, None, induction) for i in (0, 1) for j in (0, 1))
    whole, layer, head = AttentionRequest(), AttentionRequest(layer=1), AttentionRequest(head=1)
    try:
        assert [sentence(named, asked) for asked in (whole, layer, head)] == [
            "Shown because it is the strongest induction head.",
            "Shown because it is the strongest induction head of layer 1.",
            "Shown because it is the strongest induction head numbered 1.",
        ]
        assert [sentence(nameless, asked) for asked in (whole, layer, head)] == [
            "Shown because it is the first head; none has a role that stands out.",
            "Shown because it is the first head of layer 1; none has a role that stands out.",
            "Shown because it is the first head numbered 1; none has a role that stands out.",
        ]
        assert [sentence((), asked) for asked in (whole, layer)] == [
            "Shown because it is the first head; the context is too short to tell what heads do.",
            "Shown because it is the first head of layer 1; the context is too short to tell what "
            "heads do.",
        ]
    finally:
        study.__dict__["roles"] = measured


def test_ablation_and_mask_check_are_what_attn_prints(study):
    assert printed(study.ablation).startswith("head")
    assert "Loss change" in display(study.ablation)["text/html"]
    assert "No earlier logit moved" in printed(study.mask_check)
    assert "logits compared" in display(study.mask_check)["text/html"]


def test_reports_are_what_eval_prints(report, tiny_run):
    assert "perplexity" in printed(report)
    assert "Most surprising passages" in display(report)["text/html"]
    one = resolve_checkpoint(tiny_run)
    both = compare_checkpoints([one, one], None, EvaluationSettings())
    assert "2 against 1" in printed(both)


def test_what_has_no_view_says_so():
    with pytest.raises(NotImplementedError, match="Shown"):
        printed(Shown())


def test_results_show_themselves_to_who_imported_no_view():
    """And neither the package nor the slot for views loads what it does not need."""
    script = """
import sys
import minitx
assert not {"torch", "rich", "numpy"} & set(sys.modules)
from minitx.inspection.ablation import Ablation, HeadAblation
assert not [name for name in sys.modules if name.startswith("minitx.report")]
ablation = Ablation(1.5, (HeadAblation(0, 0, 0.01, 0.002),), "4 windows of 8 tokens of a text")
assert "Loss change" in ablation._repr_html_()
from rich import print
print(ablation)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Loss change" in done.stdout
