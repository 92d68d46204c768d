"""The two views of training, fed with reports as the loop sends them."""

import dataclasses
import io
import math
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from minitx.config import DataConfig, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from minitx.report.training.training_live import LiveTrainingView
from minitx.report.training.training_report import (
    TrainingRecord,
    event_lines,
    latest_evaluations,
    sample_lines,
    spread_evaluations,
    summary_lines,
)
from minitx.report.training.training_screen import final_lines, training_screen
from minitx.report.training.training_view import PlainTrainingView, choose_view
from minitx.training.logging.metrics_file import MetricsFile
from minitx.training.observer import (
    CheckpointSaved,
    EvaluationReport,
    Event,
    Phase,
    RunEnd,
    RunStart,
    StepReport,
)

SAMPLE = "The crown is mine,\nand so the night.\n\nKING:\nWhat news?"
EVIL = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b31m [bold]kept[/bold]"
FIGURES = (
    "loss",
    "perplexity",
    "holdout loss",
    "holdout perplexity",
    "tokens/s",
    "gradient norm",
    "learning rate",
    "elapsed",
    "left",
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that keeps what a terminal of some size would show, scrollback included."""

    encoding = "utf-8"

    def __init__(self, height):
        super().__init__()
        self.height, self.lines, self.row, self.column = height, [""], 0, 0
        self.cursor_shown, self.frames_open, self.tallest_jump = True, 0, 0

    def isatty(self):
        return True

    def write(self, text):
        for code, character in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z])|(.|\n)", text):
            if code:
                self._control(code)
            elif character == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines.extend([""] * (self.row + 1 - len(self.lines)))
            elif character == "\r":
                self.column = 0
            else:
                line = self.lines[self.row].ljust(self.column)
                after = line[self.column + 1 :]
                self.lines[self.row] = line[: self.column] + character + after
                self.column += 1
        return super().write(text)

    def _control(self, code):
        top = max(0, len(self.lines) - self.height)
        if code.endswith("A"):
            self.tallest_jump = max(self.tallest_jump, len(self.lines) - 1 - self.row)
            self.row = max(top, self.row - int(code[2:-1] or 1))
        elif code == "\x1b[2K":
            self.lines[self.row] = ""
        elif code == "\x1b[H":
            self.row, self.column = top, 0
        elif code == "\x1b[2J":
            self.lines[top:] = [""] * (len(self.lines) - top)
        elif code in ("\x1b[?25l", "\x1b[?25h"):
            self.cursor_shown = code.endswith("h")
        elif code in ("\x1b[?2026h", "\x1b[?2026l"):
            self.frames_open += 1 if code.endswith("h") else -1
            assert self.frames_open in (0, 1)
        else:
            assert code.endswith("m"), f"unexpected control sequence {code!r}"

    def resize(self, width, height):
        """Fold lines that are too long, as terminals do."""
        self.height = height
        self.lines = [
            line[i : i + width] for line in self.lines for i in range(0, max(1, len(line)), width)
        ]
        self.row = len(self.lines) - 1

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines)


def start_report(first_step=0, run="runs/plays-0001", reasons=None):
    model = ModelConfig(65, 64, 4, 4, 4, 128, 512, 32)
    train = TrainConfig(steps=200, batch_size=12, learning_rate=1e-3, evaluate_every=50)
    return RunStart(
        run=Path(run),
        config=RunConfig(DataConfig(("plays.txt",)), TokenizerConfig(), model, train),
        reasons={"steps": "fits the budget"} if reasons is None else reasons,
        n_parameters=model.n_parameters,
        n_train_tokens=1_003_854,
        n_holdout_tokens=111_540,
        device="cpu (2 threads)",
        dtype="bfloat16",
        engine="native",
        first_step=first_step,
    )


def step_report(step, steps=200, loss=None, seconds_per_step=0.05):
    return StepReport(
        step=step,
        steps=steps,
        loss=1.5 + 2.5 * math.exp(-step / 50) if loss is None else loss,
        gradient_norm=0.61234,
        learning_rate=1e-3,
        tokens=768 * step,
        tokens_per_second=41_234.0,
        elapsed_seconds=step * seconds_per_step,
        seconds_left=(steps - step) * seconds_per_step,
    )


def evaluation(step, loss=2.0, best=True, sample=SAMPLE, prompt="ROMEO:\n"):
    return EvaluationReport(step, loss - 0.1, loss, loss / math.log(2), best, sample, prompt)


def spike(step):
    return Event(step, "loss-spike", "warning", "rose from 1.9 to 4.1", "lower --learning-rate")


def end_report(step=200, reason="finished"):
    return RunEnd(step, reason, 150, 1.7, 1.8, 72.0, 768 * step, 111_540)


def tell(view, last=200, clock=None, with_end=True, sample=SAMPLE):
    view.observe(Phase("measuring the rate"))
    view.observe(Phase(""))
    view.observe(start_report())
    for step in range(1, last + 1):
        if clock:
            clock.now += 0.05
        view.observe(step_report(step))
        if step in (60, 61):
            view.observe(spike(step))
        if step % 50 == 0:
            view.observe(Phase("evaluating the holdout"))
            view.observe(Phase(""))
            view.observe(evaluation(step, 2.2 - step / 1000, sample=sample))
            view.observe(CheckpointSaved(step, Path("runs/plays-0001/checkpoints")))
    if with_end:
        view.observe(end_report(last))
    view.close()


def live_view(width=80, height=24, clock=None, **console):
    terminal = Terminal(height)
    made = Console(
        file=terminal,
        force_terminal=True,
        width=width,
        height=height,
        highlight=False,
        color_system=console.pop("color_system", "truecolor"),
        **console,
    )
    return LiveTrainingView(made, clock or Clock()), terminal


def screen_text(record, width, height):
    console = Console(file=io.StringIO(), width=width, height=height)
    lines, phase_line = training_screen(record, console)
    assert len(lines) <= height - 1
    assert all(line.cell_len <= width for line in lines)
    assert 0 <= phase_line < len(lines)
    return "\n".join(line.plain for line in lines)


def recorded(last=200, **changes):
    record = TrainingRecord()
    record.on_start(start_report())
    for step in range(1, last + 1):
        record.on_step(dataclasses.replace(step_report(step), **changes))
    return record


# The live screen


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (140, 30), (200, 50)])
def test_the_screen_shows_every_figure(width, height):
    record = recorded(120)
    record.on_evaluation(evaluation(50, 2.4))
    record.on_evaluation(evaluation(100, 2.1))
    text = screen_text(record, width, height)
    for name in FIGURES:
        assert re.search(rf"(^|\s){name}\s", text, re.M), name
    loss = 1.5 + 2.5 * math.exp(-120 / 50)
    for value in (
        f"{loss:.4f}",
        f"{math.exp(loss):.2f}",
        "2.1000",
        f"{math.exp(2.1):.2f}",
        "41.2 k",
        "0.612",
        "1.00e-03",
        "6.0s",
        "4.0s",
        "120/200",
        "60%",
        f"{2.1 / math.log(2):.4f}",
        "ROMEO:",
        "The crown is mine,",
    ):
        assert value in text, value
    assert text.count("★ best") == 1
    best_row = next(line for line in text.splitlines() if "★ best" in line)
    assert re.search(r"\b100\b.*2\.1000", best_row)
    assert "●" in text


def test_the_screen_does_not_move_while_figures_change():
    record = recorded(60)
    record.on_evaluation(evaluation(50))
    before = screen_text(record, 80, 24).splitlines()
    record.on_step(step_report(61, loss=19.5))
    after = screen_text(record, 80, 24).splitlines()
    assert len(before) == len(after)
    for name in (*FIGURES, "train loss", "sample at step"):
        rows = [[i for i, line in enumerate(text) if name in line] for text in (before, after)]
        assert rows[0] == rows[1], name
        columns = [[line.find(name) for line in text if name in line] for text in (before, after)]
        assert columns[0] == columns[1], name


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 260),
    height=st.integers(2, 90),
    steps=st.integers(0, 30),
    evaluations=st.integers(0, 30),
    loss=st.one_of(st.floats(), st.floats(0, 10)),
    events=st.integers(0, 4),
    sample=st.text(max_size=300),
)
def test_the_screen_fits_any_window(width, height, steps, evaluations, loss, events, sample):
    record = recorded(steps, loss=loss, gradient_norm=loss, seconds_left=loss)
    for i in range(evaluations):
        record.on_evaluation(evaluation(i + 1, loss, best=i == 2, sample=sample))
    for i in range(events):
        record.on_event(dataclasses.replace(spike(i), name=f"event-{i}", message=sample or "-"))
    text = screen_text(record, width, height)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    console = Console(file=io.StringIO(), width=width, height=height)
    assert all("\n" not in line.plain for line in final_lines(record, console))


def test_a_whole_run_leaves_one_clean_final_screen():
    clock = Clock()
    view, terminal = live_view(clock=clock)
    tell(view, clock=clock)
    text = terminal.text
    assert view.frames > 20
    assert "━" not in text, "a progress bar was left behind"
    assert text.count("loss by step") == 1
    assert text.count("fits the budget") == 1
    assert text.count("sample at step") == 1
    for step in (50, 100, 150, 200):
        rows = [line for line in text.splitlines() if re.match(rf" +{step}  ", line)]
        assert len(rows) == 1, step
    assert text.count("★ best") == 1
    assert "warning loss-spike at step 61, the last of 2 times: rose from 1.9 to 4.1" in text
    assert "try: lower --learning-rate" in text
    assert "finished at step 200" in text
    assert "minitx generate runs/plays-0001 --prompt ROMEO: --top-k 40" in text
    assert "minitx resume runs/plays-0001 --steps 400" in text
    order = ["fits the budget", "loss by step", "train loss", "sample at", "finished at", "next"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert terminal.cursor_shown
    assert terminal.frames_open == 0
    assert terminal.tallest_jump < terminal.height


def test_frames_are_at_most_four_a_second():
    clock = Clock()
    view, _ = live_view(clock=clock)
    view.observe(start_report())
    before = view.frames
    for step in range(1, 2001):
        clock.now += 0.001
        view.observe(step_report(step, steps=2000))
        if step % 10 == 0:
            view.observe(spike(step))
            view.observe(evaluation(step))
    assert 7 <= view.frames - before <= 8
    view.close()


def test_slow_frames_become_fewer(monkeypatch):
    clock = Clock()
    view, _ = live_view(clock=clock)
    show = view._show

    def slow_show(*arguments, **named):
        show(*arguments, **named)
        clock.now += 0.01

    monkeypatch.setattr(view, "_show", slow_show)
    view.observe(start_report())
    before, started = view.frames, clock.now
    for step in range(1, 10_001):
        clock.now += 0.001
        view.observe(step_report(step, steps=10_000))
    spent = (view.frames - before) * 0.01
    assert view.frames - before >= 8
    assert spent <= 0.011 * (clock.now - started)
    view.close()


def test_no_thread_draws_while_steps_are_done():
    view, _ = live_view()
    view.observe(start_report())
    view.observe(Phase("evaluating the holdout"))
    assert any(thread.name == "spinner" for thread in threading.enumerate())
    view.observe(step_report(1))
    assert not any(thread.name == "spinner" for thread in threading.enumerate())
    view.close()


def test_a_phase_turns_a_spinner_until_it_ends():
    view, terminal = live_view()
    view.observe(Phase("measuring the rate"))
    assert "measuring the rate" in terminal.text
    deadline = time.monotonic() + 10
    while view.frames < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    seen = set(re.findall(r"([⠀-⣿])[^⠀-⣿]*measuring", terminal.getvalue()))
    assert len(seen) >= 2
    view.observe(Phase(""))
    assert "measuring the rate" not in terminal.text
    frames = view.frames
    time.sleep(0.3)
    assert view.frames == frames
    view.close()


def test_a_short_phase_between_steps_is_not_shown():
    clock = Clock()
    view, terminal = live_view(clock=clock)
    view.observe(start_report())
    view.observe(step_report(1))
    view.observe(Phase("evaluating the holdout"))
    view.observe(Phase(""))
    clock.now += 1
    view.observe(step_report(2))
    view.close()
    assert "evaluating" not in terminal.getvalue()


def test_a_new_window_size_starts_on_a_clean_screen():
    clock = Clock()
    view, terminal = live_view(100, 30, clock=clock)
    view.observe(start_report())
    view.observe(step_report(1))
    view._console.size = (72, 20)
    terminal.resize(72, 20)
    clock.now += 1
    view.observe(step_report(2))
    shown = terminal.text.splitlines()[-20:]
    assert sum("step" in line and "2/200" in line for line in shown) == 1
    assert not any("1/200" in line for line in shown)
    assert max(map(len, terminal.text.splitlines()[-19:])) <= 72
    view.close()


def test_after_an_error_the_last_figures_stay_and_streams_are_given_back(monkeypatch):
    terminal = Terminal(24)
    monkeypatch.setattr(sys, "stdout", terminal)
    view, _ = live_view()
    view.observe(start_report())
    view.observe(step_report(7))
    assert sys.stdout is not terminal, "a print would tear the screen"
    view.close()
    assert sys.stdout is terminal
    view, terminal = live_view()
    tell(view, last=70, with_end=False)
    assert "70/200" in terminal.text
    assert terminal.text.count("loss by step") == 1
    assert terminal.cursor_shown


def test_a_terminal_that_goes_away_does_not_end_training(monkeypatch):
    stdout = Terminal(24)
    monkeypatch.setattr(sys, "stdout", stdout)
    clock = Clock()
    view, terminal = live_view(clock=clock)

    def gone(text):
        raise OSError(5, "Input/output error")

    view.observe(start_report())
    terminal.write = gone
    for step in range(1, 100):
        clock.now += 1
        view.observe(step_report(step))
    view.observe(evaluation(99))
    view.observe(end_report())
    view.close()
    assert sys.stdout is stdout


def test_no_color_takes_colours_but_keeps_the_screen():
    clock = Clock()
    view, terminal = live_view(clock=clock, no_color=True)
    tell(view, clock=clock)
    parameters = re.findall(r"\x1b\[([0-9;]*)m", terminal.getvalue())
    numbers = {int(number) for group in parameters for number in group.split(";") if number}
    assert numbers
    assert numbers <= {0, 1, 2}, "only bold and dim are left"


def test_control_sequences_of_the_model_never_reach_the_terminal():
    clock = Clock()
    view, terminal = live_view(clock=clock)
    view.observe(start_report())
    for step in range(1, 10):
        clock.now += 1
        view.observe(step_report(step))
        view.observe(Event(step, "spike\x1b[5m", "warning", EVIL, EVIL))
        view.observe(evaluation(step, sample=EVIL, prompt=EVIL))
    view.observe(end_report())
    view.close()
    raw = terminal.getvalue()
    assert "\x1b]" not in raw
    assert "\x07" not in raw
    assert "\x9b" not in raw
    assert "\x1b[31m" not in raw
    assert "\x1b[5m" not in raw
    assert "[bold]kept[/bold]" in terminal.text


# Plain lines


def plain_run(clock, stream=None, steps=200, seconds_per_step=0.05, **changes):
    stream = stream or io.StringIO()
    view = PlainTrainingView(stream, clock)
    view.observe(start_report())
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        report = step_report(step, steps, seconds_per_step=seconds_per_step)
        view.observe(dataclasses.replace(report, **changes))
        if step % (steps // 4) == 0:
            view.observe(evaluation(step))
    view.observe(end_report(steps))
    view.close()
    return stream


def step_lines(stream):
    return [line for line in stream.getvalue().splitlines() if line.startswith("step ")]


def test_plain_lines_come_once_a_second_and_at_the_first_and_last_step():
    lines = step_lines(plain_run(Clock(), steps=2000, seconds_per_step=0.005))
    assert 9 <= len(lines) <= 12
    assert lines[0].startswith("step    1/2000 ")
    assert lines[-1].startswith("step 2000/2000 ")


def test_plain_lines_of_a_long_run_are_fewer():
    lines = step_lines(plain_run(Clock(), steps=4000, seconds_per_step=1.0))
    assert 180 <= len(lines) <= 202
    slow = step_lines(plain_run(Clock(), steps=400, seconds_per_step=100.0))
    assert len(slow) == 400


def test_plain_lines_survive_an_unknown_time_left():
    lines = step_lines(plain_run(Clock(), seconds_left=math.nan))
    assert 9 <= len(lines) <= 12
    assert lines[0].rstrip().endswith("left      ?")


def test_plain_figures_are_named_and_aligned():
    lines = step_lines(plain_run(Clock()))
    pattern = (
        r"step +\d+/200  loss +[\d.]+  perplexity +[\d.]+  holdout loss +(-|[\d.]+)  "
        r"tokens/s +[\d.]+ k  gradient norm +[\d.]+  learning rate [\d.e-]+  "
        r"elapsed +\S+  left +\S+"
    )
    assert all(re.fullmatch(pattern, line) for line in lines)
    for name in ("loss", "perplexity", "holdout loss", "tokens/s", "elapsed", "left"):
        assert len({line.index(f" {name} ") for line in lines}) == 1, name
    assert "holdout loss       -" in lines[0]
    assert "holdout loss  2.0000" in lines[-1]


def test_plain_evaluations_events_and_end():
    clock = Clock()
    stream = io.StringIO()
    view = PlainTrainingView(stream, clock)
    tell(view, clock=clock)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "phase measuring the rate"
    assert "phase evaluating the holdout" not in lines
    evaluations = [line for line in lines if line.startswith("evaluation step ")]
    assert len(evaluations) == 4
    assert evaluations[1] == (
        "evaluation step 100  train loss  2.0000  holdout loss  2.1000  "
        "holdout perplexity     8.17  bits per byte  3.0297  best"
    )
    at = lines.index(evaluations[1])
    assert lines[at + 1 : at + 4] == ["sample at step 100", "  ROMEO:", "  The crown is mine,"]
    assert "warning step 60 loss-spike: rose from 1.9 to 4.1. Try: lower --learning-rate" in lines
    assert lines.count("finished at step 200") == 1
    assert "  minitx eval runs/plays-0001 --holdout" in lines
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue())


def test_plain_output_in_another_encoding():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    view = PlainTrainingView(stream, Clock())
    tell(view, sample="naïve ☃")
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "  na?ve ?" in text
    assert "... train" in text


def test_plain_output_strips_control_sequences():
    stream = io.StringIO()
    view = PlainTrainingView(stream, Clock())
    view.observe(start_report())
    view.observe(step_report(1))
    view.observe(Event(1, "odd", "error", EVIL, EVIL + "\nsecond line"))
    view.observe(evaluation(1, sample=EVIL, prompt=EVIL))
    view.observe(end_report(1))
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "[bold]kept[/bold]" in text
    assert "second line" in next(line for line in text.splitlines() if line.startswith("error"))


def test_plain_output_to_a_reader_that_went_away():
    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    tell(PlainTrainingView(Pipe(), Clock()))


# The record and its parts


def test_what_is_no_problem_is_said_in_one_quiet_line():
    record = TrainingRecord()
    for step in range(20, 120, 20):
        record.on_event(Event(step, "steps-settled", "info", f"{step + 20} steps fit the budget"))
    console = Console(file=io.StringIO(), width=60)
    (line,) = event_lines(record.events.values(), console, 60, 9)
    assert line.plain == "at step 100, the last of 5 times: 120 steps fit the budget"
    assert str(line.style) == "dim"


def test_a_resumed_run_starts_with_its_earlier_curve(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 31):
        metrics.observe(step_report(step, loss=math.nan if step == 5 else None))
        if step % 10 == 0:
            metrics.observe(evaluation(step, best=step == 10))
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "evaluation", "step": 3}\n{"kind": "step", "step": 4, "lo')
    record = TrainingRecord()
    record.on_start(start_report(first_step=20, run=str(tmp_path)))
    record.on_step(step_report(21))
    assert [step for step, _ in record.train.points] == list(range(1, 22))
    assert record.evaluations == [evaluation(10), evaluation(20, best=False)]
    fresh = TrainingRecord()
    fresh.on_start(start_report(run=str(tmp_path)))
    assert fresh.train.points == []
    gone = TrainingRecord()
    gone.on_start(start_report(first_step=5, run=str(tmp_path / "missing")))
    assert gone.evaluations == []


def test_tables_keep_the_best_in_view():
    reports = [evaluation(i, best=i in (1, 3)) for i in range(1, 101)]
    assert [report.step for report in latest_evaluations(reports, 4)] == [3, 98, 99, 100]
    assert [report.step for report in latest_evaluations(reports[:4], 4)] == [1, 2, 3, 4]
    assert latest_evaluations([], 4) == []
    spread = [report.step for report in spread_evaluations(reports, 20)]
    assert len(spread) <= 20
    assert {1, 3, 100} <= set(spread)
    assert spread == sorted(spread)
    assert spread_evaluations(reports[:20], 20) == reports[:20]


@settings(deadline=None, max_examples=80)
@given(text=st.text(max_size=400), rows=st.integers(2, 12), width=st.integers(10, 60))
def test_samples_fit_and_lose_nothing_that_fits(text, rows, width):
    console = Console(file=io.StringIO(), width=width)
    report = evaluation(1, sample=text or "x", prompt="")
    lines = sample_lines(report, console, width, rows)
    assert 1 <= len(lines) <= rows
    assert all(line.cell_len <= width for line in lines[1:])


def test_the_prompt_of_a_sample_is_dimmed_and_the_rest_is_not():
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="standard")
    lines = sample_lines(evaluation(1, sample=" and more", prompt="To be"), console, 60, 5)
    rendered = [(segment.text, segment.style) for segment in console.render(lines[1])]
    dims = {text.strip(): bool(style and style.dim) for text, style in rendered if text.strip()}
    assert dims == {"To be": True, "and more": False}


def test_summaries():
    assert summary_lines(end_report()) == [
        "finished at step 200",
        "training time      1m12s, 154 k tokens",
        "last holdout loss  1.8000, perplexity 6.05",
        "best holdout loss  1.7000, perplexity 5.47, at step 150",
    ]
    assert summary_lines(end_report(), 111_540) == summary_lines(end_report())
    part = summary_lines(end_report(), 5_000_000)
    assert part[2] == "last holdout loss  1.8000, perplexity 6.05, on 112 k of 5.00 M tokens"
    # Of different tokens, for one step or not: each says of which.
    sampled = dataclasses.replace(end_report(), final_holdout_tokens=111_539, best_step=200)
    sampled = dataclasses.replace(sampled, best_holdout_tokens=20_480)
    assert summary_lines(sampled, 111_540)[2:] == [
        "last holdout loss  1.8000, perplexity 6.05, on all 112 k tokens",
        "best holdout loss  1.7000, perplexity 5.47, on 20.5 k of 112 k tokens, at step 200",
    ]
    same = dataclasses.replace(sampled, best_holdout_tokens=111_539)
    assert summary_lines(same, 111_540)[2:] == [
        "last holdout loss  1.8000, perplexity 6.05",
        "best holdout loss  1.7000, perplexity 5.47, at step 200",
    ]
    none = dataclasses.replace(
        end_report(reason="interrupted"),
        best_holdout_loss=math.inf,
        final_holdout_loss=math.nan,
    )
    assert summary_lines(none)[0] == "interrupted and saved at step 200"
    assert len(summary_lines(none)) == 2


# The choice


@pytest.fixture
def terminal_stream(monkeypatch):
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    primary, secondary = pty.openpty()

    def resize(columns, lines):
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    resize(80, 24)
    stream = os.fdopen(secondary, "w", encoding="utf-8")
    stream.resize = resize
    yield stream
    stream.close()
    os.close(primary)


def test_a_terminal_gets_the_live_screen_also_without_colour(terminal_stream, monkeypatch):
    assert isinstance(choose_view(terminal_stream), LiveTrainingView)
    monkeypatch.setenv("NO_COLOR", "1")
    view = choose_view(terminal_stream)
    assert isinstance(view, LiveTrainingView)
    assert view._console.no_color


@pytest.mark.parametrize(
    ("name", "value"),
    [("CI", "true"), ("TERM", "dumb"), ("TERM", ""), ("TERM", "linux"), ("TERM", None)],
)
def test_some_environments_get_plain_lines(terminal_stream, monkeypatch, name, value):
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert isinstance(choose_view(terminal_stream), PlainTrainingView)


@pytest.mark.parametrize(("columns", "lines"), [(69, 24), (80, 15), (0, 0)])
def test_small_windows_get_plain_lines(terminal_stream, columns, lines):
    terminal_stream.resize(columns, lines)
    assert isinstance(choose_view(terminal_stream), PlainTrainingView)


def test_pipes_files_and_other_encodings_get_plain_lines(terminal_stream, tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert isinstance(choose_view(file), PlainTrainingView)
    assert isinstance(choose_view(io.StringIO()), PlainTrainingView)
    with os.fdopen(os.dup(terminal_stream.fileno()), "w", encoding="latin-1") as stream:
        assert isinstance(choose_view(stream), PlainTrainingView)
