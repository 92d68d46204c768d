"""What a refusal of sizes advises is accepted when it is done."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig, TokenizerConfig, TrainConfig
from minitx.config.options import options_of
from minitx.config.overrides import tables_from_options
from minitx.errors import BadInputError
from minitx.training.planning import TokenFigures, plan_run

MOST_ADVICE = 6
"""Wrong options are refused one after the other."""


def plan(given):
    tables = tables_from_options(**given)
    tokens = TokenFigures(66, 10**6, 10**5)
    return plan_run(
        DataConfig(), TokenizerConfig("char", 66), tokens, 4e11, tables["model"], tables["train"]
    )


def followed(given, error):
    """The options after the advice was followed."""
    given = dict(given)
    left_out = re.match(r"Leave out --([a-z-]+)", error.fix)
    used = re.match(r"Use --([a-z-]+) (\S+)", error.fix)
    chosen = re.match(r"Choose a value from (\S+) to (\S+)$", error.fix)
    listed = re.match(r"Choose one of (.+)$", error.fix)
    if left_out:
        del given[left_out[1].replace("-", "_")]
    elif used:
        flag = used[1].replace("-", "_")
        given[flag] = type(given.get(flag, 0))(used[2])
    else:
        key = error.what.split()[0]
        word = next(o.word for config in tables_of() for o in options_of(config) if o.name == key)
        value = listed[1].split(", ")[0] if listed else chosen[1].replace(",", "")
        given[word] = value if listed else type(given[word])(float(value))
    return given


def tables_of():
    from minitx.config.run_config import TABLES

    return TABLES.values()


SIZES = {
    "layers": st.integers(-1, 1100),
    "heads": st.integers(-1, 1100),
    "kv_heads": st.integers(-1, 1100),
    "head_dim": st.integers(-1, 70_000),
    "d_model": st.integers(-1, 70_000),
    "d_ff": st.integers(-1, 2**21),
    "context": st.integers(-1, 2**21),
    "dropout": st.floats(-1, 2),
    "architecture": st.sampled_from(["qwen3", "gpt2"]),
    "batch_size": st.integers(-1, 2**21),
    "warmup_steps": st.integers(-1, 100),
    "beta1": st.floats(-1, 2),
}


@settings(deadline=None, max_examples=300)
@given(st.fixed_dictionaries({}, optional=SIZES))
@example({"heads": 3, "d_model": 64})
@example({"heads": 3, "d_model": 64, "architecture": "gpt2"})
@example({"heads": 1000, "d_model": 65_536})
@example({"heads": 4, "kv_heads": 9})
@example({"heads": 6, "kv_heads": 4, "architecture": "gpt2"})
@example({"heads": 3, "d_model": 9, "kv_heads": 1, "architecture": "gpt2"})
@example({"d_model": 7})
@example({"heads": 4, "d_model": 64, "head_dim": 15})
def test_advice_is_accepted(given):
    given = {**given, "steps": 10}
    advice = []
    for _ in range(MOST_ADVICE * 2):
        try:
            plan(given)
            break
        except BadInputError as error:
            advice.append(f"{error.what}: {error.fix}")
            given = followed(given, error)
    else:
        pytest.fail(f"never accepted: {advice}")
    assert len(set(advice)) == len(advice), "the same again"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"heads": 3, "d_model": 64}, "d_model"),
        ({"heads": 5, "d_model": 384}, "d_model"),
        ({"heads": 4, "kv_heads": 3}, "n_kv_heads"),
        ({"heads": 4, "kv_heads": 9}, "n_kv_heads"),
        ({"d_model": 7}, "head_dim"),
    ],
)
def test_one_piece_of_advice_is_enough(given, key):
    given = {**given, "steps": 10}
    with pytest.raises(BadInputError) as caught:
        plan(given)
    config, _ = plan(followed(given, caught.value))
    assert getattr(config.model, key)


def test_every_range_has_values_that_are_accepted():
    needed = {"steps": 1, "batch_size": 1, "learning_rate": 0.1}
    for option in options_of(TrainConfig):
        if option.within is not None:
            for value in map(option.kind, option.within):
                assert getattr(TrainConfig(**{**needed, option.name: value}), option.name) == value
