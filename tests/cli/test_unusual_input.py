"""Input that nobody gives on purpose: each is one line of error, or a true answer."""

import re
import shutil

import pytest

GENERATE = ["generate", "--prompt", "1", "--max-new-tokens", 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*GENERATE, "--logit-bias", "3:nan"], "logit_bias is {3: nan}"),
        ([*GENERATE, "--logit-bias", "3:inf"], "logit_bias is {3: inf}"),
        ([*GENERATE, "--logit-bias", "3:1e300"], "logit_bias is {3: 1e+300}"),
        ([*GENERATE, "--logit-bias", "3:1e30"], "numbers of at most a million"),
        ([*GENERATE, "--logit-bias", "3:-1e300"], "logit_bias is {3: -1e+300}"),
        ([*GENERATE, "--ban", "ree", "--require", "green"], "'green' is required, and 'ree' is"),
        (["profile", "--steps", 1, "--dtype", "float64"], "dtype is 'float64'. Choose one of auto"),
        (["eval", "/dev/zero"], "/dev/zero is a device. Name a text file"),
    ],
)
def test_it_is_refused(minitx, tiny_run, arguments, words):
    command, *rest = arguments
    done = minitx(command, tiny_run, *rest)
    assert (done.code, done.out) == (2, ""), done
    (line,) = done.err.splitlines()
    assert words in line


@pytest.mark.parametrize("bias", ["3:-inf", "3:-1e30", "3:1e6"])
def test_a_bias_that_forbids_or_forces_is_taken(minitx, tiny_run, bias):
    done = minitx("generate", tiny_run, *GENERATE[1:], "--logit-bias", bias, "--temperature", 1e-30)
    assert done.code == 0, done
    assert re.match(r"run \S*verses-001, step 120 ", done.err)


def test_a_damaged_holdout_is_named(minitx, tiny_run, inside):
    shutil.copytree(tiny_run, inside / "run")
    (inside / "run/data/holdout.txt").write_bytes(b"\xff\xfe")
    for flags in ([], ["--prompt", "1 green"]):
        done = minitx("attn", "run", *flags)
        assert (done.code, done.out) == (3, ""), done
        assert "run/data/holdout.txt can't be used" in done.err.splitlines()[-1]
    done = minitx("report", "run", "--no-eval")
    assert done.code == 0, done
    page = (inside / "run/report.html").read_text()
    assert "run/data/holdout.txt can&#39;t be used" in page


def test_a_link_to_itself_is_no_text(minitx, inside):
    (inside / "loop").symlink_to("loop")
    done = minitx("train", "loop", "--steps", 2)
    assert (done.code, done.err) == (2, "error: corpus loop does not exist. Name a text file\n")


def test_a_name_in_what_was_written_can_not_command_the_terminal(minitx, tiny_run, inside):
    done = minitx("attn", tiny_run, "--npz", "a\x1b[2J\nb.npz")
    assert done.code == 0
    assert "\x1b" not in done.err
    assert len(done.err.splitlines()) == 2
