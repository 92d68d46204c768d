"""What eval prints, from reports made by hand: every sentence at the figures that call for it."""

import dataclasses
import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from minitx.evaluation.breakdown import (
    CalibrationCurve,
    ClassLoss,
    ContextUse,
    PositionBucket,
    ReliabilityBin,
    SurprisingText,
)
from minitx.evaluation.comparison import Comparison, Interval
from minitx.evaluation.copying import Copied
from minitx.evaluation.holdout_figures import (
    Baselines,
    ComparisonReport,
    Compressed,
    Figures,
    HoldoutReport,
    ModelFigures,
    NGramFigures,
    PairedTest,
    TextFigures,
)
from minitx.evaluation.verdict import judge
from minitx.report.evaluation.holdout_report import holdout_report
from minitx.report.evaluation.surprise import passage_lines

MODEL = ModelFigures("runs/a/checkpoints/step-10", "qwen3", 1_000, "char", 65, 64, "cpu", "float32")
TEXT = TextFigures("holdout", 1_001, 1_001, 1_001, 0)


def figures(loss=1.5, stride=64, interval=Interval(1.4, 1.6), context=64, scored=1_000):
    return Figures(context, stride, scored, scored, loss, interval, 4.48, 2.16, interval, 2.16)


def report(**given):
    return HoldoutReport(**{"model": MODEL, "text": TEXT, "plain": figures(), **given})


def printed(shown, shading="blocks", width=80, full=True):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in holdout_report(shown, shading, width, full):
        console.print(part)
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    return " ".join(text.split())


def baselines(best=2.0, model=2.16, **given):
    return Baselines(**{
        "ngrams": (NGramFigures(0, 4.1, 6.0), NGramFigures(1, 3.0, 4.4),
                   NGramFigures(5, 1.4, best)),
        "compressors": (Compressed("xz", 2.5, 2.9),), "train_tokens": 9_000, "tokens": 1_001,
        "text_bytes": 1_001, "train_bytes": 9_000, "model_loss": 1.5, "model_bits_per_byte": model,
        **given,
    })  # fmt: skip


def bucket(first, last, loss):
    return PositionBucket(first, last, 10, loss, 0.1)


def test_the_figures_and_their_intervals():
    text = printed(report(strided=figures(1.4, 32), train_loss=1.2))
    assert "loss, nats per token 1.5000 1.4000" in text
    assert "95 % interval 1.4000 to 1.6000" in text
    assert "tokens in context 1 to 64 33 to 64" in text
    assert "loss on the train part 1.2000" in text
    assert (
        "Stride 32: windows overlap, so that tokens after the first window have a context of "
        "at least 33"
    ) in text
    assert "Each token is scored once" in text


def test_a_text_too_short_for_an_interval_or_scored_in_part_says_so():
    text = printed(report(plain=figures(interval=None, scored=500)))
    assert "95 %" not in text
    assert "too short for a confidence interval" in text
    assert "Scored: 500 of 1,001 tokens" in text


def test_unknown_tokens_are_counted_and_their_cost_told():
    for unknown, share in ((100, "10.0 %"), (1, "< 0.1 %")):
        text = TextFigures("holdout", 1_001, 1_001, 1_001, unknown)
        if unknown == 1:
            text = dataclasses.replace(text, tokens=2_000)
        shown = printed(report(text=text))
        assert f"unknown tokens {unknown} ({share})" in shown
        assert "bits per byte are too low" in shown


@pytest.mark.parametrize(
    ("train", "word"),
    [(1.49, "Underfitted"), (1.35, "Well fitted"), (0.9, "Memorizing, still improving")],
)
def test_the_verdict_comes_with_reason_and_advice(train, word):
    verdict = judge(train, 1.5)
    text = printed(report(verdict=verdict))
    assert f"{word}: {' '.join(verdict.reason.split())}" in text
    assert verdict.advice in text


def test_what_it_must_beat_is_sorted_with_the_model_among_it():
    text = printed(report(baselines=baselines()))
    rows = ["Kneser-Ney 5-gram", "▶ this model", "xz", "unigram", "uniform"]
    assert sorted(rows, key=text.index) == rows
    assert "Counting 5-grams does better than this model" in text
    assert "counted on 9,000 tokens of the train part" in text
    better = printed(report(baselines=baselines(model=1.5)), "ascii")
    assert better.index("> this model") < better.index("Kneser-Ney")
    assert "does better than this model" not in better
    # Where there is a verdict, it says so.
    assert "does better than this model" not in printed(
        report(baselines=baselines(), verdict=judge(1.2, 1.5))
    )


def test_what_the_baselines_were_measured_on_is_told():
    large = TextFigures("big.txt", 9_000_000, 9_000_000, 9_000_000, 0)
    shown = printed(report(text=large, plain=figures(scored=8_999_999),
                           baselines=baselines(text_bytes=4_000_000)))  # fmt: skip
    assert "All rows, the model's included, are for the first 4.00 MB of this large text" in shown
    shown = printed(report(plain=figures(scored=500), baselines=baselines()))
    assert "Compressors were given the whole text" in shown
    assert "there are no n-grams to count" in printed(report(baselines=baselines(train_tokens=0)))


def test_how_much_of_the_context_is_used():
    buckets = (bucket(1, 1, 3.0), bucket(2, 64, 1.5))
    text = printed(report(context_use=ContextUse(buckets, 64, 64)))
    assert "2 to 64 1.500" in text
    assert "the model uses all of its context" in text
    text = printed(report(context_use=ContextUse(buckets, 1, 64)), "ascii")
    assert "Beyond 1 token the loss no longer falls" in text
    assert "=" in text
    text = printed(report(context_use=ContextUse((bucket(1, 1, 0.0),), 8, 64)))
    assert "Beyond 8 tokens" in text


def test_classes_are_a_table_with_letters_split_in_two():
    classes = (ClassLoss("space", 100, 0.1, 0.0, 0.0), ClassLoss("letter", 900, 0.9, 1.5, 1.0),
               ClassLoss("new word", 300, 0.3, 2.5, 0.7))  # fmt: skip
    text = printed(report(classes=classes, frequencies=classes[:1]))
    assert "Loss by kind of token" in text
    assert "letter 1.500 900 90.0 % 100.0 %" in text
    assert "new word 2.500 300 30.0 % 70.0 %" in text
    assert "frequency of the token in the train part" in text


@pytest.mark.parametrize(("accuracy", "word"), [(0.4, "overconfident"), (0.6, "underconfident")])
def test_calibration_says_which_way_it_is_wrong(accuracy, word):
    bins = (ReliabilityBin(0.4, 0.6, 10, 0.5, accuracy), ReliabilityBin(0.9, 1.0, 5, 1.0, 1.0))
    curve = CalibrationCurve(accuracy, 0.5, 0.1, bins)
    text = printed(report(calibration=curve))
    assert f"50.0 % {100 * accuracy:.1f} % 10" in text
    assert f"Top guess right {100 * accuracy:.1f} % of the time; {word} overall" in text
    assert "expected calibration error 10.0 %" in text
    assert "│" not in printed(report(calibration=curve), "ascii")


def test_what_was_copied_is_shown_beside_a_control():
    own, copy = Copied(100, 0.02, "the\nwall", 8), Copied(100, 0.9, "x" * 500, 500)
    text = printed(report(samples=own))
    assert "samples of the model 2.0 % 8 bytes the⏎wall" in text
    assert "control" not in text
    text = printed(report(samples=own, text=dataclasses.replace(TEXT, shared_with_train=copy)))
    assert "this text (control) 90.0 % 500 bytes" in text
    assert "More than half of this text is in the train part" in text


def compared(comparison, other=None):
    reports = (report(), other or report())
    return printed(ComparisonReport(reports, (PairedTest("b", "a", comparison),)))


def test_a_comparison_says_better_worse_or_neither():
    interval = Interval(-0.2, -0.1)
    text = compared(Comparison(-0.15, interval, 0.0002, 40))
    assert "2 is better than 1 by 0.1500 bits per byte" in text
    assert "95 % interval -0.2000 to -0.1000, p < 0.001; paired test over 40 blocks" in text
    text = compared(Comparison(0.15, Interval(0.1, 0.2), 0.004, 40))
    assert "2 is worse than 1 by 0.1500 bits per byte" in text
    assert "p = 0.004" in text
    text = compared(Comparison(0.01, Interval(-0.1, 0.1), 0.8, 40))
    assert "2 against 1: no clear difference (+0.0100" in text
    text = compared(Comparison(0.01, None, None, 2))
    assert "too short for a significance test" in text


def named(name, bits_per_byte, digest, loss=1.5):
    model = dataclasses.replace(MODEL, checkpoint=f"runs/{name}", tokenizer_digest=digest)
    plain = dataclasses.replace(figures(loss), bits_per_byte=bits_per_byte)
    return report(model=model, plain=plain)


def test_models_of_other_tokenizers_are_ranked_by_bytes():
    """The lowest loss per token is the worst model: its tokens are short."""
    reports = (named("short", 2.5, "a", 1.0), named("long", 2.0, "b", 3.0),
               named("middle", 2.2, "c", 2.0))  # fmt: skip
    sure = Comparison(-0.3, Interval(-0.4, -0.2), 0.0002, 40)
    tests = tuple(PairedTest(f"runs/{name}", "runs/short", sure) for name in ("long", "middle"))
    text = printed(ComparisonReport(reports, tests))
    names = ["2 runs/long", "3 runs/middle", "1 runs/short"]
    assert sorted(names, key=text.index) == names
    assert "bits per byte 2.0000 2.2000 2.5000" in text
    assert "losses and perplexities don't compare" in text
    assert "Best: runs/long, with 2.0000 bits per byte" in text
    same = tuple(dataclasses.replace(one, model=dataclasses.replace(one.model, tokenizer_digest=""))
                 for one in reports)  # fmt: skip
    assert "don't compare" not in printed(ComparisonReport(same, tests))


def test_a_winner_by_chance_is_no_winner():
    reports = named("one", 2.0, "a"), named("two", 2.01, "a")
    unsure = PairedTest("runs/two", "runs/one", Comparison(0.01, Interval(-0.1, 0.1), 0.8, 40))
    for order in (reports, reports[::-1]):
        text = printed(ComparisonReport(order, (unsure,)))
        assert "Lowest: runs/one, with 2.0000 bits per byte, but chance may have decided" in text


def test_the_short_form_has_a_verdict_six_figures_and_the_baselines():
    verdict = judge(1.35, 1.5)
    long = report(
        strided=figures(1.4, 32), train_loss=1.2, verdict=verdict, baselines=baselines(),
        context_use=ContextUse((bucket(1, 1, 3.0),), 64, 64), samples=Copied(100, 0.02, "the", 3),
        surprising=(PASSAGE,),
    )  # fmt: skip
    text = printed(long, full=False)
    rows = ("loss, nats per token", "perplexity", "bits per byte", "bits per character",
            "tokens scored", "loss on the train part")  # fmt: skip
    for shown in ("Well fitted", *rows, "this model", "--full"):
        assert shown in text
    for left_out in ("tokens in context", "unknown tokens", "95 %", "Copied", "surprising"):
        assert left_out not in text
    assert "unknown tokens 9" in printed(
        report(text=dataclasses.replace(TEXT, unknown_tokens=9)), full=False
    )
    copied = dataclasses.replace(TEXT, shared_with_train=Copied(100, 0.9, "x", 100))
    assert "More than half of this text" in printed(report(text=copied), full=False)
    assert "Copied" in printed(long)


def test_models_of_different_contexts_are_told_apart():
    found = Comparison(0.01, Interval(-0.1, 0.1), 0.8, 40)
    assert "The context lengths differ" in compared(
        found, report(plain=figures(context=32, stride=32))
    )
    assert "The context lengths differ" not in compared(found)


PASSAGE = SurprisingText(5, 4.0, ("The", " end", "\n", "x" * 60, "."), (0.5, 3.0, 8.0, 4.5, 1.5))


def test_surprising_passages_are_coloured_or_marked_below():
    color, legend = passage_lines([PASSAGE], "color", 60)
    assert color.plain.startswith("  4.00  The end⏎xxx")
    assert len({str(span.style) for span in color.spans}) >= 5
    assert legend.plain.endswith("10 ")
    lines = passage_lines([PASSAGE], "blocks", 60)
    assert lines[0].plain.startswith("  4.00  The end⏎xxx")
    # Under each token its mark, as wide as the token.
    assert lines[1].plain[8:].startswith("   ▒▒▒▒█")
    assert "░░ 1+" in lines[-1].plain
    assert all(ord(c) < 128 for line in passage_lines([PASSAGE], "ascii", 60) for c in line.plain)


def test_a_passage_wraps_and_keeps_its_tokens_whole():
    lines = passage_lines([PASSAGE], "color", 36)
    assert [line.plain[:8] for line in lines[:2]] == ["  4.00  ", "        "]
    assert all(cell_len(line.plain) <= 36 for line in lines[:-1])
    assert passage_lines([], "color", 60) == []


def test_ten_passages_are_shown_with_the_report():
    text = printed(report(surprising=(PASSAGE,) * 12), width=120)
    assert text.count("The end⏎") == 10
