"""What is in a corpus, for a terminal and for programs."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.text import Text

from minitx.report.terminal.audit_view import audit_rows
from minitx.report.terminal.printable import json_line, printed_name, token_label
from minitx.report.terminal.tables import labelled, table
from minitx.report.terminal.units import bytes_, percent
from minitx.workflows.corpus import CorpusStudy

_WAYS = {
    "tail": "the end of the text, from a line on",
    "hash": "documents chosen by a hash of their content",
}


def print_corpus(study: CorpusStudy, as_json: bool) -> None:
    """Print it to standard output."""
    if as_json:
        print(json_line(study.to_json()))
        return
    console = Console(highlight=False)
    console.print(corpus_view(study, not console.encoding.lower().startswith("utf")))


def corpus_view(study: CorpusStudy, ascii_only: bool) -> RenderableType:
    """All that was found, in the order in which a reader asks for it."""
    parts = [
        (name.replace("train", "train part"), f"{part.documents:,}", bytes_(part.bytes),
         f"{part.characters:,}", f"{part.tokens:,}")
        for name, part in study.parts.items()
    ]  # fmt: skip
    sizes = table(("", "documents", "bytes", "characters", "tokens"), parts, range(1, 5))
    kind, vocab_size = study.tokenizer
    n_documents = sum(part.documents for part in study.parts.values())
    lengths = ", ".join(f"{_LENGTHS.get(name, name)} {n:,}" for name, n in study.lengths.items())
    files = ", ".join(f"{n:,} {name}" for name, n in study.formats.items())
    facts = [
        *([("files", files)] if files else []),
        *([("lengths", f"{lengths} characters")] if n_documents > 2 else []),
        ("characters", f"{study.distinct:,} different: {_shares(study.classes)}"),
        ("scripts", _shares(study.scripts) or "no letters"),
        *_oddities(study),
        ("holdout", _WAYS.get(study.split, f"the file {printed_name(study.split)}")),
        ("tokenizer", f"{kind}, {vocab_size:,} ids"),
        ("an epoch", f"{study.parts['train'].tokens:,} tokens"),
    ]  # fmt: skip
    shown = [
        Group(
            Text(f"\n{printed_name(name) or study.name}", style="dim"),
            Text(" ".join(token_label(piece, ascii_only) for piece in pieces)),
        )
        for name, pieces in study.shown
    ]
    audit = [] if study.audit is None else [labelled(audit_rows(study.audit, ascii_only))]
    return Group(sizes, labelled(facts), *audit, *shown)


_LENGTHS = {"p10": "10th percentile", "p90": "90th percentile"}
_PROBLEMS = {
    "lost": "characters that an earlier conversion lost (U+FFFD)",
    "twice_encoded": "characters whose UTF-8 was encoded twice (mojibake)",
    "controls": "control characters",
    "carriage_returns": "carriage returns, of line ends as Windows writes them",
}


def _oddities(study: CorpusStudy) -> list[tuple[str, str]]:
    """What a person may want to mend."""
    rows = []
    if study.duplicates:
        copies = f"{study.duplicates:,} documents are copies of an earlier one"
        rows.append(("duplicates", f"{copies}; --dedup leaves them out"))
    for reason, count in study.left_out.items():
        rows.append(("left out", f"{count:,} documents: {reason}"))
    for file, count in study.skipped.items():
        rows.append(("skipped", f"{count:,} records of {printed_name(file)}"))
    problems = [(name, count) for name, count in study.problems.items() if count]
    return rows + [
        ("" if i else "encoding", f"{count:,} {_PROBLEMS[name]}")
        for i, (name, count) in enumerate(problems)
    ]


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {percent(share)}" for name, share in shares.items())
