import itertools
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitx.report.terminal.curve import LossSeries, curve_lines

# The dots of a Braille pattern, numbered as in the Unicode chart, as (column, row).
BRAILLE_DOTS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]

any_loss = st.one_of(
    st.floats(-10, 20), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 1e9, 0.0])
)
any_points = st.lists(st.tuples(st.integers(0, 10**6), any_loss), max_size=80).map(
    lambda points: sorted(points, key=lambda point: point[0])
)


def falling(steps, every=1, noise=0.0, seed=0):
    draw = random.Random(seed)
    return [
        (step, 1.5 + 2.5 * math.exp(-step / (steps / 4)) + draw.gauss(0, noise))
        for step in range(every, steps + 1, every)
    ]


def plot_of(lines):
    """Rows between legend and axis, without their labels, and the labels by row."""
    rows, labels = [], {}
    for i, line in enumerate(lines[1:-2]):
        at = next(k for k, character in enumerate(line) if character in "│┤|+")
        rows.append(line[at + 1 :])
        if line[:at].strip():
            labels[i] = float(line[:at])
    return rows, labels


def dots_of(rows):
    """Set dots as (x, y) of the raster of 2 by 4 dots a character."""
    dots = set()
    for row, text in enumerate(rows):
        for column, character in enumerate(text):
            pattern = ord(character) - 0x2800
            if 0 <= pattern < 256:
                dots |= {
                    (2 * column + dx, 4 * row + dy)
                    for bit, (dx, dy) in enumerate(BRAILLE_DOTS)
                    if pattern >> bit & 1
                }
    return dots


@settings(deadline=None, max_examples=150)
@given(
    train=any_points,
    holdout=any_points,
    width=st.integers(24, 160),
    height=st.integers(6, 40),
    last_step=st.integers(0, 10**7),
    ascii_only=st.booleans(),
)
@example(train=[], holdout=[(0, 0.0)], width=50, height=6, last_step=0, ascii_only=True)
def test_always_fits_the_given_space(train, holdout, width, height, last_step, ascii_only):
    lines = curve_lines(train, holdout, width, height, last_step, ascii_only)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    assert "\n" not in "".join(line.plain for line in lines)
    if ascii_only:
        assert all(line.plain.isascii() for line in lines)


def test_the_dots_stand_where_the_labels_say():
    points = falling(400)
    lines = [line.plain for line in curve_lines(points, [], 100, 30, last_step=400)]
    rows, labels = plot_of(lines)
    dots = dots_of(rows)
    # Calibrate by the outermost labels alone: loss per row, a row being four dots high.
    (top_row, top), (bottom_row, bottom) = min(labels.items()), max(labels.items())
    per_row = (top - bottom) / (bottom_row - top_row)
    width = max(map(len, rows))
    checked = 0
    for step, loss in points[20:]:
        x = round(step / 400 * (2 * width - 1))
        heights = [top - (y / 4 - top_row - 0.375) * per_row for dot_x, y in dots if dot_x == x]
        assert heights, f"no dot at step {step}"
        assert min(abs(height - loss) for height in heights) < per_row, step
        checked += 1
    assert checked == 380


def test_the_line_has_no_holes():
    """From left to right each dot column is set, and steep parts are filled."""
    points = [(0, 5.0), (100, 1.0), (200, 5.0)]
    rows, _ = plot_of([line.plain for line in curve_lines(points, [], 60, 20, last_step=200)])
    dots = dots_of(rows)
    columns = sorted({x for x, _ in dots})
    assert columns == list(range(max(columns) + 1))
    neighbours = {(x + dx, y + dy) for x, y in dots for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
    assert dots <= neighbours
    heights = {y for _, y in dots}
    assert heights == set(range(min(heights), max(heights) + 1))


def test_a_loss_that_is_no_number_leaves_a_gap():
    whole = [(step, 2.0 + step / 100) for step in range(101)]
    broken = [(step, math.nan if 40 <= step <= 60 else loss) for step, loss in whole]
    rows, _ = plot_of([line.plain for line in curve_lines(broken, [], 60, 12, last_step=100)])
    columns = {x for x, _ in dots_of(rows)}
    width = 2 * max(map(len, rows))
    assert not any(0.42 * width < x < 0.58 * width for x in columns)
    assert any(x < 0.38 * width for x in columns)
    assert any(x > 0.62 * width for x in columns)


def test_grows_from_the_left_into_the_planned_steps():
    rows, _ = plot_of([line.plain for line in curve_lines(falling(250), [], 80, 12, 1000)])
    columns = {x for x, _ in dots_of(rows)}
    assert max(columns) <= 0.26 * 2 * 76
    assert max(columns) >= 0.20 * 2 * 76


@pytest.mark.parametrize(("ascii_only", "mark"), [(False, "●"), (True, "o")])
def test_holdout_is_told_apart_without_colour(ascii_only, mark):
    holdout = [(100, 3.0), (200, 2.6), (300, 2.5), (400, math.nan)]
    lines = curve_lines(falling(400), holdout, 80, 16, 400, ascii_only)
    assert "".join(line.plain for line in lines[1:-2]).count(mark) == 3
    assert mark in lines[0].plain
    assert "holdout" in lines[0].plain
    assert "holdout" not in curve_lines(falling(400), [], 80, 16, 400)[0].plain


def test_a_spike_does_not_squeeze_the_curve_and_is_marked():
    points = falling(400)
    points[200] = (201, 50.0)
    lines = [line.plain for line in curve_lines(points, [], 80, 16, 400)]
    _, labels = plot_of(lines)
    assert max(labels.values()) < 6
    assert "↑" in lines[1]
    level = [(step, 2.0 + 0.1 * (step % 7)) for step in range(1, 401)]
    assert "↑" not in "".join(line.plain for line in curve_lines(level, [], 80, 16, 400))


def test_axis_names_round_steps_under_their_ticks():
    lines = [line.plain for line in curve_lines(falling(2000), [], 80, 12, 2000)]
    axis, numbers = lines[-2:]
    ticks = [i for i, character in enumerate(axis) if character == "┬"]
    assert numbers.split() == ["0", "500", "1,000", "1,500", "2,000"]
    assert len(ticks) == 5
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(gaps) - min(gaps) <= 1
    for tick, number in zip(ticks[1:-1], ["500", "1,000", "1,500"], strict=True):
        start = numbers.index(f" {number}") + 1
        assert start <= tick <= start + len(number)


def test_series_stays_small_and_keeps_mean_and_end():
    series = LossSeries(capacity=64)
    losses = [math.sin(step) + 3 for step in range(1, 1025)]
    for step, loss in enumerate(losses, start=1):
        series.add(step, loss)
        points = series.points
        assert len(points) <= 64
        assert points[-1][0] == step
    assert [step for step, _ in series.points] == sorted(step for step, _ in series.points)
    # 1,024 points divide evenly, so the mean of the means is the mean.
    mean = sum(loss for _, loss in series.points) / len(series.points)
    assert mean == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_series_ignores_a_nan_beside_a_number_and_keeps_short_runs_exact():
    series = LossSeries(capacity=4)
    for step, loss in enumerate([1.0, math.nan, math.nan, math.nan, 5.0], start=1):
        series.add(step, loss)
    points = series.points
    assert points[0] == (2, 1.0)
    assert points[1][0] == 4
    assert math.isnan(points[1][1])
    assert points[2] == (5, 5.0)
    exact = LossSeries()
    for step in range(1, 1000):
        exact.add(step, step / 7)
    assert exact.points == [(step, step / 7) for step in range(1, 1000)]
