"""The commands as a person runs them."""

import contextlib
import io
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from rich.console import Console

from minitx import __version__
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.config import SamplingConfig
from minitx.report.generation_screen import probability_table
from minitx.workflows.load import load, used_checkpoint

SMALL = ["--layers", 1, "--heads", 2, "--d-model", 16, "--context", 16, "--batch-size", 2,
         "--steps", 6, "--dtype", "float32", "--threads", 1, "--evaluate-every", 3]  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


def test_train_then_all_the_others_with_no_name_given(minitx, inside, verses):
    """From nothing to samples, perplexity and attention; the newest run is meant throughout."""
    done = minitx("train", verses, *SMALL)
    assert done.code == 0, done.err
    assert "finished at step 6" in done.out
    assert "minitx generate runs/verses-001" in done.out
    assert (inside / "runs/verses-001/metrics.jsonl").is_file()
    done = minitx("generate", "--prompt", "10 green", "--top-k", 5, "--max-new-tokens", 20)
    assert done.out.startswith("10 green")
    done = minitx("eval", "--holdout")
    assert "perplexity" in done.out
    assert "bits per byte" in done.out
    assert "previous" in minitx("attn", "--roles").out.lower()
    assert minitx("attn", "--check-mask").code == 0
    done = minitx("resume", "--steps", 8)
    assert "finished at step 8" in done.out
    done = minitx("tokenize", "--text", "10 green")
    assert "exact" in done.out


def test_train_on_the_embedded_default(minitx, inside):
    done = minitx("train", *SMALL)
    assert done.code == 0, done.err
    assert "embedded default" in done.out
    assert (inside / "runs/python-reference-001").is_dir()


def test_train_from_a_pipe_and_resume_without_it(minitx, inside, verses):
    done = minitx("train", "-", *SMALL, stdin=verses.read_bytes()[:6000])
    assert done.code == 0, done.err
    assert minitx("resume", "--steps", 7).code == 0
    assert (inside / "runs/stdin-001").is_dir()


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_train_with_other_tokenizers(minitx, verses, kind):
    vocabulary = ["--vocab-size", 300] if kind == "bpe" else []
    done = minitx("train", verses, *SMALL, "--kind", kind, *vocabulary)
    assert done.code == 0, done.err
    assert f"{kind}, " in done.out


def test_train_with_a_tokenizer_made_before(minitx, verses):
    assert (
        minitx("tokenize", verses, "--kind", "bpe", "--vocab-size", 280, "--out", "mine").code == 0
    )
    done = minitx("train", verses, *SMALL, "--tokenizer", "mine")
    assert "bpe, 280 ids" in done.out
    assert "from mine" in done.out
    refused = minitx("train", verses, *SMALL, "--tokenizer", "mine", "--kind", "char")
    assert refused.code == 2


def test_train_with_gpt2_adamw_and_a_config_file(minitx, inside, verses):
    (inside / "mine.toml").write_text(
        '[model]\narchitecture = "gpt2"\n[train]\noptimizer = "adamw"\nsteps = 3\nseed = 5\n'
    )
    done = minitx("train", verses, *SMALL, "--config", "mine.toml", "--steps", 4)
    assert done.code == 0, done.err
    text = (inside / "runs/verses-001/run.toml").read_text()
    assert 'architecture = "gpt2"' in text
    assert 'optimizer = "adamw"' in text
    assert "steps = 4" in text  # the flag wins
    assert "seed = 5" in text


def test_early_stopping_stops(minitx, inside, verses):
    keys = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    keys |= {"--steps": 400, "--evaluate-every": 2, "--early-stopping": 2, "--learning-rate": 0.3,
             "--muon-learning-rate": 1.5}  # fmt: skip
    done = minitx("train", verses, *[part for pair in keys.items() for part in pair])
    assert done.code == 0, done.err
    assert "stopped early" in done.out


def test_loss_that_is_no_number_stops_with_its_own_code(minitx, verses):
    flags = ["--learning-rate", 1000, "--grad-clip", 0, "--optimizer", "adamw", "--steps", 200,
             "--weight-decay", 900]  # fmt: skip
    done = minitx("train", verses, *SMALL, *flags)
    assert done.code == 4, done.err
    assert re.search(r"error: the (loss|gradient norm) of step \d+ is (nan|inf)", done.err)
    assert "--learning-rate" in done.err


def test_budget_ends_about_on_time(minitx, verses):
    keys = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    del keys["--steps"]
    began = time.monotonic()
    done = minitx("train", verses, *[p for pair in keys.items() for p in pair], "--budget", "3s",
                  "--max-steps", "0")  # fmt: skip
    assert done.code == 0, done.err
    assert 1.5 < time.monotonic() - began < 8
    assert "steps-settled" in done.out


# generate


def test_generate_streams_samples_and_json(minitx, tiny_run):
    one = minitx("generate", tiny_run, "--prompt", "1 green", "--seed", 3)
    again = minitx("generate", tiny_run, "--prompt", "1 green", "--seed", 3)
    assert one.out == again.out
    assert one.out != minitx("generate", tiny_run, "--prompt", "1 green", "--seed", 4).out
    several = minitx("generate", tiny_run, "--prompt", "1", "--num-samples", 3).out
    assert "sample 3 of 3" in several
    flags = ["--max-new-tokens", 4, "--num-samples", 2]
    lines = minitx("generate", tiny_run, "--prompt", "1 green", "--json", *flags).out.splitlines()
    values = [json.loads(line) for line in lines]
    assert [value["sample"] for value in values] == [0, 1]
    assert len(values[0]["log_probabilities"]) == len(values[0]["ids"]) == 4
    assert values[0]["timing"]["seconds"] > 0


def test_generate_from_a_pipe(minitx, tiny_run):
    done = minitx("generate", tiny_run, "--max-new-tokens", 3, stdin="2 green")
    assert done.out.startswith("2 green")


def test_generate_from_files(minitx, inside, tiny_run):
    (inside / "p.jsonl").write_text('{"prompt": "1 green"}\n\n{"prompt": "2"}\n')
    done = minitx("generate", tiny_run, "--prompt-file", "p.jsonl", "--max-new-tokens", 3)
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["1 green", "2"]
    (inside / "p.txt").write_text("3 green")
    done = minitx("generate", tiny_run, "--prompt-file", "p.txt", "--max-new-tokens", 3)
    assert done.out.startswith("3 green")


def test_a_byte_order_mark_is_no_part_of_a_prompt(minitx, inside, tiny_run):
    mark, flags = b"\xef\xbb\xbf", ["--max-new-tokens", 3, "--json"]
    (inside / "p.txt").write_bytes(mark + b"3 green")
    done = minitx("generate", tiny_run, "--prompt-file", "p.txt", *flags)
    assert json.loads(done.out)["prompt"] == "3 green"
    done = minitx("generate", tiny_run, *flags, stdin="\ufeff3 green")
    assert json.loads(done.out)["prompt"] == "3 green"
    lines = '{"prompt": "1 green", "note": "\u2028 \x85"}\r\n{"prompt": "2"}\n'
    (inside / "p.jsonl").write_bytes(mark + lines.encode())
    done = minitx("generate", tiny_run, "--prompt-file", "p.jsonl", *flags)
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["1 green", "2"]
    (inside / "p.txt").write_bytes(mark + b"3 \xff")
    done = minitx("generate", tiny_run, "--prompt-file", "p.txt", *flags)
    assert done.code == 2
    assert "byte 5 is 0xff" in done.err


def test_generate_beams_and_probabilities(minitx, tiny_run):
    flags = ["--prompt", "1 green", "--max-new-tokens", 5]
    done = minitx("generate", tiny_run, *flags, "--beams", 2)
    assert "beam 2" in done.out
    done = minitx("generate", tiny_run, *flags, "--beams", 2, "--json")
    assert [json.loads(line)["rank"] for line in done.out.splitlines()] == [0, 1]
    done = minitx("generate", tiny_run, *flags, "--show-probs", "--num-samples", 2)
    assert "entropy" in done.out
    assert "sample 2 of 2" in done.out


def test_beams_of_every_prompt(minitx, inside, tiny_run):
    (inside / "p.jsonl").write_text('{"prompt": "1 green"}\n{"prompt": "2"}\n')
    flags = ["--prompt-file", "p.jsonl", "--max-new-tokens", 3, "--beams", 2]
    lines = [json.loads(line) for line in minitx("generate", tiny_run, *flags).out.splitlines()]
    expected = [("1 green", 0), ("1 green", 1), ("2", 0), ("2", 1)]
    assert [(line["prompt"], line["rank"]) for line in lines] == expected


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--interactive", "--json"], "--json"),
        (["--prompt", "1", "--beams", "2", "--num-samples", "2"], "--beams"),
        (["--prompt", "1", "--beams", "2", "--show-probs"], "--beams"),
        (["--interactive", "--beams", "2"], "--beams"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(minitx, tiny_run, flags, named):
    done = minitx("generate", tiny_run, *flags)
    assert (done.code, done.out) == (2, "")
    assert named in done.err


def test_progress_is_told_and_then_wiped(minitx, inside, tiny_run, monkeypatch):
    (inside / "p.jsonl").write_text('{"prompt": "1 green"}\n' * 3)
    monkeypatch.setattr("minitx.report.generation_screen._PROGRESS_SECONDS", -1.0)
    flags = ["--prompt-file", "p.jsonl", "--max-new-tokens", 3]
    assert len(minitx("generate", tiny_run, *flags).err.splitlines()) == 1
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    done = minitx("generate", tiny_run, *flags)
    assert "2 of 3, " in done.err
    assert re.search(r"\r\x1b\[Krun \S*verses-001, step 120 .*\n\Z", done.err)
    assert len(done.out.splitlines()) == 3


@pytest.mark.parametrize("width", [60, 75, 80, 200])
def test_probability_table_fits_and_cuts_no_heading(width, tiny_run):
    # As `GenerationScreen` prints it, where nothing that is too wide is cut off.
    console = Console(width=width, file=io.StringIO(), highlight=False, soft_wrap=True)
    model = load(tiny_run)
    settings = SamplingConfig(max_new_tokens=8)
    one = model.sample(["1 green"], settings, record_probabilities=True)[0]
    console.print(probability_table(one, model.tokenizer, width))
    lines = console.file.getvalue().splitlines()
    for word in ("token", "probability", "drawn", "with", "entropy,", "bits", "perplexity"):
        assert word in " ".join(lines[:2]).split()
    assert ("likeliest" in lines[1]) == (width >= 75)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("colours", ["some", "none"])
def test_colours_are_explained_where_there_are_any(minitx, tiny_run, monkeypatch, colours):
    monkeypatch.setenv("FORCE_COLOR" if colours == "some" else "NO_COLOR", "1")
    flags = ["--prompt", "1", "--max-new-tokens", 4, "--show-probs"]
    shown = minitx("generate", tiny_run, *flags).out
    assert ("below 1 %" in shown) == ("\x1b[3" in shown) == (colours == "some")
    assert "perplexity" in shown


def test_generate_interactively(minitx, tiny_run, monkeypatch):
    typed = ("1 green|/help|/settings|/top-k 3|/top-k off|/temperature 0|/probs|2 green|"
             "/nonsense 3|/seed x|/top-k 0||/seed|/temprature 1|/num-samples 7|/quit")  # fmt: skip
    lines = iter(typed.split("|"))
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    done = minitx("generate", tiny_run, "--interactive", "--max-new-tokens", 5)
    assert done.code == 0
    assert "1 green" in done.out
    assert "entropy" in done.out
    assert "there is no setting /nonsense" in done.out
    assert "/seed is 'x'" in done.out
    assert "top_k is 0, outside 1 to 16,777,216" in " ".join(done.out.split())
    assert "/temperature 0.8" in done.out
    # What a setting is now, asked for or changed.
    assert {"/top-k 3", "/top-k off", "/seed 1337", "/num-samples 7"} <= set(done.out.splitlines())
    assert "Did you mean /temperature" in done.out


@pytest.mark.parametrize("width", [40, 80])
def test_lines_of_a_conversation_break_between_words(minitx, tiny_run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = iter(["/top-k 0", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    shown = minitx("generate", tiny_run, "-i").out
    error, help_text = shown.split("error: ")[1].split("Write a text", maxsplit=1)
    assert all(len(line) <= width for line in error.splitlines())
    assert (len(error.splitlines()) == 1) == (width == 80)
    assert max(map(len, help_text.splitlines())) <= 80


def test_a_conversation_that_begins_with_probabilities(minitx, tiny_run, monkeypatch):
    lines = iter(["1 green", "/probs", "2 green", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    shown = minitx("generate", tiny_run, "-i", "--show-probs", "--max-new-tokens", 5).out
    with_table, without = shown.split("2 green")
    assert "1 green" in with_table
    assert "perplexity" in with_table
    assert "perplexity" not in without


def test_history_and_keys_of_a_conversation(tiny_run):
    """In a terminal: the arrow brings a line back, Ctrl-C ends a text, Ctrl-D the conversation."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("readline")
    terminal, theirs = pty.openpty()
    # Ctrl-C is for whom the terminal belongs to.
    code = (
        # A shell has Ctrl-C ignored in what it runs in the background.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "runpy.run_module('minitx', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "generate", str(tiny_run), "--interactive"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)

    def read_until(pattern, press=b""):
        os.write(terminal, press)
        shown, stop = b"", time.monotonic() + 60
        while not re.search(pattern, shown, re.DOTALL):
            assert time.monotonic() < stop, f"no {pattern!r} in {shown[-2000:]!r}"
            if select.select([terminal], [], [], 1.0)[0]:
                shown += os.read(terminal, 4096)
            elif press == b"\x03":
                # Python's input() misses a Ctrl-C between two of its waits; a person presses again.
                os.write(terminal, press)

    try:
        read_until(rb"> ")
        read_until(rb"\n/max-new-tokens 1000000\r\n.*> ", press=b"/max-new-tokens 1000000\n")
        read_until(rb"\n.*1 green", press=b"1 green\n")
        read_until(rb"\n.*> ", press=b"\x03")
        # The line before the last one.
        read_until(rb"/max-new-tokens 1000000", press=b"\x1b[A\x1b[A")
        read_until(rb"> ", press=b"\x03")
        with contextlib.suppress(OSError):  # it has closed its end of the terminal
            read_until(rb"(?!)", press=b"\x04")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_conversation_ends_cleanly(minitx, tiny_run, monkeypatch, end):
    calls = []

    def read(_):
        calls.append(None)
        raise end if len(calls) == 1 else EOFError

    monkeypatch.setattr("builtins.input", read)
    assert minitx("generate", tiny_run, "-i").code == 0


def test_words_that_people_type_in_a_conversation(minitx, tiny_run, monkeypatch):
    lines = iter(["/set temperature 0.2", "/set top-k=3", "/seed = 4", " /set", "quit", "1"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    done = minitx("generate", tiny_run, "-i", "--max-new-tokens", 5)
    assert done.code == 0
    assert "error" not in done.out
    assert {"/temperature 0.2", "/top-k 3", "/seed 4"} <= set(done.out.splitlines())
    assert next(lines) == "1"
    lines = iter(["exit", "1"])
    assert minitx("generate", tiny_run, "-i").code == 0
    assert next(lines) == "1"


@pytest.mark.parametrize("command", ["generate", "attn"])
@pytest.mark.parametrize("text", ["1 green", "green.", "1 green bottle", "green"])
def test_a_text_in_place_of_a_run_is_taken_for_a_prompt(minitx, inside, tiny_run, text, command):
    done = minitx(command, text)
    assert (done.code, done.out) == (2, "")
    assert re.match(f"error: (there is no run '{text}'|{text} does not exist)\\. ", done.err)
    assert "if it is a text, write --prompt" in done.err.lower()
    fix = shlex.split(done.err.rpartition("write ")[2])
    used = minitx(command, tiny_run, *fix)
    assert used.code == 0
    assert command == "attn" or used.out.startswith(text)


def test_a_guess_ends_as_a_question(minitx):
    done = minitx("generat")
    assert done.code == 2
    assert "Did you mean 'generate'? See minitx --help\n" in done.err


# Which checkpoint

USED = r"run \S*verses-001, step 120 \(best; last\)"


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "1", "--max-new-tokens", 3],
        ["generate", "--prompt", "1", "--max-new-tokens", 3, "--json"],
        ["generate", "--prompt", "1", "--max-new-tokens", 3, "--show-probs"],
        ["generate", "--prompt", "1", "--max-new-tokens", 3, "--num-samples", 2],
        ["generate", "--prompt", "1", "--max-new-tokens", 3, "--beams", 2],
        ["eval", "--quick", "--json"],
        ["attn", "--prompt", "1 green", "--json"],
        ["diagnose", "--json"],
        ["profile", "--steps", 1, "--json"],
        ["report", "--no-attn", "--max-tokens", 64, "--out", "page.html"],
    ],
    ids=lambda words: " ".join(map(str, words[:1] + words[-2:])),
)
def test_every_command_names_the_checkpoint_that_it_used(minitx, inside, tiny_run, command):
    done = minitx(command[0], tiny_run, *command[1:])
    assert done.code == 0
    assert [bool(re.match(USED, line)) for line in done.err.splitlines()].count(True) == 1


def test_what_is_said_of_a_checkpoint(inside, tiny_run, monkeypatch):
    run = shutil.copytree(tiny_run, inside / "verses-001")
    first = RunDirectory(run).steps()[0]
    assert first < 120
    monkeypatch.setattr(RunDirectory, "noted_best", lambda self: first)
    best, last = resolve_checkpoint(run), resolve_checkpoint(run, "last")
    assert used_checkpoint(best) == f"run verses-001, step {first} (best)"
    assert f"step 120 (last; the best, step {first}, is kept)" in used_checkpoint(last)
    shutil.rmtree(best)
    taken = used_checkpoint(resolve_checkpoint(run))
    assert f"step 120 (last; the best, step {first}, is missing)" in taken
    model = shutil.copytree(last, inside / "elsewhere")
    assert used_checkpoint(model) == f"model {model}"


@pytest.mark.skipif(sys.platform == "win32", reason="no process ids there")
def test_a_run_that_is_still_training_is_named_as_that(minitx, inside, tiny_run):
    run = shutil.copytree(tiny_run, inside / "verses-001")
    code = "import sys; from pathlib import Path; from minitx.checkpoint.lock import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    flags = ["--prompt", "1", "--max-new-tokens", 3]
    with subprocess.Popen(
        [sys.executable, "-c", code, run / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as trainer:
        assert trainer.stdout.readline()
        assert "(best; last; still training)" in minitx("generate", run, *flags).err
    assert "(best; last)" in minitx("generate", run, *flags).err


# report


def test_report_writes_where_it_says(minitx, inside, tiny_run):
    done = minitx("report", tiny_run, "--no-eval", "--no-attn", "--out", "page.html")
    assert (done.code, done.out, done.err) == (0, "", "Wrote page.html\n")
    page = (inside / "page.html").read_text(encoding="utf-8")
    assert "Left out: --no-eval was given." in page
    assert "Left out: --no-attn was given." in page
    done = minitx("report", tiny_run, tiny_run)
    assert done.code == 2
    assert "is named twice" in done.err


# eval


def test_eval_as_json_and_on_files(minitx, inside, verses, tiny_run, tiny_gpt2_run):
    values = json.loads(minitx("eval", tiny_run, "--json").out)
    assert values
    assert json.loads(minitx("eval", tiny_run, "--json", "--full").out) == values
    short, full = (minitx("eval", tiny_run, *flags).out for flags in ([], ["--full"]))
    assert len(short.splitlines()) < 45 < 60 < len(full.splitlines())
    verdict = values["reports"][0]["verdict"]["fit"].capitalize()
    for shown in (short, full, minitx("eval", tiny_run, "--quick").out):
        assert f"{verdict}: holdout loss" in " ".join(shown.split())
    assert "stride 8" in minitx("eval", tiny_run, "--stride", 8).out
    assert "stride" not in short


# tokenize


def test_tokenize_shows_saves_and_comes_back(minitx, inside, verses):
    done = minitx("tokenize", verses, "--kind", "word", "--out", "words")
    assert done.code == 0, done.err
    assert "train part" in done.out
    assert "words/tokenizer.json" in done.err
    done = minitx("tokenize", "--tokenizer", "words", "--text", "green bottles", "--json")
    values = json.loads(done.out)
    assert "".join(values["pieces"]) == "green bottles"
    ids = " ".join(map(str, values["parts"]["text"]["ids"]))
    assert (
        minitx("tokenize", "--tokenizer", "words", "--decode", ids).out.strip() == "green bottles"
    )
    back = minitx("tokenize", "--tokenizer", "words", "--decode", "-", "--json", stdin=ids)
    assert json.loads(back.out)["text"] == "green bottles"


def test_tokenize_files_and_pipes(minitx, verses, tiny_gpt2_run):
    done = minitx("tokenize", verses, "--tokenizer", tiny_gpt2_run)
    assert "bytes per token" in done.out
    done = minitx("tokenize", "--tokenizer", tiny_gpt2_run, "--show", 4, stdin="green \U0001f600")
    assert "more tokens" in done.out


def test_same_corpus_same_tokenizer_file(minitx, inside, verses):
    for name in ("one", "two"):
        minitx("tokenize", verses, "--kind", "bpe", "--vocab-size", 300, "--out", name)
    assert (inside / "one/tokenizer.json").read_bytes() == (
        inside / "two/tokenizer.json"
    ).read_bytes()


# The program


def test_help_needs_no_torch_and_names_all_commands(minitx_process):
    code = "import sys; from minitx.cli import app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    done = minitx_process("--help")
    for name in ("tokenize", "train", "resume", "generate", "eval", "attn", "report"):
        assert name in done.out
    assert minitx_process("--version").out == f"minitx {__version__}\n"


@pytest.mark.parametrize(
    "name", ["tokenize", "train", "resume", "generate", "eval", "attn", "report"]
)
def test_help_of_each_command_fits_80_columns(minitx, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = minitx(name, "--help")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80


def test_no_traceback_when_the_reader_goes_away(tiny_run):
    command = f"{sys.executable} -m minitx generate {tiny_run} --prompt 1 | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_errors_are_one_line_on_stderr_in_a_real_process(minitx_process, inside):
    done = minitx_process("train", "gone.txt", cwd=inside)
    assert done.code == 2
    assert done.err.splitlines()[-1] == ("error: corpus gone.txt does not exist. Name a text file")
    assert "Traceback" not in done.err


def test_first_interrupt_saves_and_the_run_goes_on(inside, verses):
    import signal

    flags = [str(flag) for flag in SMALL]
    flags[flags.index("--steps") + 1] = "100000"
    process = subprocess.Popen(
        [sys.executable, "-m", "minitx", "train", str(verses), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=inside,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "which is saved" in err
    assert "minitx resume runs/verses-001" in err
    assert "Traceback" not in err
