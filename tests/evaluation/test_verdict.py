import pytest

from minitx.diagnosis.curves import CurveDetector, Moment
from minitx.evaluation.verdict import judge


@pytest.mark.parametrize(
    ("train", "holdout", "fit"),
    [
        (2.0, 2.0, "underfitted"),
        (2.0, 1.9, "underfitted"),
        (2.0, 2.05, "underfitted"),
        (2.0, 2.2, "well fitted"),
        (2.0, 2.39, "well fitted"),
        (2.0, 2.5, "memorizing, still improving"),
        (0.1, 4.0, "memorizing, still improving"),
        (0.0, 0.0, "well fitted"),
        (3.27e-05, 3.28e-05, "well fitted"),
        (3.27e-05, 9e-05, "well fitted"),
        (0.5, 0.001, "underfitted"),
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


def test_a_rise_of_nearly_nothing_is_none():
    history = [(100, 3e-5), (200, 9e-5)]
    assert judge(3e-5, 9e-5, history, beaten_by="counting 2-grams").fit == "well fitted"


def test_a_model_that_counting_beats_has_not_learned_enough():
    verdict = judge(2.0, 2.2, beaten_by="counting 6-grams")
    assert verdict.fit == "underfitted"
    assert "counting 6-grams does better" in verdict.reason
    # Memorizing is the more pressing trouble.
    memorizing = judge(1.0, 2.2, beaten_by="counting 6-grams")
    assert memorizing.fit == "memorizing, still improving"


@pytest.mark.parametrize("gap", [0.05, 0.3, 3.0])
def test_only_a_rise_of_the_holdout_is_overfitting(gap):
    """However large the gap: training, diagnosis and evaluation go by the same rule."""
    train = [2.5, 1.5, 1.0, 0.9, 0.8, 0.7]
    falling = [loss + gap * i / 5 for i, loss in enumerate([2.5, 2.2, 1.6, 1.2, 0.9, 0.7])]
    for holdout in (falling, [*falling[:3], *(falling[2] * (1 + 0.03 * i) for i in (1, 2, 3))]):
        history = list(zip(range(10, 70, 10), holdout, strict=True))
        rises = holdout[-1] > min(holdout) * 1.02
        detector = CurveDetector()
        found = [
            finding.name
            for step, before, after in zip(range(10, 70, 10), train, holdout, strict=True)
            for finding in detector.on_evaluation(
                step, before, after, Moment(1.0, 4.0, None, step == 60)
            )
        ]
        verdict = judge(train[-1], holdout[-1], history, 60)
        assert (verdict.fit == "overfitted") is rises
        assert ("overfitting" in found) is rises


def test_a_checkpoint_before_the_rise_is_at_its_best():
    history = [(100, 2.5), (200, 2.1), (300, 2.3)]
    best = judge(1.0, 2.1, history, step=200)
    assert best.fit == "memorizing, at its best"
    assert "rose after step 200" in best.reason
    assert judge(1.0, 2.3, history, step=300).fit == "overfitted"
    assert judge(1.0, 2.1, history[:2], step=200).fit == "memorizing, still improving"
