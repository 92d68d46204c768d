"""What a learner's code may do, and what is said of it; never a traceback of ours."""

import re

import pytest

from minitx.learn.exercise import read_exercise
from minitx.learn.judge import Judge, early_verdict

HEAD = "import torch\nfrom torch import nn\n"
EMBED = HEAD + "def one_hot(ids, n):\n    return nn.functional.one_hot(ids, n).float()\n"


def says(body):
    return (
        EMBED + "def embed(ids, table):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("table[ids]", "returns nothing. Is the `return` missing?"),
        ("return 3", "shape is (), and should be (2, 5, 6)"),
        ("return 'rows'", "returns text, and should return a tensor of shape (2, 5, 6)"),
        ("return table[ids].tolist()", "returns a list, and should return a tensor"),
        ("return table[ids].transpose(0, 1)", "Two axes are swapped"),
        ("return table[ids].flatten()", "All numbers are there, in another shape"),
        ("return table[ids].long()", "dtype is int64, and should be float32"),
        ("return table[ids] / 0 * 0", "Element [0, 0, 0] is NaN, 60 of 60 numbers are"),
        ("return table[ids] / 0", "is infinite"),
        ("return table[ids] * 3", "All numbers are 3 times what they should be"),
        ("return table[ids] + 1", "All numbers are 1 too large"),
        ("return table[ids].flip(-1)", "The order along axis -1 is reversed"),
        ("return table[ids].roll(1, 1)", "Along axis -2 all is one place too late"),
        ("table += 1\nreturn table[ids]", "writes into what it is given"),
        ("return table[ids] + torch.rand(1)", "Element"),
        ("raise ValueError('a\\nb')", "It raises ValueError: a b."),
        ("raise ValueError('a.')", "It raises ValueError: a."),
        ("raise SystemExit", "It ends the program"),
        ("return embed(ids, table)", "calls itself without end"),
        ("return no_such[ids]", "It raises NameError: name 'no_such' is not defined"),
        ("import no_such", "It imports `no_such`, which is not there"),
        ("raise NotImplementedError", "not filled in yet"),
        ("return torch.zeros(2**50)", "more memory than there is"),
        ("return input()", "It asks for input"),
        ("torch.set_grad_enabled(False)\nreturn table[ids]", "switches gradients off"),
        ("torch.set_default_dtype(torch.float64)\nreturn table[ids]", "default dtype"),
        (
            "global one_hot\nold, one_hot = one_hot, lambda *a: old(*a) * 2\nreturn table[ids]",
            "something else when it is called again",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(body, words, judged, monkeypatch):
    import io
    import sys

    import torch

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    try:
        verdict = judged("embed_tokens", says(body))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    assert not verdict["passed"]
    assert words in verdict["what"]
    assert "\n" not in verdict["what"]


def test_the_line_of_an_exception_is_the_learners(judged):
    verdict = judged("embed_tokens", says("x = 1\nreturn torch.cat(x)"))
    assert (verdict["file"], verdict["line"]) == ("embed_tokens.py", 7)
    assert "embed(ids, table)" in verdict["where"]
    # In an earlier file of theirs, too.
    broken = "from count_pairs import merge\ndef encode(a, b):\n    return merge(1, 2, 3)\n"
    verdict = judged("encode_text", broken + "def decode(a, b):\n    return ''\n")
    assert (verdict["file"], verdict["line"]) != ("encode_text.py", 3)
    assert verdict["file"] == "count_pairs.py"


def test_what_is_no_longer_there_is_named(judged):
    assert "no `embed` in it" in judged("embed_tokens", EMBED)["what"]


def test_two_slips_at_once_are_both_named(judged):
    code = read_exercise("scaled_scores").code
    wrong = code.replace("queries @ keys.transpose(-2, -1) / math", "keys @ queries.mT * math")
    told = judged("scaled_scores", wrong)["what"]
    assert "changed places" in told
    assert "should divide" in told


def test_an_infinity_too_many_is_no_division_by_zero_where_some_are_wanted(judged):
    code = read_exercise("top_p").code
    verdict = judged("top_p", code.replace("before >= p", "before > p / 2"))
    assert re.search(r"Element \[\d, \d\] is -inf, and should be \d", verdict["what"]), verdict


def test_a_leak_that_no_slip_explains_is_seen(judged):
    code = read_exercise("one_head").code
    wrong = code.replace(
        "return weights @ values", "return weights @ values + 0.1 * values.mean(-2, True)"
    )
    assert "it looks at what comes later" in judged("one_head", wrong)["what"]


@pytest.fixture
def answer(solved, tmp_path):
    """Judge a text in a process of its own."""

    def judge(code, limit=10.0):
        file = tmp_path / "embed_tokens.py"
        file.write_bytes(code if isinstance(code, bytes) else code.encode())
        with Judge(read_exercise("embed_tokens"), limit) as judge:
            return judge.verdict(file)

    return judge


def test_a_right_answer_may_print(answer):
    verdict = answer(says("print('here', ids.shape)\nreturn table[ids]") + "\n#" + "x" * 10)
    assert verdict.passed
    assert verdict.printed.startswith("here torch.Size([2, 5])\n")


def test_a_loop_without_end_is_stopped_and_its_line_named(answer):
    body = "while True:\n    try:\n        torch.ones(2)\n    except BaseException:\n        pass"
    verdict = answer(says(body), limit=1.0)
    assert verdict.what == "It is not done after 1 seconds. Does a loop never end?"
    assert verdict.line in range(6, 11)


def test_output_without_end_fills_no_disk(answer):
    verdict = answer(says("while True:\n    print('x' * 10_000)"))
    assert not verdict.passed
    assert verdict.what in (
        "It prints or writes without end.",
        "It is not done after 10 seconds. Does a loop never end?",
    )
    assert len(verdict.printed) <= 2001


def test_code_that_fails_when_it_is_called_again_is_told(judged):
    body = "global embed\nkept, embed = embed, None\nreturn table[ids] * 2"
    assert not judged("embed_tokens", says(body))["passed"]


def test_leaving_the_process_is_no_answer(answer):
    verdict = answer(says("import os\nos._exit(0)"))
    assert not verdict.passed
    assert "ends the whole process" in verdict.what


def test_a_file_is_looked_at_before_it_runs(tmp_path):
    exercise = read_exercise("embed_tokens")
    file = tmp_path / "embed_tokens.py"
    file.write_text(exercise.gaps)
    verdict = early_verdict(file, exercise)
    assert verdict.empty
    assert verdict.what == "`one_hot` and `embed`: not yet filled in."
    file.write_text(says("pass"))
    assert early_verdict(file, exercise).what == "`embed`: not yet filled in."
    file.write_text(says("return (1"))
    assert early_verdict(file, exercise).line == 6
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in early_verdict(file, exercise).what
    file.write_bytes(b"a\0b")
    assert "can't read it" in early_verdict(file, exercise).what
    file.write_text(exercise.answer)
    assert early_verdict(file, exercise) is None
