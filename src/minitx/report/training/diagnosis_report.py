"""A diagnosis as text: each finding with its evidence, its likely cause and what to try."""

from __future__ import annotations

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from minitx.diagnosis.findings import KINDS
from minitx.diagnosis.review import Diagnosis, Seen
from minitx.report.terminal.printable import run_path, visible
from minitx.report.terminal.tables import labelled
from minitx.report.training.training_report import SEVERITY_STYLES


def diagnosis_report(diagnosis: Diagnosis) -> Group:
    """Everything found, and everything looked at."""
    n = len(diagnosis.findings)
    count = f"{n} finding{'s' if n != 1 else ''}" if n else "no problems found"
    title = Text().append(run_path(diagnosis.run), "bold").append(f"  ·  {count}", "dim")
    parts: list[Text | Padding] = [title]
    for seen in diagnosis.findings:
        parts += [Text(), *_finding(seen)]
    if not n:
        # Without trouble, what could have been found is the news.
        parts += [
            Text(),
            Text("watched for", style="dim"),
            Padding.indent(Text(", ".join(sorted(KINDS.names()))), 2),
        ]
    checks = labelled((what, visible(result)) for what, result in diagnosis.checks.items())
    return Group(*parts, Text(), Text("checks", style="dim"), Padding.indent(checks, 2))


def _finding(seen: Seen) -> list[Text | Padding]:
    finding = seen.finding
    when = f"  at step {finding.step:,}"
    if seen.times > 1:
        when += f", and {seen.times} times in all, to step {seen.last_step:,}"
    style = SEVERITY_STYLES.get(finding.severity, "")
    heading = Text().append(f"{finding.severity} {visible(finding.name)}", style)
    rows = (("evidence", finding.message), ("likely cause", finding.cause), ("try", finding.fix))
    body = labelled((label, visible(words)) for label, words in rows if words)
    return [heading.append(when, "dim"), Padding.indent(body, 2)]
