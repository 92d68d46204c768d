"""Options: fields of a config that carry their own help, group, range and flag.

What is known of a setting stands at its field, made by `option`. From that alone follow the check
of its value, its flag on the command line, its key in `run.toml`, its part of the JSON schema, and
its line in the reference.
"""

from __future__ import annotations

import dataclasses
import keyword
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minitx.config.checks import require, require_one_of, require_range

LENGTH = "How long"
TEXT = "Text and tokenizer"
MODEL = "Model (planned if left out)"
LEARNING = "Learning (planned if left out)"
WATCHING = "Watching and saving"
MACHINE = "Machine"
PROMPT = "Text"
DRAWING = "How a token is drawn, in the order applied"
WISHES = "Text it should have"
SHOWN = "What is shown"
ACCESS = "Who may ask"
LIMITS = "Limits"
LOADED = "Model"
GROUPS = (
    LENGTH, TEXT, MODEL, LEARNING, WATCHING, MACHINE, PROMPT, DRAWING, WISHES, ACCESS, LIMITS,
    SHOWN, LOADED,
)  # fmt: skip
"""Headings of a command's help, in the order in which they are shown."""

COUNT = (1, 10**9)
COUNT_OR_NONE = (0, 10**9)
FRACTION = (0.0, 1.0)
RATE = (0.0, 1e3)

OlderKeys = Mapping[str, Callable[[Any], dict[str, Any]]]
"""For each key of earlier versions, a function from its value to the keys and values of today."""


@dataclass(frozen=True)
class Option:
    """What is known of one setting.

    Attributes:
        name: of the field, which is its key in TOML.
        kind: its type, without None.
        default: `dataclasses.MISSING` if it has none.
        details: what the documentation adds to the help.
        group: one of `GROUPS`; empty for none.
        within: smallest and largest number allowed; None for any.
        flag: without dashes, the name if `option` was given none; None if no flag sets it.
        also: another flag that means the same.
        off_flag: that sets a truth to false; None for `no-` and the flag.
        metavar: stands for the value in help; None for that of the type.
        parse: makes a value from the flag's name and its text.
        is_argument: given without a flag's name.
    """

    name: str
    kind: Any
    default: Any
    help: str
    details: str = ""
    group: str = ""
    within: tuple[float, float] | None = None
    flag: str | None = None
    also: str | None = None
    off_flag: str | None = None
    short_flag: str | None = None
    metavar: str | None = None
    parse: Callable[[str, str], Any] | None = None
    is_argument: bool = False

    @property
    def word(self) -> str | None:
        """What the command line calls it, as a Python name: `layers` for `n_layers`."""
        if self.flag is None:
            return None
        word = self.flag.replace("-", "_")
        return f"{word}_" if keyword.iskeyword(word) else word

    @property
    def choices(self) -> tuple[str, ...]:
        """All values, if it has one of a few words; else empty."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether it has several values."""
        return typing.get_origin(self.kind) is tuple

    @property
    def description(self) -> str:
        """Help and details."""
        return f"{self.help} {self.details}".rstrip()

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is out of range or on no list; `name` is for the error.

        Raises:
            BadInputError: saying what is allowed.
        """
        if value is None and self.default is None:
            return
        if self.choices:
            require_one_of(name, typing.cast(str, value), self.choices)
        elif self.within is not None:
            require_range(name, typing.cast(float, value), *self.within)
        elif self.kind is bool:
            require(isinstance(value, bool), f"{name} is {value!r}", "Choose true or false")


def option(
    default: Any,
    help: str,
    group: str = "",
    within: tuple[float, float] | None = None,
    **about: Any,
) -> Any:
    """Declare a field of a config with all that is known of it, as attributes of `Option`.

    A default that is a dict is copied for each config.
    """
    metadata = {"option": {"help": help, "group": group, "within": within, **about}}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Config:
    """Base of the configs: frozen dataclasses that check their options when they are made.

    Attributes:
        named_by_flags: whether errors call an option by its flag, not by its key.
        older_keys: of earlier versions, which are still read.
    """

    named_by_flags: ClassVar[bool]
    older_keys: ClassVar[OlderKeys] = {}

    def __init_subclass__(cls, *, named_by_flags: bool = False) -> None:
        super().__init_subclass__()
        cls.named_by_flags = named_by_flags
        lines = [
            textwrap.fill(
                f"{name}: {field.metadata['option']['help']} "
                f"{field.metadata['option'].get('details', '')}".rstrip(),
                width=96,
                initial_indent=" " * 8,
                subsequent_indent=" " * 12,
            )
            for name, field in vars(cls).items()
            if isinstance(field, dataclasses.Field) and "option" in field.metadata
        ]
        if lines:
            cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "    Attributes:", *lines])

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            by_flag = self.named_by_flags and option.flag
            name = f"--{option.flag}" if by_flag else option.name
            option.check(name, getattr(self, option.name))
        self.check()

    def check(self) -> None:
        """Refuse options that do not fit together."""


def options_of(config: type[Any]) -> tuple[Option, ...]:
    """The options of a config class, in the order of its fields."""
    if config not in _OPTIONS:
        kinds = typing.get_type_hints(config)
        fields = [field for field in dataclasses.fields(config) if "option" in field.metadata]
        _OPTIONS[config] = tuple(_option(field, kinds[field.name]) for field in fields)
    return _OPTIONS[config]


_OPTIONS: dict[type[Any], tuple[Option, ...]] = {}


def _option(field: dataclasses.Field[Any], kind: Any) -> Option:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    about = {"flag": field.name.replace("_", "-"), **field.metadata["option"]}
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Option(name=field.name, kind=kind, default=default, **about)
