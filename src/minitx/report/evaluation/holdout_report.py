"""What `minitx eval` prints: the loss, what it must beat, and where the loss comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from minitx.evaluation.bootstrap import Interval
from minitx.evaluation.calibration import CalibrationCurve
from minitx.evaluation.classes import LETTER_KINDS, ClassLoss
from minitx.evaluation.copying import COPY_BYTES, Copied
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Figures,
    HoldoutReport,
    PairedTest,
    Report,
)
from minitx.evaluation.positions import ContextUse
from minitx.evaluation.verdict import Verdict
from minitx.report.evaluation.surprise import passage_lines
from minitx.report.terminal.heatmap import Shading, shading_for
from minitx.report.terminal.printable import printed_name, run_path
from minitx.report.terminal.tables import bar, table
from minitx.report.terminal.token_labels import cut_label, text_label
from minitx.report.terminal.units import bytes_, count, fixed, percent

_MODEL = "this model"
_FIT_STYLES = {"well fitted": "green", "underfitted": "yellow", "overfitted": "yellow"}
_PASSAGES = 10


def print_reports(reports: Sequence[Report]) -> None:
    """Print reports, one below the other."""
    console = Console(highlight=False)
    for number, report in enumerate(reports):
        if number:
            console.print(Text())
        for part in holdout_report(report, shading_for(console), console.width):
            console.print(part)


def holdout_report(report: Report, shading: Shading, width: int) -> Iterator[RenderableType]:
    """Lay a report out, one renderable after the other, `width` columns wide."""
    if isinstance(report, ComparisonReport):
        yield from _comparison(report)
        return
    yield _about(report)
    yield _figures_table([report])
    yield from _notes(report)
    if report.verdict is not None:
        yield Text()
        yield _verdict(report.verdict)
    if report.baselines is not None:
        yield from _heading("Baselines on the same text")
        yield _baselines_table(report.baselines, shading, width)
        yield from _baseline_notes(report, report.baselines)
    if report.context_use is not None:
        yield from _heading("Loss by number of tokens in context")
        yield from _positions(report.context_use, shading, width)
    if report.classes:
        yield from _heading("Loss by kind of token")
        yield _classes_table(report.classes, shading, width)
    if report.frequencies:
        yield from _heading("Loss by frequency of the token in the train part")
        yield _classes_table(report.frequencies, shading, width)
    if report.calibration is not None:
        yield from _heading("Calibration: how confident the model is, and how often it is right")
        yield from _calibration(report.calibration, shading, width)
    if report.samples is not None:
        yield from _heading("Copied from the train part")
        yield from _copying(report.samples, report.text.shared_with_train, shading, width)
    if report.surprising:
        yield from _heading("Most surprising passages, in nats per token")
        yield from passage_lines(report.surprising[:_PASSAGES], shading, width)


def _heading(text: str) -> Iterator[Text]:
    yield Text()
    yield Text(text, style="bold")


def _note(text: str) -> Text:
    return Text(text, style="dim")


def _warning(text: str) -> Text:
    return Text(text, style="yellow")


def _about(report: HoldoutReport) -> Text:
    model, text = report.model, report.text
    about = Text(run_path(model.checkpoint), style="bold")
    about.append(
        f"\n{model.architecture}, {count(model.n_parameters)} parameters; {model.tokenizer} "
        f"tokenizer of {model.vocab_size:,}; {model.device}, {model.dtype}",
        "not bold dim",
    )
    size = f"{text.tokens:,} tokens, {bytes_(text.bytes)}"
    return about.append(f"\n{printed_name(text.name)}: {size}", "not bold dim")


def _figures_table(reports: Sequence[HoldoutReport]) -> Table:
    columns: list[tuple[str, HoldoutReport, Figures]] = []
    for number, report in enumerate(reports, start=1):
        columns.append((f"{number}" if len(reports) > 1 else "plain", report, report.plain))
        if report.strided is not None:
            columns.append((f"stride {report.strided.stride:,}", report, report.strided))
    figures = [one for _, _, one in columns]
    rows: list[tuple[str, list[str]]] = [
        ("loss, nats per token", [fixed(one.loss, 4) for one in figures]),
        ("  95 % interval", [_interval(one.loss_interval) for one in figures]),
        ("perplexity", [fixed(one.perplexity, 3) for one in figures]),
        ("bits per byte", [fixed(one.bits_per_byte, 4) for one in figures]),
        ("  95 % interval", [_interval(one.bits_per_byte_interval) for one in figures]),
        ("bits per character", [fixed(one.bits_per_character, 4) for one in figures]),
        ("tokens scored", [f"{one.tokens_scored:,}" for one in figures]),
        ("tokens in context", [_seen(one) for one in figures]),
        ("unknown tokens", [_unknown(report) for _, report, _ in columns]),
    ]
    if all(one.loss_interval is None for one in figures):
        rows = [row for row in rows if not row[0].startswith(" ")]
    if any(report.train_loss is not None for report in reports):
        plain = [report.train_loss if one.is_plain else None for _, report, one in columns]
        rows.append(("train loss", ["" if loss is None else fixed(loss, 4) for loss in plain]))
    return table(
        ["", *(name for name, _, _ in columns)],
        [(name, *values) for name, values in rows],
        numbers=range(1, len(columns) + 1),
    )


def _seen(figures: Figures) -> str:
    least = figures.context_length - figures.stride + 1
    return f"{least:,} to {figures.context_length:,}"


def _unknown(report: HoldoutReport) -> str:
    unknown = report.text.unknown_tokens
    return f"{unknown:,} ({percent(report.text.unknown_rate)})" if unknown else "0"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def _notes(report: HoldoutReport) -> Iterator[Text]:
    text, scored = report.text, report.plain.tokens_scored
    if scored < text.tokens - 1:
        note = f"Scored: {scored:,} of {text.tokens:,} tokens, in windows spread over the text."
    else:
        note = "Each token is scored once, but for the first, which has no context."
    if report.strided is not None:
        note += (
            f" Plain: windows side by side. Stride {report.strided.stride:,}: windows overlap, so "
            f"that tokens after the first window have a context of at least "
            f"{report.strided.context_length - report.strided.stride + 1:,}."
        )
    if report.plain.loss_interval is None:
        note += " The text is too short for a confidence interval."
    yield _note(note)
    if text.unknown_tokens:
        yield _warning(
            f"{percent(text.unknown_rate)} of the tokens are unknown: they stand for text outside "
            "the vocabulary, whose cost is not counted, so bits per byte are too low."
        )


def _verdict(verdict: Verdict) -> Text:
    text = Text().append(verdict.fit.capitalize(), f"bold {_FIT_STYLES[verdict.fit]}")
    return text.append(f": {verdict.reason}. {verdict.advice}.")


def _baselines_table(baselines: Baselines, shading: Shading, width: int) -> Table:
    rows: list[tuple[str, float, float | None]] = [
        (_ngram_name(one.order), one.bits_per_byte, one.loss) for one in baselines.ngrams
    ]
    rows += [(tool.name, tool.bits_per_byte, None) for tool in baselines.compressors]
    rows.append((_MODEL, baselines.model_bits_per_byte, baselines.model_loss))
    rows.sort(key=lambda row: row[1])
    longest = rows[-1][1]
    ascii_only = shading == "ascii"
    room = max(8, min(30, width - 50))
    pointer = "> " if ascii_only else "▶ "
    made = table(["", "bits per byte", "loss", ""], numbers=(1, 2))
    for name, value, loss in rows:
        is_model = name == _MODEL
        made.add_row(
            Text((pointer if is_model else "  ") + name),
            fixed(value, 4),
            "" if loss is None else fixed(loss, 4),
            Text(bar(value / longest, room, ascii_only), "green" if is_model else "cyan"),
            style="bold" if is_model else "",
        )
    return made


def _ngram_name(order: int) -> str:
    if order == 0:
        return "uniform"
    return "unigram" if order == 1 else f"Kneser-Ney {order}-gram"


def _baseline_notes(report: HoldoutReport, baselines: Baselines) -> Iterator[Text]:
    if baselines.train_tokens:
        note = (
            f"N-grams: interpolated, modified Kneser-Ney, counted on {baselines.train_tokens:,} "
            "tokens of the train part. Compressors: what the text adds to the compressed train "
            "part."
        )
    else:
        note = "Without a train part there are no n-grams to count. Compressors: the text alone."
    if baselines.text_bytes < report.text.bytes:
        first = bytes_(baselines.text_bytes)
        note += f" All rows, the model's included, are for the first {first} of this large text."
    elif report.plain.tokens_scored < report.text.tokens - 1:
        note += " Compressors were given the whole text."
    yield _note(note)
    best = min(baselines.ngrams, key=lambda one: one.bits_per_byte)
    if report.verdict is None and best.bits_per_byte < baselines.model_bits_per_byte:
        yield _warning(
            f"Counting {best.order}-grams does better than this model: it is trained too little, "
            "or too small."
        )


def _positions(use: ContextUse, shading: Shading, width: int) -> Iterator[RenderableType]:
    highest = max(bucket.loss for bucket in use.buckets) or 1.0
    room = max(8, min(40, width - 38))
    made = table(["in context", "loss", "tokens", ""], numbers=range(3))
    for bucket in use.buckets:
        last = f" to {bucket.last:,}" if bucket.last > bucket.first else ""
        drawn = Text(bar(bucket.loss / highest, room, shading == "ascii"), "cyan")
        made.add_row(f"{bucket.first:,}{last}", fixed(bucket.loss, 3), f"{bucket.tokens:,}", drawn)
    yield made
    if use.used_length >= use.context_length:
        yield _note("The loss falls to the end: the model uses all of its context.")
    else:
        yield _note(
            f"Beyond {use.used_length:,} token{'s' if use.used_length != 1 else ''} the loss no "
            f"longer falls: the model makes little use of the rest of its {use.context_length:,}."
        )


def _classes_table(classes: Sequence[ClassLoss], shading: Shading, width: int) -> Table:
    highest = max(one.loss for one in classes) or 1.0
    room = max(6, min(24, width - 66))
    return table(
        ["", "loss", "tokens", "of all", "of the loss", ""],
        [
            (
                f"  {one.name}" if one.name in LETTER_KINDS else one.name,
                fixed(one.loss, 3),
                f"{one.tokens:,}",
                percent(one.share),
                percent(one.share_of_loss),
                Text(bar(one.loss / highest, room, shading == "ascii"), "cyan"),
            )
            for one in classes
        ],
        numbers=range(1, 5),
    )


def _calibration(curve: CalibrationCurve, shading: Shading, width: int) -> Iterator[RenderableType]:
    ascii_only = shading == "ascii"
    mark = "|" if ascii_only else "│"
    room = max(10, min(40, width - 40))
    made = table(["confidence", "accuracy", "tokens", ""], numbers=range(3))
    for one in curve.bins:
        drawn = bar(one.accuracy, room, ascii_only).ljust(room)
        at = min(room - 1, round(one.confidence * room))
        reliability = Text(drawn[:at], "cyan").append(mark, "bold").append(drawn[at + 1 :], "cyan")
        figures = percent(one.confidence), percent(one.accuracy), f"{one.tokens:,}"
        made.add_row(*figures, reliability)
    yield made
    bias = "overconfident" if curve.confidence > curve.accuracy else "underconfident"
    yield _note(
        f"Bar: how often the top guess was right; {mark} marks how confident the model was. Top "
        f"guess right {percent(curve.accuracy)} of the time; {bias} overall; expected calibration "
        f"error {100 * curve.expected_calibration_error:.1f} %."
    )


def _copying(
    samples: Copied, control: Copied | None, shading: Shading, width: int
) -> Iterator[RenderableType]:
    ascii_only = shading == "ascii"
    room = max(10, width - 48)
    made = table(["", "copied", "longest", ""], numbers=(1, 2))
    for name, one in (("samples of the model", samples), ("this text (control)", control)):
        if one is not None:
            longest = cut_label(text_label(one.longest, ascii_only), room, ascii_only)
            size = f"{one.longest_bytes} bytes"
            made.add_row(name, percent(one.copied_share), size, _note(longest))
    yield made
    yield _note(
        f"Copied: share of the text in stretches of at least {COPY_BYTES} bytes that occur word "
        "for word in the train part."
    )
    if control is not None and control.copied_share > 0.5:
        yield _warning(
            "More than half of this text is in the train part: its loss says little about "
            "unseen text."
        )


def _comparison(report: ComparisonReport) -> Iterator[RenderableType]:
    first = report.reports[0]
    size = f"{first.text.characters:,} characters, {bytes_(first.text.bytes)}"
    yield _note(f"{printed_name(first.text.name)}: {size}")
    for number, one in enumerate(report.reports, start=1):
        name = run_path(one.model.checkpoint)
        yield Text(f"{number}  ", "bold").append(name, "not bold")
    yield _figures_table(report.reports)
    if len({one.plain.context_length for one in report.reports}) > 1:
        yield _note("The context lengths differ: a longer one sees more of the text.")
    for number, test in enumerate(report.tests, start=2):
        yield _paired_test(number, test)


def _paired_test(number: int, test: PairedTest) -> Text:
    found = test.comparison
    change = f"{abs(found.difference):.4f} bits per byte"
    if found.p_value is None:
        return Text(f"{number} against 1: {found.difference:+.4f} bits per byte; the text is too "
                    "short for a significance test.")  # fmt: skip
    if not found.is_significant:
        head = Text(f"{number} against 1: no clear difference", "bold")
    else:
        word, style = ("better", "green") if found.difference < 0 else ("worse", "yellow")
        head = Text(f"{number} is {word} than 1 by {change}", f"bold {style}")
    interval = found.interval
    bounds = "" if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}, "
    p_value = "< 0.001" if found.p_value < 0.001 else f"= {found.p_value:.3f}"
    return head.append(
        f" ({found.difference:+.4f}, 95 % interval {bounds}p {p_value}; paired test over "
        f"{found.n_blocks} blocks of the text)",
        "not bold default dim",
    )
