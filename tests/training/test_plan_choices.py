"""What the plan chooses, and that it keeps what is given."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig, TokenizerConfig
from minitx.errors import BadInputError
from minitx.training.planning import (
    CLOSING_TOKENS,
    LADDER,
    MOST_EPOCHS,
    MOST_UNTIED,
    TokenFigures,
    plan_run,
)

RATE = 4e11


def plan(n_train=1_000_000, vocab_size=66, rate=RATE, model=None, **train):
    tokens = TokenFigures(vocab_size, n_train, n_train // 9)
    tokenizer = TokenizerConfig("char", vocab_size)
    return plan_run(DataConfig(), tokenizer, tokens, rate, model or {}, train)


def size(config):
    return 12 * config.model.n_layers * config.model.d_model**2


@settings(deadline=None, max_examples=100)
@given(
    n_train=st.integers(2_000, 10**8),
    seconds=st.floats(2, 10_000),
    rate=st.floats(1e9, 1e15),
    vocab_size=st.sampled_from([2, 66, 512, 32_768]),
)
def test_more_time_or_a_faster_device_never_gives_a_smaller_model(
    n_train, seconds, rate, vocab_size
):
    config, reasons = plan(n_train, vocab_size, rate, budget_seconds=seconds)
    longer, _ = plan(n_train, vocab_size, rate, budget_seconds=2 * seconds)
    faster, _ = plan(n_train, vocab_size, 2 * rate, budget_seconds=seconds)
    assert size(config) <= size(longer)
    assert size(config) <= size(faster)
    assert {"n_layers", "dropout", "context_length", "batch_size"} <= set(reasons)
    assert config.train.steps >= 10


def test_sizes_grow_with_the_budget_over_the_ladder():
    found = [size(plan(10**9, budget_seconds=float(4**k))[0]) for k in range(1, 13)]
    assert found == sorted(found)
    assert found[0] == 12 * LADDER[0].n_layers * LADDER[0].d_model ** 2
    assert found[-1] == 12 * LADDER[-1].n_layers * LADDER[-1].d_model ** 2


def test_a_short_text_gets_a_small_model_dropout_and_an_early_end():
    config, reasons = plan(45_000, budget_seconds=300.0)
    large, _ = plan(10**9, budget_seconds=300.0)
    assert size(config) < size(large)
    assert config.model.dropout > 0
    assert "would memorize" in reasons["dropout"]
    tokens = config.train.batch_size * config.model.context_length
    assert config.train.max_steps * tokens == pytest.approx(MOST_EPOCHS * 45_000, rel=0.02)
    assert "overfitted" in reasons["max_steps"]


def test_a_long_text_is_read_until_the_time_is_up():
    config, reasons = plan(10**8, budget_seconds=300.0)
    assert config.train.max_steps == 0
    assert config.model.dropout == 0
    assert "max_steps" not in reasons


def test_dropout_follows_from_epochs_and_parameters_for_each_token():
    shape = {"n_layers": 3, "d_model": 96, "n_heads": 3}
    found = []
    for n_train in (10**7, 500_000, 300_000, 200_000, 60_000):
        config, reasons = plan(n_train, model=shape, steps=5_000_000 // 3072)
        found.append(config.model.dropout)
        epochs = 5_000_000 / n_train
        assert f"about {epochs:.2g} passes" in reasons["dropout"]
    assert found == [0.0, 0.0, 0.05, 0.1, 0.1]
    # A larger model memorizes sooner.
    larger, _ = plan(500_000, model={"n_layers": 6, "d_model": 192}, steps=5_000_000 // 3072)
    assert larger.model.dropout == 0.1


def test_epochs_that_are_not_done_are_not_told():
    _, reasons = plan(45_000, budget_seconds=300.0)
    assert f"about {MOST_EPOCHS} passes" in reasons["dropout"]
    config, reasons = plan(45_000, budget_seconds=300.0, max_steps=30)
    times = 30 * config.train.batch_size * config.model.context_length / 45_000
    assert f"about {times:.2g} passes" in reasons["dropout"]


def test_a_small_vocabulary_has_two_tables():
    assert not plan(vocab_size=MOST_UNTIED)[0].model.tie_embeddings
    assert plan(vocab_size=MOST_UNTIED + 1)[0].model.tie_embeddings


def test_what_is_given_is_kept():
    config, reasons = plan(
        45_000, model={"n_layers": 5, "dropout": 0.3, "tie_embeddings": True},
        budget_seconds=300.0, learning_rate=0.5, batch_size=3, max_steps=77, evaluate_every=9,
    )  # fmt: skip
    assert config.model.n_layers == 5
    assert config.model.dropout == 0.3
    assert config.model.tie_embeddings
    train = config.train
    assert (train.learning_rate, train.batch_size, train.max_steps) == (0.5, 3, 77)
    assert train.evaluate_every == 9
    assert not {"n_layers", "dropout", "tie_embeddings", "batch_size", "max_steps"} & set(reasons)


def test_steps_that_are_given_are_all_done():
    config, _ = plan(45_000, steps=100_000)
    assert config.train.steps == 100_000
    assert config.train.max_steps == 0


def test_a_large_holdout_is_scored_in_part_and_a_small_one_whole():
    def closing(n_train, **given):
        config, reasons = plan(n_train, **given)
        part = config.train.closing_tokens
        assert part < n_train // 9
        assert ("closing_tokens" in reasons) == (part > 0)
        trained = config.train.steps * config.train.batch_size * config.model.context_length
        return part, trained

    assert closing(9 * CLOSING_TOKENS, budget_seconds=2.0)[0] == 0
    assert closing(9 * CLOSING_TOKENS + 9, budget_seconds=2.0)[0] == CLOSING_TOKENS
    # Of a run of an hour, three times as much of the forward passes are 5 % of the work.
    part, trained = closing(10**10, budget_seconds=3600.0)
    assert part > CLOSING_TOKENS
    assert part / 3 == pytest.approx(0.05 * trained, rel=1e-3)
    assert closing(9 * part // 2, budget_seconds=3600.0)[0] == 0
    assert closing(10**10, steps=10)[0] == CLOSING_TOKENS


def test_a_width_beyond_all_measure_is_refused_and_not_searched_for_divisors():
    with pytest.raises(BadInputError, match="d_model"):
        plan(model={"d_model": 2**63 - 1}, steps=2)
