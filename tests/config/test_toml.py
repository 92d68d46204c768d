import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig, ModelConfig, TrainConfig
from minitx.config.toml import build, dump_toml, parse_toml
from minitx.errors import BadInputError

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)


@settings(max_examples=80, deadline=None)
@given(
    corpus=st.lists(TEXT, max_size=3),
    holdout=st.none() | TEXT,
    fraction=st.floats(0, 0.9),
)
def test_written_config_comes_back_equal(tmp_path_factory, corpus, holdout, fraction):
    config = DataConfig(tuple(corpus), holdout_fraction=fraction, holdout=holdout)
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    path.write_text(dump_toml({"data": config}), encoding="utf-8", newline="")
    assert build(DataConfig, parse_toml(path)["data"], "data") == config


def test_booleans_and_numbers_come_back(tmp_path):
    train = TrainConfig(steps=3, batch_size=1, learning_rate=1e-300)
    model = ModelConfig(9, 8, 1, 1, 1, 4, 4, 4, tie_embeddings=False)
    path = tmp_path / "run.toml"
    path.write_text(dump_toml({"train": train, "model": model}))
    assert build(TrainConfig, parse_toml(path)["train"], "train") == train
    assert build(ModelConfig, parse_toml(path)["model"], "model") == model


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": "many"}, "steps is 'many', not a whole number"),
        ({"steps": True}, "steps is True, not a whole number"),
        ({"steps": 1.5}, "not a whole number"),
        ({"engine": 1}, "engine is 1, not a text"),
        ({"learning_rate": "x"}, "not a number"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"optimizer": 3}, "not a text"),
        ({"decay": "step"}, "decay is 'step'"),
        ({"warmup": 3}, "unknown key 'warmup'"),
    ],
)
def test_wrong_values_are_named(values, told):
    good = {"steps": 3, "batch_size": 1, "learning_rate": 0.1}
    with pytest.raises(BadInputError, match=told) as caught:
        build(TrainConfig, {**good, **values}, "train")
    assert "\n" not in str(caught.value)


def test_a_truth_is_true_or_false():
    shape = {"vocab_size": 9, "context_length": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1}
    values = {**shape, "d_model": 4, "d_ff": 4, "head_dim": 4, "tie_embeddings": 1}
    with pytest.raises(BadInputError, match="tie_embeddings is 1, not true or false"):
        build(ModelConfig, values, "model")


@pytest.mark.parametrize(
    ("older", "engine"),
    [
        ({"attention": "compiled", "compile": False, "cuda_graph": True}, "auto"),
        ({"attention": "explicit"}, "auto"),
        ({"attention": "fused", "compile": True}, "torch-compile"),
    ],
)
def test_keys_of_the_version_before_choose_the_engine(older, engine):
    values = {"steps": 3, "batch_size": 1, "learning_rate": 0.1, **older}
    assert build(TrainConfig, values, "train").engine == engine


def test_missing_keys_are_named():
    with pytest.raises(BadInputError, match="lacks the keys steps, learning_rate"):
        build(TrainConfig, {"batch_size": 1}, "train")
    with pytest.raises(BadInputError, match="lacks the key steps"):
        build(TrainConfig, {"batch_size": 1, "learning_rate": 0.1}, "train")


def test_list_must_be_a_list():
    with pytest.raises(BadInputError, match="corpus is 'a', not a list"):
        build(DataConfig, {"corpus": "a"}, "data")


def test_unreadable_files(tmp_path):
    with pytest.raises(BadInputError, match="can't be read"):
        parse_toml(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(BadInputError, match="not UTF-8 at byte 5"):
        parse_toml(tmp_path / "a.toml")


def test_values_without_a_toml_form_are_refused():
    model = ModelConfig(8, 8, 1, 1, 1, 8, 8, 8)
    object.__setattr__(model, "n_layers", object())
    with pytest.raises(TypeError, match="not TOML serializable"):
        dump_toml({"model": model})


def test_a_file_without_an_end_is_not_read_to_it():
    with pytest.raises(BadInputError, match="/dev/zero has more than"):
        parse_toml(Path("/dev/zero"))


def test_a_byte_order_mark_is_no_part_of_it(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1")
    assert parse_toml(tmp_path / "a.toml") == {"a": 1}
