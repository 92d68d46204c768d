import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.report.training.plan_view import plan_table
from minitx.training.observer import RunStart

LONG = "sized so that the corpus is seen about fifteen times within the three minutes given"


def start_report(reasons, **train):
    model = ModelConfig(1000, 256, 6, 6, 2, 384, 1024, 64, dropout=0.2)
    config = RunConfig(
        DataConfig(("texts/plays.txt", "more.txt")),
        TokenizerConfig("bpe", 1000),
        model,
        TrainConfig(**{"steps": 2000, "batch_size": 32, "learning_rate": 0.001, **train}),
    )
    return RunStart(
        Path("runs/a"),
        config,
        reasons,
        10_700_000,
        1_000_000,
        111_540,
        "cpu",
        "float32",
        "native",
        0,
    )


def shown(start, width=80):
    console = Console(file=io.StringIO(), width=max(width, 80))
    console.print(plan_table(start, width))
    text = console.file.getvalue()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    return text


def row(text, name):
    """One row of the table, its cells' wrapped lines joined."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f" {name} "))
    more = 1
    while at + more < len(lines) and lines[at + more].startswith(" " * 10):
        more += 1
    return " ".join(" ".join(lines[at : at + more]).split())


def test_says_what_and_why_within_80_columns():
    text = shown(start_report({"steps": LONG, "n_layers": "depth", "d_model": "depth"}))
    for name, value in (
        ("corpus", "plays.txt and 1 more: 1.00 M train, 112 k"),
        ("tokenizer", "bpe, 1,000 ids"),
        ("parameters", "10.7 M"),
        ("context", "256 tokens"),
        ("batch", "32 sequences, 8.19 k tokens a step"),
    ):
        assert value in row(text, name), row(text, name)
    model = row(text, "model")
    assert "6 layers, 6 heads (2 kv)" in model
    assert model.count("depth") == 1, "one reason for two keys is told once"
    assert "fifteen" in row(text, "steps")
    assert "16.4 M tokens" in row(text, "steps")
    assert "native engine" in row(text, "device")


def test_every_reason_is_shown_with_its_value():
    reasons = {key: f"because-{key}" for key in ("keep_checkpoints", "rope_theta", "unheard_of")}
    text = shown(start_report(reasons, keep_checkpoints=7))
    assert row(text, "keep_checkpoints") == "keep_checkpoints 7 because-keep_checkpoints"
    assert row(text, "rope_theta") == "rope_theta 10000.0 because-rope_theta"
    assert row(text, "unheard_of") == "unheard_of because-unheard_of"


def test_options_that_change_a_row():
    text = shown(start_report({}, budget_seconds=180.0, accumulation=4))
    assert "why" not in text
    assert "3m00s" in row(text, "budget")
    assert "at the end" not in row(text, "evaluation")
    assert "32 sequences x 4 passes, 32.8 k tokens" in row(text, "batch")
    assert "muon 0.02, adamw 0.001" in row(text, "learning rate")
    other = shown(
        start_report(
            {},
            optimizer="adamw",
            decay="constant",
            early_stopping=5,
            evaluation_tokens=20_000,
            closing_tokens=150_000,
            grad_clip=0.0,
        )
    )
    assert "budget" not in other
    assert row(other, "optimizer") == "optimizer adamw"
    assert "no decay" in row(other, "learning rate")
    assert "on 20.0 k tokens, at the end on 150 k; stop after 5 without improvement" in row(
        other, "evaluation"
    )
    assert "grad clip off" in row(other, "regularization")


def test_resumed_and_embedded_and_odd_names():
    start = start_report({"corpus": "[red]not markup[/red] \x1b[31m"})
    text = shown(replace(start, first_step=500))
    assert "500 already done" in row(text, "steps")
    assert "[red]not markup[/red]" in row(text, "corpus")
    assert "\x1b" not in text
    for corpus, name in (((), "embedded default"), (("-",), "standard input"), ((".",), ".")):
        config = replace(start.config, data=DataConfig(corpus))
        assert f"corpus {name}: " in row(shown(replace(start, config=config)), "corpus")


def test_uses_a_wider_window():
    start = start_report({"steps": LONG})
    assert len(shown(start, 110).splitlines()) < len(shown(start, 80).splitlines())


@pytest.mark.parametrize("width", range(80, 121, 4))
def test_no_line_ends_between_a_number_and_what_it_counts(width):
    start = start_report({"steps": "it does 7 billion operations a second, " * 4})
    lines = shown(start, width).splitlines()
    # Where a cell's line ends: before the gap to the next column, or at the end.
    ends = [end for line in lines for end in re.findall(r"(\S+)(?=\s{2,}|\s*$)", line)]
    counted = ("6", "10.7", "8.19", "32", "1.00", "112", "16.4", "7", "256")
    assert not set(ends) & set(counted), lines
    assert "10.7 M" in row("\n".join(lines), "parameters")
