"""Ctrl-C, a closed terminal, a reader that goes away, a full disk: on real terminals and pipes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("pty")

LONG = ["--max-new-tokens", "1000000"]
STOPPED = "error: stopped by Ctrl-C"


class OnTerminal:
    """A minitx process whose terminal is a pty of this size; what it prints is kept."""

    def __init__(self, *arguments, width=80, cwd=None):
        import fcntl
        import struct
        import termios

        self.keys, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))

        def own_terminal():
            """Keys become signals, which whoever runs the tests may have ignored."""
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "minitx", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=own_terminal,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"},
        )
        os.close(theirs)
        self.shown = ""

    def wait_for(self, pattern):
        while not re.search(pattern, re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", self.shown)):
            self._read()

    def press(self, keys):
        os.write(self.keys, keys)

    def end(self):
        """Exit code, once all is read."""
        with contextlib.suppress(OSError):  # EIO: nobody holds the terminal any more
            while True:
                self._read()
        return self.process.wait(60)

    def hang_up(self):
        os.close(self.keys)
        return self.process.wait(60)

    def _read(self):
        piece = os.read(self.keys, 65536)
        if not piece:
            raise OSError("the terminal ended")
        self.shown += piece.decode(errors="replace")

    def require_clean(self):
        assert "Traceback" not in self.shown
        assert self.shown.rfind("\x1b[?25l") <= self.shown.rfind("\x1b[?25h")
        assert self.shown.endswith("\n")


@pytest.fixture
def on_terminal():
    started = []

    def start(*arguments, **named):
        started.append(OnTerminal(*arguments, **named))
        watch = threading.Timer(60, started[-1].process.kill)
        watch.start()
        started.append(watch)
        return started[-2]

    yield start
    for one in started:
        if isinstance(one, OnTerminal):
            one.process.kill()
            one.process.wait()
        else:
            one.cancel()


@pytest.mark.parametrize("width", [80, 200])
def test_interrupt_in_streamed_text_ends_its_line(on_terminal, tiny_run, width):
    terminal = on_terminal("generate", tiny_run, "--prompt", "1 green", *LONG, width=width)
    terminal.wait_for(r"(?s)1 green.{300}")
    terminal.press(b"\x03")
    assert terminal.end() == 130
    terminal.require_clean()
    assert terminal.shown.splitlines()[-1].startswith(STOPPED)


@pytest.mark.parametrize("width", [80, 200])
def test_interrupt_in_an_evaluation_wipes_its_bar(on_terminal, tiny_run, inside, verses, width):
    (inside / "long.txt").write_text(verses.read_text() * 400)
    terminal = on_terminal("eval", tiny_run, "long.txt", width=width, cwd=inside)
    terminal.wait_for("scoring")
    terminal.press(b"\x03")
    assert terminal.end() == 130
    terminal.require_clean()
    assert terminal.shown.splitlines()[-1].startswith(STOPPED)
    assert "\x1b[2K" in terminal.shown.rpartition("scoring")[2]


@pytest.mark.parametrize(
    ("arguments", "doing"),
    [(["attn", "--check-mask"], "looking into the model"), (["diagnose"], "the last checkpoint")],
)
def test_what_takes_long_shows_that_it_works(on_terminal, tiny_run, arguments, doing):
    terminal = on_terminal(arguments[0], tiny_run, *arguments[1:])
    terminal.wait_for(doing)
    assert terminal.end() == 0
    terminal.require_clean()
    assert "\x1b[2K" in terminal.shown.rpartition(doing)[2]


def test_interrupt_in_a_conversation_ends_only_the_answer(on_terminal, tiny_run):
    terminal = on_terminal("generate", tiny_run, "--interactive", *LONG)
    terminal.wait_for("> $")
    terminal.press(b"1 green\n")
    terminal.wait_for(r"(?s)1 green\r?\n.{300}")
    terminal.press(b"\x03")
    terminal.wait_for(r"(?s)\^C.*> $")
    terminal.press(b"\x04")
    assert terminal.end() == 0
    terminal.require_clean()


def test_training_outlives_its_terminal_long_enough_to_save(
    on_terminal, minitx_process, inside, verses
):
    flags = ["--layers", 1, "--heads", 2, "--d-model", 16, "--context", 16, "--batch-size", 2,
             "--dtype", "float32", "--threads", 1, "--out", "run"]  # fmt: skip
    terminal = on_terminal("train", verses, *flags, "--steps", 1_000_000, cwd=inside)
    terminal.wait_for(r"step +[1-9]")
    assert terminal.hang_up() == 143
    last = json.loads((inside / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["reason"]) == ("end", "interrupted")
    done = minitx_process("resume", "run", "--steps", last["step"] + 2, cwd=inside)
    assert done.code == 0, done.err
    assert f"finished at step {last['step'] + 2}" in done.out


INTERRUPTED_IMPORT = """
import os, signal, sys
from minitx.__main__ import main

handlers = {"heed": signal.default_int_handler, "ignore": signal.SIG_IGN}
signal.signal(signal.SIGINT, handlers[sys.argv.pop(1)])
interrupted = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path, target=None):
        if name == interrupted:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass  # as torch does while it imports NumPy

sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize("module", ["typer", "torch", "numpy"])
def test_interrupt_while_a_module_is_imported_is_never_lost(tiny_run, module):
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "heed", module, "generate", tiny_run,
               "--prompt", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{STOPPED}\n")


def test_interrupts_that_are_ignored_stay_so(tiny_run):
    """As for a background job of a shell."""
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "ignore", "torch", "generate", tiny_run,
               "--prompt", "1", "--max-new-tokens", "3"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert re.fullmatch(r"run \S*verses-001, step 120 .*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "RUN", "--prompt", "1"],
        ["attn", "RUN"],
        ["eval", "RUN", "--quick"],
        ["eval", "RUN", "--quick", "--json"],
        ["diagnose", "RUN"],
        ["tokenize", "--tokenizer", "RUN", "--text", "1 green"],
    ],
)
@pytest.mark.parametrize("out", ["nobody reads", "disk is full"])
def test_output_that_nothing_takes(tiny_run, arguments, out):
    if out == "disk is full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    if out == "disk is full":
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        read, stream = os.pipe()
        os.close(read)
    named = [str(tiny_run) if one == "RUN" else one for one in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "minitx", *named],
        stdout=stream, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(stream)
    if out == "nobody reads":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 2
        assert done.stderr == (
            "error: output can't be written (No space left on device). Make room, or write "
            "elsewhere\n"
        )


def test_exit_code_tells_where_the_terminal_is_gone(inside):
    ours, theirs = os.openpty()
    os.close(ours)
    command = [sys.executable, "-m", "minitx", "train", "gone.txt"]
    done = subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60, cwd=inside)
    os.close(theirs)
    assert done.returncode == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory_that_ran_out_is_told_in_one_line(minitx, tiny_run, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("minitx.workflows.load.load", fail)
    done = minitx("generate", tiny_run, "--prompt", "1")
    assert done.code == 2
    assert done.err.startswith("error: memory ran out. Lower --batch-size")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError(13, "Permission denied")])
def test_defect_keeps_its_traceback(minitx, tiny_run, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("minitx.workflows.load.load", fail)
    with pytest.raises(type(error), match=str(error.args[-1])):
        minitx("generate", tiny_run, "--prompt", "1")


def test_ctrl_c_while_signals_are_pythons_own(minitx, tiny_run, monkeypatch):
    def stop(*_):
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        finally:
            signal.signal(signal.SIGINT, previous)

    monkeypatch.setattr("minitx.workflows.load.load", stop)
    done = minitx("generate", tiny_run, "--prompt", "1")
    assert done.code == 130
    assert done.err == f"{STOPPED}. What was saved before is whole\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_at_the_start_is_no_fault(tiny_run, closed):
    command = f"{sys.executable} -m minitx generate {tiny_run} --prompt '1 green' {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
