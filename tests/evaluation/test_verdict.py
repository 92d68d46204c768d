import pytest

from minitx.evaluation.verdict import judge


@pytest.mark.parametrize(
    ("train", "holdout", "fit"),
    [
        (2.0, 2.0, "underfitted"),
        (2.0, 1.9, "underfitted"),
        (2.0, 2.05, "underfitted"),
        (2.0, 2.2, "well fitted"),
        (2.0, 2.39, "well fitted"),
        (2.0, 2.5, "overfitted"),
        (0.1, 4.0, "overfitted"),
        (0.0, 0.0, "underfitted"),
    ],
)
def test_the_gap_decides(train, holdout, fit):
    verdict = judge(train, holdout)
    assert verdict.fit == fit
    assert verdict.gap == pytest.approx(holdout - train)
    assert verdict.reason
    assert verdict.advice


def test_a_holdout_loss_that_rose_is_told_with_its_best():
    history = [(100, 2.5), (200, 2.1), (300, 2.3)]
    verdict = judge(2.0, 2.3, history)
    assert verdict.fit == "overfitted"
    assert "2.100, at step 200" in verdict.reason


def test_only_evaluations_up_to_the_checkpoint_count():
    history = [(100, 2.5), (200, 2.1), (300, 2.6)]
    assert judge(2.0, 2.2, history, step=200).fit == "well fitted"
    assert judge(2.0, 2.2, history, step=300).fit == "overfitted"
    assert judge(2.0, 2.2, history, step=50).fit == "well fitted"


def test_a_rise_within_noise_is_none():
    assert judge(2.0, 2.2, [(100, 2.2), (200, 2.21)]).fit == "well fitted"


def test_a_model_that_counting_beats_has_not_learned_enough():
    verdict = judge(2.0, 2.2, beaten_by="counting 6-grams")
    assert verdict.fit == "underfitted"
    assert "counting 6-grams does better" in verdict.reason
    # Memorising is the more pressing trouble.
    assert judge(1.0, 2.2, beaten_by="counting 6-grams").fit == "overfitted"
