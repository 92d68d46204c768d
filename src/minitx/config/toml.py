"""TOML in and out: `run.toml`, and the file given to `--config`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from minitx.config.checks import coerced, toml_tables
from minitx.config.options import Config, options_of
from minitx.config.run_config import TABLES, RunConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import SMALL_FILE, TooLargeError, describe_damage, read_bounded

C = TypeVar("C", bound=Config)
_DIGEST = "# sha256 of the lines above: "


def parse_toml(path: Path) -> dict[str, Any]:
    """Tables of a TOML file.

    Raises:
        BadInputError: when the file is missing, too large, not UTF-8, or not TOML.
    """
    try:
        content = read_bounded(path, plain=False).decode("utf-8")
        return toml_tables(content.removeprefix("\ufeff"))
    except TooLargeError:
        why, fix = f"has more than {SMALL_FILE:,} bytes", "Give a TOML file"
    except OSError as error:
        why, fix = f"can't be read ({error.strerror})", "Give a TOML file that exists"
    except UnicodeDecodeError as error:
        why, fix = f"is not UTF-8 at byte {error.start}", "Save it as UTF-8 text"
    except (ValueError, RecursionError) as error:
        why, fix = f"is not TOML: {error}", "Correct that line"
    raise BadInputError(f"config {path} {why}", fix)


def dump_toml(tables: dict[str, Any]) -> str:
    """Write dataclasses, one table each, with a key per field; None and {} are left out.

    Raises:
        BadInputError: a name can't be written, since it is not UTF-8.
        TypeError: a value has no form in TOML.
    """
    text = tomli_w.dumps(
        {
            name: {key: item for key, item in vars(value).items() if item not in (None, {})}
            for name, value in tables.items()
        }
    )
    if wrong := re.search(".*[\ud800-\udfff].*", text):
        name = wrong[0].strip(" ,")
        raise BadInputError(f"{name} is not UTF-8, and run.toml is", "Rename it")
    return text


def config_bytes(config: RunConfig) -> bytes:
    """Content of `run.toml`: four tables, and a digest that tells a damaged file."""
    content = dump_toml(vars(config)).encode()
    return content + f"{_DIGEST}{hashlib.sha256(content).hexdigest()}\n".encode()


def read_config(path: Path) -> RunConfig:
    """Parse what `config_bytes` wrote.

    Raises:
        DamagedFileError: it is missing, or not as it was written.
    """
    fix = "Restore it, or start a new run with minitx train"
    try:
        content = read_bounded(path)
        tables_end = content.rfind(_DIGEST.encode())
        digest = hashlib.sha256(content[: max(0, tables_end)]).hexdigest()
        if content[tables_end:] != f"{_DIGEST}{digest}\n".encode():
            raise ValueError("its digest differs")
        tables = toml_tables(content.decode("utf-8"))
        parts: dict[str, Any] = {
            name: build(kind, tables[name], f"{path} [{name}]") for name, kind in TABLES.items()
        }
        return RunConfig(**parts)
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read ({error.strerror})", fix) from None
    except BadInputError as error:
        raise DamagedFileError(error.what, fix) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} was changed since it was written: {describe_damage(error)}",
            "Restore it; settings of a run are changed with flags of minitx resume",
        ) from None


def build(config: type[C], values: dict[str, Any], where: str) -> C:
    """Make a config from parsed values, refusing unknown keys and wrong types.

    Args:
        config: which; its `older_keys` are understood, too.
        values: as parsed from TOML or JSON, or given as flags.
        where: they come from, for errors, for example ``run.toml [model]``.

    Raises:
        BadInputError: on an unknown key, a wrong type, a missing key or a value out of range.
    """
    values = read_values(config, values, where)
    missing = [
        option.name
        for option in options_of(config)
        if option.name not in values and option.default is dataclasses.MISSING
    ]
    if missing:
        raise BadInputError(
            f"{where} lacks the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            "Add it, or start from the run.toml of a run",
        )
    return config(**values)


def read_values(config: type[Config], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Values under the keys that a config has now, each of the type of its field.

    Raises:
        BadInputError: a key is neither one of those nor one of earlier versions, or a value is of
            another type.
    """
    known = [option.name for option in options_of(config)]
    current = {key: value for key, value in values.items() if key not in config.older_keys}
    for key in current:
        if key not in known:
            fix = f"Known keys are {', '.join(known)}" if known else "Leave it out; none is known"
            raise BadInputError(f"{where} has an unknown key {key!r}", fix)
    for key, translate in config.older_keys.items():
        if key in values:
            current = {**translate(values[key]), **current}
    return {key: typed(config, key, value, where) for key, value in current.items()}


def typed(config: type[Config], key: str, value: object, where: str) -> Any:
    """A value as the field `key` of a config has it.

    Raises:
        BadInputError: it is of another type.
    """
    option = next(option for option in options_of(config) if option.name == key)
    if value is None and option.default is None:
        return None
    return coerced(option.kind, value, key, where)
