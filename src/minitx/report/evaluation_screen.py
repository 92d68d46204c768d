"""What `minitx eval` prints: a table with a column for each model and text."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table

from minitx.report.terminal import visible
from minitx.workflows.evaluate import EvaluationReport


def evaluation_table(reports: Sequence[EvaluationReport]) -> RenderableType:
    """Lay the figures out, one column for each report."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for report in reports:
        table.add_column(visible(report.text), justify="right", overflow="fold")
    if len({report.checkpoint for report in reports}) > 1:
        table.add_row("checkpoint", *(visible(report.checkpoint) for report in reports))
    rows = [
        ("loss, nats per token", [f"{report.loss:.4f}" for report in reports]),
        ("perplexity", [f"{report.perplexity:.3f}" for report in reports]),
        ("bits per byte", [f"{report.bits_per_byte:.4f}" for report in reports]),
        ("bits per character", [f"{report.bits_per_character:.4f}" for report in reports]),
        ("tokens scored", [_scored(report) for report in reports]),
        ("unknown tokens", [f"{report.unknown_tokens:,}" for report in reports]),
        ("context length", [f"{report.context_length:,}" for report in reports]),
        ("windows", [_windows(report) for report in reports]),
    ]
    if any(report.train_loss is not None for report in reports):
        rows.append(("train loss, as many tokens", [_train(report) for report in reports]))
        rows.append(("holdout loss - train loss", [_gap(report) for report in reports]))
    for name, values in rows:
        table.add_row(name, *values)
    return table


def _scored(report: EvaluationReport) -> str:
    left = report.tokens - report.tokens_scored
    return f"{report.tokens_scored:,} of {report.tokens:,}" if left else f"{report.tokens:,}"


def _windows(report: EvaluationReport) -> str:
    if report.stride == report.context_length:
        return "side by side"
    return f"stride {report.stride:,}"


def _train(report: EvaluationReport) -> str:
    return "-" if report.train_loss is None else f"{report.train_loss:.4f}"


def _gap(report: EvaluationReport) -> str:
    return "-" if report.train_loss is None else f"{report.loss - report.train_loss:+.4f}"
