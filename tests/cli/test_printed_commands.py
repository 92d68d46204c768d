"""Every command that minitx prints as a next step ends with 0 when it is given."""

import html
import importlib.util
import re
import shlex
import sys

import pytest
from small_runs import VERSES

SMALL = ["--layers", 1, "--heads", 2, "--d-model", 16, "--context", 16, "--batch-size", 2,
         "--steps", 6, "--threads", 1, "--evaluate-every", 3]  # fmt: skip
LONG_WORD = "pneumonoultramicroscopicsilicovolcanoconiosis"

KINDS = {
    "words of a rhyme": (VERSES, []),
    "five ids": ("abcd" * 200, []),
    "nothing printable": ("\u200b\u2060\n" * 300, ["--kind", "char"]),
    "one long word": (f"{LONG_WORD} " * 60, ["--kind", "word"]),
    "byte pairs": (VERSES, ["--kind", "bpe", "--vocab-size", 300]),
    "no holdout": (VERSES, ["--holdout-fraction", 0]),
    "a holdout of one character": ("abc " * 25, ["--holdout-fraction", 0.01]),
    "unknown characters": ("abc " * 300 + "the end of it ", ["--kind", "char"]),
    "unknown words": ("a b c " * 300 + "the end of it " * 9, ["--kind", "word"]),
    "early stopping": (
        VERSES, ["--steps", 40, "--early-stopping", 1, "--learning-rate", 0.0, "--evaluate-every",
                 1, "--muon-learning-rate", 0.0],
    ),
    "one step": (VERSES, ["--steps", 1]),
    "a budget": (VERSES, ["--budget", "1s", "--max-steps", 8]),
    "a prompt like a flag": ("--top 3\n" * 100, []),
}  # fmt: skip


def commands(text):
    """The lines of `next`, as words without `minitx`."""
    lines = text.partition("\nnext\n")[2].splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("  minitx ")]


CASES = [(kind, True) for kind in KINDS]
CASES += [("words of a rhyme", False), ("no holdout", False)]


@pytest.mark.parametrize(("kind", "extras"), CASES)
def test_next_steps_work(minitx, inside, monkeypatch, kind, extras):
    if not extras:
        find = importlib.util.find_spec
        for module in list(sys.modules.values()):
            if getattr(module, "find_spec", None) is find:
                monkeypatch.setattr(module, "find_spec", lambda *_: None)
    text, flags = KINDS[kind]
    corpus = inside / "text.txt"
    corpus.write_text(text)
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | dict(
        zip(flags[::2], flags[1::2], strict=True)
    )
    if "--budget" in given:
        del given["--steps"]
    done = minitx("train", corpus, *[word for pair in given.items() for word in pair])
    assert done.code == 0, done.err
    if kind == "early stopping":
        assert "stopped early" in done.out
    printed = commands(done.out)
    assert printed
    assert any(words[0] == "report" for words in printed) == extras
    assert any(words[0] == "eval" for words in printed) == ("holdout" not in kind)
    assert ("unknown to the tokenizer" in re.sub(r"\s+", " ", done.out)) == ("unknown" in kind)
    for words in printed:
        done = minitx(*words)
        assert done.code == 0, (words, done.err)
    # The lines of the page, whose last step was a resume.
    page = inside / "runs/text-001/report.html"
    if extras:
        lines = re.findall(r"(?m)^(?:.*<pre>)?(minitx [^<\n]*)", html.unescape(page.read_text()))
        assert lines
        for line in lines:
            done = minitx(*shlex.split(line)[1:])
            assert done.code == 0, (line, done.err)


def test_a_cut_run_says_how_it_goes_on(minitx, inside, verses, monkeypatch):
    import os
    import signal

    from minitx.report.training.training_view import PlainTrainingView

    told = PlainTrainingView.on_step

    def cut(self, report):
        told(self, report)
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PlainTrainingView, "on_step", cut)
    flags = {**dict(zip(SMALL[::2], SMALL[1::2], strict=True)), "--log-every": 1, "--out": "my run"}
    done = minitx("train", verses, *[word for pair in flags.items() for word in pair])
    assert done.code == 130
    monkeypatch.undo()
    monkeypatch.chdir(inside)
    fix = re.search(r"Go on with: (minitx .*)", done.err)[1]
    printed = commands(done.out)
    assert shlex.split(fix)[1:] == printed[0]
    for words in printed:
        done = minitx(*words)
        assert done.code == 0, (words, done.err)
    done = minitx("resume", "my run")
    assert done.code == 2
    more = re.search(r"--steps \d+", done.err)[0]
    assert minitx("resume", "my run", *more.split()).code == 0
    older = sorted((inside / "my run/checkpoints").iterdir())[0]
    done = minitx("resume", older)
    assert done.code == 2
    again = shlex.split(re.search(r"Name the run: minitx (.*)", done.err)[1])
    assert minitx(*again, "--steps", 30).code == 0
