"""What the two parts of a corpus have in common, in words: for `minitx corpus` and for the page."""

from __future__ import annotations

from minitx.corpus.audit import Audit
from minitx.corpus.shared_windows import WINDOW
from minitx.report.terminal.printable import cut_label, printed_name, text_label
from minitx.report.terminal.units import percent

_LONGEST_SHOWN = 160


def audit_rows(audit: Audit, ascii_only: bool = False) -> list[tuple[str, str]]:
    """What was found, each with a label or, if it goes on with the one before, without."""

    def label(text: str) -> str:
        return cut_label(text_label(text, ascii_only), _LONGEST_SHOWN, ascii_only)

    rows = [("audit", str(audit))]
    rows += [
        ("" if i else "worst", f"{printed_name(pair.holdout)}: {percent(pair.share)} stands in "
         f"{printed_name(pair.train)}: {label(pair.text)}")
        for i, pair in enumerate(audit.pairs)
    ]  # fmt: skip
    if audit.longest:
        n_bytes = len(audit.longest.encode("utf-8"))
        rows.append(
            ("in common", f"{percent(audit.copied_share)} of the holdout, in stretches of {WINDOW} "
             f"bytes or more; the longest, {n_bytes:,} bytes: {label(audit.longest)}")
        )  # fmt: skip
    rows += [
        ("" if i else "repeated", f"{count:,} times: {label(line)}")
        for i, (line, count) in enumerate(audit.boilerplate)
    ]
    return rows
