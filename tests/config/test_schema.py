"""The JSON schema, held against files that minitx writes and values that it refuses."""

import json
import re

import pytest

from minitx.config import DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from minitx.config.options import options_of
from minitx.config.run_config import TABLES, config_schema
from minitx.config.toml import build, dump_toml, parse_toml
from minitx.errors import BadInputError

TYPES = {"integer": int, "number": (int, float), "string": str, "boolean": bool, "array": list,
         "object": dict}  # fmt: skip
MODEL = ModelConfig(66, 8, 1, 4, 4, 16, 32, 4, end_id=65)
TRAIN = {"steps": 3, "batch_size": 1, "learning_rate": 0.1}


def is_valid(value, schema):
    """As much of JSON schema as ours has."""
    if schema is False:
        return False
    known = {"$schema", "title", "description", "default", "type", "properties", "minimum",
             "additionalProperties", "maximum", "enum", "items"}  # fmt: skip
    assert set(schema) <= known
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(
        isinstance(value, TYPES[kind]) and isinstance(value, bool) <= (kind == "boolean")
        for kind in kinds
    ):
        return False
    if isinstance(value, dict):
        others, properties = schema["additionalProperties"], schema.get("properties", {})
        return all(is_valid(item, properties.get(key, others)) for key, item in value.items())
    if isinstance(value, list):
        return all(is_valid(item, schema["items"]) for item in value)
    return ("enum" not in schema or value in schema["enum"]) and (
        isinstance(value, (str, bool))
        or schema.get("minimum", value) <= value <= schema.get("maximum", value)
    )


def test_it_is_json_and_names_every_key():
    schema = json.loads(json.dumps(config_schema()))
    for name, config in TABLES.items():
        properties = schema["properties"][name]["properties"]
        assert list(properties) == [option.name for option in options_of(config)]
        assert all(entry["description"] for entry in properties.values())


def test_a_written_run_toml_follows_it(tmp_path):
    train = TrainConfig(
        **TRAIN, budget_seconds=9.0, step_decisions=((2, 4), (3, 5)),
        optimizer_options={"nesterov": True, "power": 2, "form": "wide"},
    )  # fmt: skip
    tables = {
        "data": DataConfig(("a", "b"), holdout_fraction=0.2, holdout="c"),
        "tokenizer": TokenizerConfig("bpe", 300),
        "model": MODEL, "train": train,
    }  # fmt: skip
    path = tmp_path / "run.toml"
    path.write_text(dump_toml(tables))
    written = parse_toml(path)
    assert is_valid(written, config_schema())
    assert build(TrainConfig, written["train"], "train") == train
    assert list(written) == list(tables)
    given = [key for key, value in vars(MODEL).items() if value is not None]
    assert list(written["model"]) == given


def test_a_trained_run_follows_it(tiny_run):
    assert is_valid(parse_toml(tiny_run / "run.toml"), config_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"steps": "many"}, {"steps": True}, {"engine": 1}, {"decay": "step"},
        {"learning_rate": -0.1}, {"optimizer": 3}, {"warmup": 3}, {"step_decisions": 4},
        {"optimizer_options": {"a": [1]}}, {"threads": 10**6}, {"beta1": 1.0},
    ],
)  # fmt: skip
def test_it_refuses_what_a_config_refuses(change):
    assert is_valid({"train": TRAIN}, config_schema())
    assert not is_valid({"train": {**TRAIN, **change}}, config_schema())
    with pytest.raises(BadInputError):
        build(TrainConfig, {**TRAIN, **change}, "train")


def test_every_option_says_what_it_is_for_and_is_documented():
    for config in TABLES.values():
        for option in options_of(config):
            assert option.help.endswith("."), option.name
            assert re.search(rf"\n        {option.name}: ", config.__doc__), option.name
            assert option.group or option.flag is None or option.is_argument, option.name


def test_the_command_line_prints_it(minitx):
    assert json.loads(minitx("train", "--config-schema").out) == json.loads(
        json.dumps(config_schema())
    )
