"""A diagnosis as text: each finding with its evidence, its likely cause and what to try."""

from __future__ import annotations

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minitx.diagnosis.findings import KINDS
from minitx.diagnosis.results import Check, Diagnosis, Seen
from minitx.report.terminal.printable import visible
from minitx.report.training.training_report import SEVERITY_STYLES
from minitx.report.training.training_summary import run_path


def diagnosis_report(diagnosis: Diagnosis) -> Group:
    """Everything found, and everything looked at."""
    n = len(diagnosis.findings)
    count = f"{n} finding{'s' if n != 1 else ''}" if n else "nothing wrong was found"
    title = Text().append(visible(run_path(diagnosis.run)), "bold").append(f"  ·  {count}", "dim")
    parts: list[Text | Padding | Table] = [title]
    for seen in diagnosis.findings:
        parts += [Text(), *_finding(seen)]
    if not n:
        # Without trouble, what could have been found is the news.
        parts += [Text(), Text("watched for", style="dim"), _indented(Text(", ".join(KINDS)))]
    return Group(*parts, Text(), Text("looked at", style="dim"), _checks(diagnosis.checks))


def _finding(seen: Seen) -> list[Text | Padding]:
    one = seen.finding
    when = f"  at step {one.step:,}"
    if seen.times > 1:
        when += f", and {seen.times} times in all, to step {seen.last_step:,}"
    heading = Text().append(
        f"{one.severity} {visible(one.name)}", SEVERITY_STYLES.get(one.severity, "")
    )
    lines: list[Text | Padding] = [heading.append(when, "dim")]
    for label, words in (
        ("evidence", one.evidence),
        ("likely cause", one.cause),
        ("try", one.fix),
    ):
        if words:
            body = Table.grid(padding=(0, 2))
            body.add_column(width=12, style="dim")
            body.add_column()
            body.add_row(label, Text(visible(words)))
            lines.append(_indented(body))
    return lines


def _checks(checks: tuple[Check, ...]) -> Padding:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=12, style="dim")
    table.add_column()
    for check in checks:
        table.add_row(check.what, Text(visible(check.result)))
    return _indented(table)


def _indented(content: Table | Text) -> Padding:
    return Padding(content, (0, 0, 0, 2))
