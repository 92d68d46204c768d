"""What `minitx eval` prints: the loss, what it must beat, and where the loss comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from minitx.evaluation.breakdown import (
    LETTER_KINDS,
    PASSAGES,
    CalibrationCurve,
    ClassLoss,
    ContextUse,
)
from minitx.evaluation.by_document import DocumentLosses
from minitx.evaluation.comparison import Interval
from minitx.evaluation.copying import COPY_BYTES, Copied
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Figures,
    HoldoutReport,
    PairedTest,
    Report,
)
from minitx.report.evaluation.document_losses import document_lines
from minitx.report.evaluation.surprise import passage_lines
from minitx.report.terminal.heatmap import Shading, shading_for
from minitx.report.terminal.printable import cut_label, printed_name, run_path, text_label
from minitx.report.terminal.tables import bar, table
from minitx.report.terminal.units import bytes_, count, fixed, percent

_MODEL = "this model"
_WITHOUT_LEAKS = "without leaks"


def print_reports(reports: Sequence[Report], full: bool = True, with_stride: bool = True) -> None:
    """Print reports, one below the other; short ones have overlapping windows if asked for."""
    console = Console(highlight=False)
    for number, report in enumerate(reports):
        if number:
            console.print(Text())
        if isinstance(report, HoldoutReport) and not (full or with_stride):
            report = replace(report, strided=None)
        for part in holdout_report(report, shading_for(console), console.width, full):
            console.print(part)


def holdout_report(
    report: Report, shading: Shading, width: int, full: bool = True
) -> Iterator[RenderableType]:
    """Lay a report out, one renderable after the other, `width` columns wide.

    Unless it is `full`, of one model's report only the verdict, the main figures and the baselines.
    """
    if isinstance(report, ComparisonReport):
        yield from _comparison(report)
        return
    yield _about(report)
    verdict = report.verdict
    if verdict is not None:
        style = "bold green" if verdict.fit == "well fitted" else "bold yellow"
        fit = Text().append(verdict.fit.capitalize(), style)
        yield Text()
        yield fit.append(f": {verdict.reason}. {verdict.advice}.")
    yield _figures_table([report], full)
    yield from _notes(report, full)
    for title, section in _Sections(report, shading, width).sections(full):
        yield Text()
        yield Text(title, style="bold")
        yield from section
    if not full and report.context_use is not None:
        yield Text()
        yield _note("Where the loss comes from, calibration, copying, passages: --full")


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


_SHORT = ("loss, nats per token", "perplexity", "bits per byte", "bits per character",
          "tokens scored", "loss on the train part")  # fmt: skip


def _figures_table(
    reports: Sequence[HoldoutReport], full: bool = True, order: Sequence[int] = (0,)
) -> Table:
    columns: list[tuple[str, HoldoutReport, Figures]] = []
    for number in order:
        report = reports[number]
        columns.append((f"{number + 1}" if len(reports) > 1 else "plain", report, report.plain))
        if report.strided is not None:
            columns.append((f"stride {report.strided.stride:,}", report, report.strided))
        if report.without_leaks is not None:
            columns.append((_WITHOUT_LEAKS, report, report.without_leaks))
    figures = [scored for _, _, scored in columns]
    decimals = 4 if len(figures) < 3 else 3  # Three columns fit 80 characters.
    rows: list[tuple[str, list[str]]] = [
        ("loss, nats per token", [fixed(scored.loss, 4) for scored in figures]),
        ("  95 % interval", [_interval(scored.loss_interval, decimals) for scored in figures]),
        ("perplexity", [fixed(scored.perplexity, 3) for scored in figures]),
        ("bits per byte", [fixed(scored.bits_per_byte, 4) for scored in figures]),
        (
            "  95 % interval",
            [_interval(scored.bits_per_byte_interval, decimals) for scored in figures],
        ),
        ("bits per character", [fixed(scored.bits_per_character, 4) for scored in figures]),
        ("tokens scored", [f"{scored.tokens_scored:,}" for scored in figures]),
        ("tokens in context", [_seen(scored) for scored in figures]),
        ("unknown tokens", [_unknown(report) for _, report, _ in columns]),
    ]
    if all(scored.loss_interval is None for scored in figures):
        rows = [row for row in rows if not row[0].startswith(" ")]
    if any(report.train_loss is not None for report in reports):
        plain = [
            report.train_loss if scored is report.plain else None for _, report, scored in columns
        ]
        rows.append(
            ("loss on the train part", ["" if loss is None else fixed(loss, 4) for loss in plain])
        )
    if not full:
        has_unknown = any(report.text.unknown_tokens for report in reports)
        shown = (*_SHORT, "unknown tokens") if has_unknown else _SHORT
        rows = [row for row in rows if row[0] in shown]
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


def _interval(interval: Interval | None, decimals: int) -> str:
    if interval is None:
        return "-"
    return f"{interval.low:.{decimals}f} to {interval.high:.{decimals}f}"


def _notes(report: HoldoutReport, full: bool) -> Iterator[Text]:
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
    if full:
        yield _note(note)
    if text.shared_with_train is not None and text.shared_with_train.copied_share > 0.5:
        yield _warning(
            "More than half of this text is in the train part: its loss says little about unseen "
            "text."
        )
    if report.without_leaks is not None:
        yield _note(
            f"{_WITHOUT_LEAKS.capitalize()}: windows side by side, and only tokens that were "
            "compared with the train part and do not also stand there."
        )
    if text.unknown_tokens:
        yield _warning(
            f"{percent(text.unknown_rate)} of the tokens are unknown: they stand for text outside "
            "the vocabulary, whose cost is not counted, so bits per byte are too low."
        )


class _Sections:
    """What a report has below its figures; `shading` and `width` are the terminal's."""

    def __init__(self, report: HoldoutReport, shading: Shading, width: int) -> None:
        self._report, self._shading, self._width = report, shading, width
        self._ascii_only: bool = shading == "ascii"

    def sections(self, full: bool) -> Iterator[tuple[str, Iterable[RenderableType]]]:
        """Heading and content of each section that there is something to say for."""
        report = self._report
        sections: tuple[tuple[str, Any, Callable[[Any], Iterable[RenderableType]]], ...] = (
            ("Baselines on the same text", report.baselines, self._baselines),
            ("Loss by number of tokens in context", report.context_use, self._positions),
            ("Loss by kind of token", report.classes, self._classes),
            ("Loss by document", report.documents, self._documents),
            ("Loss by frequency of the token in the train part", report.frequencies, self._classes),
            ("Calibration: how confident the model is, and how often it is right",
             report.calibration, self._calibration),
            ("Copied from the train part", report.samples, self._copying),
            ("Most surprising passages, in nats per token", report.surprising,
             lambda passages: passage_lines(passages[:PASSAGES], self._shading, self._width)),
        )  # fmt: skip
        for title, figures, lay_out in sections if full else sections[:1]:
            if figures:
                yield title, lay_out(figures)

    def _bar(self, value: float, longest: float, least: int, most: int, beside: int) -> Text:
        """A bar for a value, of `least` to `most` columns, with `beside` columns next to it."""
        room = max(least, min(most, self._width - beside))
        return Text(bar(value / (longest or 1.0), room, self._ascii_only), "cyan")

    def _baselines(self, baselines: Baselines) -> Iterator[RenderableType]:
        rows: list[tuple[str, float, float | None]] = [
            (_ngram_name(ngram.order), ngram.bits_per_byte, ngram.loss)
            for ngram in baselines.ngrams
        ]
        rows += [(tool.name, tool.bits_per_byte, None) for tool in baselines.compressors]
        rows.append((_MODEL, baselines.model_bits_per_byte, baselines.model_loss))
        rows.sort(key=lambda row: row[1])
        made = table(["", "bits per byte", "loss", ""], numbers=(1, 2))
        for name, value, loss in rows:
            drawn = self._bar(value, rows[-1][1], 8, 30, beside=50)
            pointer, style = "  ", ""
            if name == _MODEL:
                pointer, style, drawn.style = "> " if self._ascii_only else "▶ ", "bold", "green"
            loss_shown = "" if loss is None else fixed(loss, 4)
            made.add_row(Text(pointer + name), fixed(value, 4), loss_shown, drawn, style=style)
        yield made
        yield from _baseline_notes(self._report, baselines)

    def _positions(self, use: ContextUse) -> Iterator[RenderableType]:
        highest = max(bucket.loss for bucket in use.buckets)
        made = table(["in context", "loss", "tokens", ""], numbers=range(3))
        for bucket in use.buckets:
            last = f" to {bucket.last:,}" if bucket.last > bucket.first else ""
            figures = f"{bucket.first:,}{last}", fixed(bucket.loss, 3), f"{bucket.tokens:,}"
            made.add_row(*figures, self._bar(bucket.loss, highest, 8, 40, beside=38))
        yield made
        if use.used_length >= use.context_length:
            yield _note("The loss falls to the end: the model uses all of its context.")
        else:
            yield _note(
                f"Beyond {use.used_length:,} token{'s' if use.used_length != 1 else ''} the loss "
                "no longer falls by more than chance would: nothing shows that the model uses the "
                f"rest of its {use.context_length:,}."
            )

    def _classes(self, classes: Sequence[ClassLoss]) -> Iterator[Table]:
        highest = max(group.loss for group in classes)
        made = table(["", "loss", "tokens", "of all", "of the loss", ""], numbers=range(1, 5))
        for group in classes:
            made.add_row(
                f"  {group.name}" if group.name in LETTER_KINDS else group.name,
                fixed(group.loss, 3),
                f"{group.tokens:,}",
                percent(group.share),
                percent(group.share_of_loss),
                self._bar(group.loss, highest, 6, 24, beside=66),
            )
        yield made

    def _documents(self, losses: DocumentLosses) -> Iterable[RenderableType]:
        highest = max(document.loss for document in (*losses.best, *losses.worst))
        return document_lines(losses, lambda loss: self._bar(loss, highest, 6, 24, beside=66))

    def _calibration(self, curve: CalibrationCurve) -> Iterator[RenderableType]:
        mark = "|" if self._ascii_only else "│"
        room = max(10, min(40, self._width - 40))
        made = table(["confidence", "accuracy", "tokens", ""], numbers=range(3))
        for level in curve.bins:
            drawn = bar(level.accuracy, room, self._ascii_only).ljust(room)
            column = min(room - 1, round(level.confidence * room))
            reliability = Text(drawn[:column], "cyan").append(mark, "bold")
            reliability.append(drawn[column + 1 :], "cyan")
            figures = percent(level.confidence), percent(level.accuracy), f"{level.tokens:,}"
            made.add_row(*figures, reliability)
        yield made
        bias = "overconfident" if curve.confidence > curve.accuracy else "underconfident"
        yield _note(
            f"Bar: how often the top guess was right; {mark} marks how confident the model was. "
            f"Top guess right {percent(curve.accuracy)} of the time; {bias} overall; expected "
            f"calibration error {100 * curve.expected_calibration_error:.1f} %."
        )

    def _copying(self, samples: Copied) -> Iterator[RenderableType]:
        control = self._report.text.shared_with_train
        room = max(10, self._width - 48)
        made = table(["", "copied", "longest", ""], numbers=(1, 2))
        for name, copied in (("samples of the model", samples), ("this text (control)", control)):
            if copied is not None:
                label = text_label(copied.longest, self._ascii_only)
                longest = _note(cut_label(label, room, self._ascii_only))
                size = f"{copied.longest_bytes} bytes"
                made.add_row(name, percent(copied.copied_share), size, longest)
        yield made
        yield _note(
            f"Copied: share of the text in stretches of about {COPY_BYTES} bytes or more that "
            "occur word for word in the train part."
        )


def _ngram_name(order: int) -> str:
    if order == 0:
        return "uniform"
    return "unigram" if order == 1 else f"Kneser-Ney {order}-gram"


def _baseline_notes(report: HoldoutReport, baselines: Baselines) -> Iterator[Text]:
    if baselines.train_tokens:
        note = (
            f"N-grams: interpolated, modified Kneser-Ney, counted on {baselines.train_tokens:,} "
            "tokens of the train part."
        )
        if baselines.compressors:
            note += " Compressors: what the text adds to the compressed train part."
    else:
        note = "Without a train part there are no n-grams to count. Compressors: the text alone."
    if baselines.text_bytes < report.text.bytes:
        first = bytes_(baselines.text_bytes)
        note += f" All rows, the model's included, are for the first {first} of this large text."
    elif baselines.compressors and report.plain.tokens_scored < report.text.tokens - 1:
        note += " Compressors were given the whole text."
    yield _note(note)
    best = min(baselines.ngrams, key=lambda ngram: ngram.bits_per_byte)
    if report.verdict is None and best.bits_per_byte < baselines.model_bits_per_byte:
        yield _warning(
            f"Counting {best.order}-grams does better than this model: it is trained too little, "
            "or too small."
        )


def _comparison(report: ComparisonReport) -> Iterator[RenderableType]:
    first = report.reports[0]
    size = f"{first.text.characters:,} characters, {bytes_(first.text.bytes)}"
    yield _note(f"{printed_name(first.text.name)}: {size}")
    best, *_ = ranked = report.ranked()
    for number in ranked:
        name = run_path(report.reports[number].model.checkpoint)
        row = Text(f"{number + 1}  ", "bold").append(name, "not bold")
        yield row.append("  lowest bits per byte", "green") if number == best else row
    yield _figures_table(report.reports, order=ranked)
    if not report.same_tokens:
        yield _warning(
            "The tokenizers differ, and with them what one token stands for: losses and "
            "perplexities don't compare, nor do train losses. Bits per byte do, since all "
            "were scored on the same bytes; the ranking goes by them."
        )
    if len({compared.plain.context_length for compared in report.reports}) > 1:
        yield _note("The context lengths differ: a longer one sees more of the text.")
    for number, test in enumerate(report.tests, start=2):
        yield _paired_test(number, test)
    name = run_path(report.reports[best].model.checkpoint)
    bits = f"{report.reports[best].plain.bits_per_byte:.4f} bits per byte"
    if report.has_clear_winner:
        yield Text("Best: ", "bold green").append(f"{name}, with {bits}", "not bold")
    else:
        yield Text(f"Lowest: {name}, with {bits}, but chance may have decided.")


def _paired_test(number: int, test: PairedTest) -> Text:
    comparison = test.comparison
    change = f"{abs(comparison.difference):.4f} bits per byte"
    if comparison.p_value is None:
        return Text(
            f"{number} against 1: {comparison.difference:+.4f} bits per byte; the text is too "
            "short for a significance test."
        )
    if not comparison.is_significant:
        head = Text(f"{number} against 1: no clear difference", "bold")
    else:
        word, style = ("better", "green") if comparison.difference < 0 else ("worse", "yellow")
        head = Text(f"{number} is {word} than 1 by {change}", f"bold {style}")
    interval = comparison.interval
    bounds = "" if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}, "
    p_value = "< 0.001" if comparison.p_value < 0.001 else f"= {comparison.p_value:.3f}"
    return head.append(
        f" ({comparison.difference:+.4f}, 95 % interval {bounds}p {p_value}; paired test over "
        f"{comparison.n_blocks} blocks of the text)",
        "not bold default dim",
    )
