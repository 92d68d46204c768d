"""A field of a config, made by `option`, is a flag, a check, a key and a documented attribute."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner

from minitx.cli.flags import takes
from minitx.config.checks import parse_duration, parse_setting
from minitx.config.options import LENGTH, Config, OlderKeys, option, options_of
from minitx.config.overrides import config_from_options
from minitx.config.toml import build
from minitx.errors import BadInputError


@dataclass(frozen=True)
class Bread(Config, named_by_flags=True):
    """What is baked."""

    older_keys: ClassVar[OlderKeys] = {
        "hot": lambda hot: {"heat": "high" if hot else "low"},
        "yeast": lambda _: {},
    }

    loaves: int = option(1, "How many.", LENGTH, (1, 9), details="Each of a kilogram.")
    heat: Literal["low", "high"] = option("low", "How hot.")
    crust: bool = option(True, "With a crust.", off_flag="bare")
    seeds: tuple[str, ...] = option((), "Strewn on it.", flag="seed", short_flag="s")
    minutes: float = option(600.0, "In the oven.", flag="time", parse=parse_duration)
    extras: dict[str, Any] = option({}, "And more.", flag="extra", parse=parse_setting)
    shelf: int | None = option(None, "Where.", within=(0, 3))
    made_by: str = option("", "Not asked for.", flag=None)


def run(*arguments, **about):
    baked = []

    @takes(Bread, **about)
    def bake(oven: str = "gas", **options: Any) -> None:
        baked.append((oven, options))

    app = typer.Typer()
    app.command()(bake)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return baked[0] if baked else done.output


def test_options_come_by_word_and_make_the_config():
    oven, options = run("--oven", "wood", "-s", "rye", "--seed", "oat", "--bare", "--time", "1m",
                        "--extra", "salt=0.5", "--shelf", "2")  # fmt: skip
    assert oven == "wood"
    bread = config_from_options(Bread, options)
    assert bread == Bread(
        crust=False, seeds=("rye", "oat"), minutes=60.0, extras={"salt": 0.5}, shelf=2
    )
    assert config_from_options(Bread, run()[1]) == Bread()


def test_what_is_planned_is_none_and_a_command_may_have_other_defaults():
    assert {value for value in run(planned=True)[1].values() if value} == set()
    assert run(defaults={"heat": "high"})[1]["heat"] == "high"
    assert set(run(only=("heat",))[1]) == {"heat"}


def test_help_has_what_the_field_says():
    shown = " ".join(run("--help").split())
    for words in ("How many.", "low|high", "--crust", "--bare", "-s", "default: 10m", "How long"):
        assert words in shown
    assert "made-by" not in shown
    assert "loaves: How many. Each of a kilogram." in Bread.__doc__


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"loaves": 10}, "--loaves is 10, outside 1 to 9"),
        ({"heat": "hot"}, "--heat is 'hot'"),
        ({"crust": "no"}, "--crust is 'no'"),
        ({"shelf": 7}, "--shelf is 7"),
    ],
)
def test_the_field_is_checked(values, told):
    with pytest.raises(BadInputError, match=told):
        Bread(**values)


def test_older_keys_are_read():
    assert build(Bread, {"hot": True, "yeast": 3}, "bread") == Bread(heat="high")
    assert build(Bread, {"hot": True, "heat": "low"}, "bread") == Bread(heat="low")


def test_defaults_are_not_shared():
    assert Bread().extras is not Bread().extras
    assert [option.name for option in options_of(Bread)][:2] == ["loaves", "heat"]
