"""The lines of metrics.jsonl as columns."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minitx.training.history import Series, read_history


def step(number, loss, **more):
    timing = {"tokens_per_second": 100.0, "elapsed_seconds": number / 2}
    return {
        "kind": "step", "step": number, "loss": loss, "gradient_norm": 1.0,
        "learning_rate": 0.1, "tokens": number * 10, "timing": timing, **more,
    }  # fmt: skip


def evaluation(number, loss, is_best=True, sample="so"):
    return {
        "kind": "evaluation", "step": number, "train_loss": "NaN", "holdout_loss": loss,
        "holdout_bits_per_byte": loss / 2, "is_best": is_best, "sample_prompt": "And",
        "sample": sample,
    }  # fmt: skip


def test_lines_become_columns():
    health = {"kind": "health", "step": 4, "gradient_norms": {"blocks.0": 0.5, "norm": 0.1},
              "update_ratios": {"blocks.0": 0.01, "norm": 0.02}}  # fmt: skip
    event = {"kind": "event", "step": 4, "name": "loss-spike", "severity": "warning",
             "message": "m", "cause": "c", "fix": "f"}  # fmt: skip
    end = {"kind": "end", "step": 6, "reason": "finished"}
    evaluations = [evaluation(4, 2.5), evaluation(6, 2.6, is_best=False)]
    lines = [step(2, 3.0), step(4, "NaN"), health, event, *evaluations, end]
    history = read_history(lines)
    assert history.steps.step.tolist() == [2, 4]
    assert history.steps.columns["loss"][0] == 3.0
    assert math.isnan(history.steps.columns["loss"][1])
    assert history.steps.columns["elapsed_seconds"].tolist() == [1.0, 2.0]
    assert history.gradient_norms.columns["blocks.0"].tolist() == [0.5]
    assert history.update_ratios.columns["norm"].tolist() == [0.02]
    assert [one.name for one in history.events] == ["loss-spike"]
    assert history.best.step == 4
    assert math.isnan(history.evaluations[0].train_loss)
    assert history.last_step == 6
    assert history.ending == "finished"


def test_a_short_run_is_as_long_as_its_end_says():
    end = {"kind": "end", "step": 8, "reason": "finished", "tokens": 80,
           "timing": {"elapsed_seconds": 4.0}}  # fmt: skip
    history = read_history([step(1, 3.0), end])
    assert history.last_step == 8
    assert history.at("tokens", 8) == 80
    assert history.at("elapsed_seconds", 8) == 4.0
    assert history.steps.step.tolist() == [1]


def test_of_a_step_trained_twice_the_last_counts():
    history = read_history([step(2, 3.0), step(4, 9.0), step(4, 2.0), step(6, 1.0)])
    assert history.steps.step.tolist() == [2, 4, 6]
    assert history.steps.columns["loss"].tolist() == [3.0, 2.0, 1.0]


def test_what_can_not_be_used_is_passed_over():
    bad = [
        {"kind": "evaluation", "step": 4, "holdout_loss": 2.0},
        evaluation(4, 1.0) | {"holdout_loss": [], "holdout_bits_per_byte": 1.0},
        {"kind": "health", "step": 4, "gradient_norms": 7, "update_ratios": {}},
        {"kind": "event", "step": 4},
        {"kind": "end", "step": 4},
        {"kind": "of another version", "step": 4},
        step(8, {"not": "a number"}, timing=None),
    ]  # fmt: skip
    history = read_history([*bad, step(10, 1.0)])
    assert history.evaluations == history.events == ()
    assert history.ending is None
    assert history.steps.step.tolist() == [8, 10]
    assert math.isnan(history.steps.columns["loss"][0])


def test_an_empty_run_has_no_end_and_no_best():
    history = read_history([])
    assert (history.last_step, history.best, history.ending) == (0, None, None)
    assert math.isnan(history.at("tokens", 3))


def test_between_logged_steps_a_figure_grows_evenly():
    history = read_history([step(10, 1.0), step(20, 1.0)])
    assert history.at("tokens", 15) == 150
    assert history.at("tokens", 5) == 50
    assert history.at("elapsed_seconds", 20) == 10.0


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=300),
       st.integers(2, 40))  # fmt: skip
def test_thinning_keeps_the_ends_and_the_extremes(values, most):
    values = np.array(values)
    series = Series(np.arange(len(values)), {"loss": values, "other": values * 2})
    thin = series.thinned(most, "loss")
    assert len(thin) <= most + 4
    assert len(thin) == len(series) or len(series) > most
    assert thin.step[0] == 0
    assert thin.step[-1] == len(values) - 1
    assert (np.diff(thin.step) > 0).all()
    np.testing.assert_array_equal(thin.columns["loss"], values[thin.step])
    np.testing.assert_array_equal(thin.columns["other"], values[thin.step] * 2)
    if np.isfinite(values).any():
        assert np.nanmax(thin.columns["loss"]) == np.nanmax(values)
        assert np.nanmin(thin.columns["loss"]) == np.nanmin(values)


def test_what_is_kept_has_the_mean_of_all():
    values = np.random.default_rng(0).normal(3.0, 1.0, 50_000)
    thin = Series(np.arange(50_000), {"loss": values}).thinned(2_000, "loss")
    assert len(thin) <= 2_004
    kept = thin.columns["loss"]
    # Not two bands of extremes: the half of all that is nearest the mean is seen as well.
    assert 0.3 < (np.abs(kept - 3.0) < 0.674).mean() < 0.6
    assert abs(kept.mean() - 3.0) < 0.1
