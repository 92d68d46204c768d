"""The code of a model of a person's own: a Python file, and those beside it that it imports.

The file has a function or a class `model`, which is given a `ModelConfig` and returns a
`torch.nn.Module` from ids `(B, T)` to logits `(B, T, vocab_size)`. A checkpoint keeps the files as
they were; what is executed is what was read and compared with its digest, and nothing else.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from minitx.config import ModelConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.files import describe_damage, read_bounded, shell_word
from minitx.trust import is_trusted

ENTRY = "model"
"""What is looked for in the file."""

_EXAMPLE = "def model(config): return MyModel(config.vocab_size, ...)"


@dataclass(frozen=True)
class OwnCode:
    """Source files by name, and which of them has the `model`."""

    file: str
    sources: dict[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of all files and their names."""
        each = {name: hashlib.sha256(text).hexdigest() for name, text in self.sources.items()}
        return hashlib.sha256(json.dumps([self.file, each], sort_keys=True).encode()).hexdigest()

    def build(self, config: ModelConfig) -> nn.Module:
        """Execute the files, and call `model(config)`.

        Raises:
            BadInputError: there is no `model`, it gives no module, or the code raises.
        """
        with self._importable(), self.told():
            entry = getattr(importlib.import_module(Path(self.file).stem), ENTRY, None)
            if not callable(entry):
                raise BadInputError(
                    f"{self.file} has no function or class `{ENTRY}`", f"Add one: {_EXAMPLE}"
                )
            module = entry(config)
        if not isinstance(module, nn.Module):
            what = f"{ENTRY}(config) in {self.file} gives {_kind(module)}, not a torch.nn.Module"
            raise BadInputError(what, f"Return the module: {_EXAMPLE}")
        return module

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell what the code raises in one line, with its place.

        Raises:
            BadInputError: instead of any exception but one for which there is no memory.
        """
        try:
            yield
        except (BadInputError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split())
            if "memory" in words.lower():
                raise
            lines = [
                f"{frame.filename}, line {frame.lineno}"
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename in self.sources
            ]
            where = lines[-1] if lines else self.file
            kind = type(error).__name__
            what = f"{where} raises {kind}{f': {words}' if words else ''}"
            raise BadInputError(what.rstrip("."), "Correct it, or install what it needs") from None

    @contextlib.contextmanager
    def _importable(self) -> Iterator[None]:
        # Under their own names for as long as they are executed: two models may each have a
        # `block.py`, and a notebook one that was edited since.
        finder, names = _Finder(self.sources), {Path(name).stem for name in self.sources}
        before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name in names:
                sys.modules.pop(name, None)
            sys.modules.update(before)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, sources: dict[str, bytes]) -> None:
        self._sources = sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if f"{name}.py" in self._sources else None

    def exec_module(self, module: ModuleType) -> None:
        name = f"{module.__name__}.py"
        exec(compile(self._sources[name], name, "exec", dont_inherit=True), module.__dict__)


def read_own_code(path: Path) -> OwnCode:
    """The code that a person names: a file, and what it imports of its directory. Nothing is run.

    Raises:
        BadInputError: it can't be read, is no Python, or imports a folder.
    """
    if path.suffix != ".py" or not path.stem.isidentifier() or _is_taken(path.stem, path.parent):
        raise BadInputError(
            f"--model {path} can't be imported by its name",
            "Give a Python file with a name of its own, for example my_model.py",
        )
    sources: dict[str, bytes] = {}
    left = [path.stem]
    while left:
        name = left.pop()
        file = path.with_name(f"{name}.py")
        try:
            sources[file.name] = read_bounded(file)
            imported = sorted(_imported(sources[file.name]))
        except SyntaxError as error:
            what = f"{file}, line {error.lineno}: Python can't read it: {error.msg}"
            raise BadInputError(what, "Correct it") from None
        except (OSError, ValueError) as error:
            what = f"{file} can't be read ({describe_damage(error)})"
            raise BadInputError(what, "Name a Python file that has the model") from None
        for other in imported:
            if f"{other}.py" in sources or _is_taken(other, path.parent):
                continue
            if path.with_name(f"{other}.py").is_file():
                left.append(other)
            elif path.with_name(other).joinpath("__init__.py").is_file():
                raise BadInputError(
                    f"{file} imports the folder {other}, and a run keeps single files",
                    "Put what it needs into files beside it",
                )
    return OwnCode(path.name, sources)


def read_kept_code(directory: Path, config: ModelConfig) -> OwnCode:
    """The code that a checkpoint keeps, which a person trusts.

    Raises:
        BadInputError: nobody has said that this code may run.
        DamagedFileError: it is not what its config says.
    """
    fix = "Use another checkpoint, or train again"
    try:
        sources = {path.name: read_bounded(path) for path in sorted(directory.glob("*.py"))}
    except (OSError, ValueError) as error:
        what = f"the code in {directory} can't be read ({describe_damage(error)})"
        raise DamagedFileError(what, fix) from None
    code = OwnCode(str(config.code_file), sources)
    if code.digest != config.code_digest:
        raise DamagedFileError(f"the code in {directory} is not what it was trained with", fix)
    if not is_trusted(code.digest):
        raise BadInputError(
            f"{directory} holds code of its own, {code.file}, and it was not trained with it here",
            "Read it; if you trust it, give --trust-code, for example: "
            f"minitx attn {shell_word(directory)} --check-mask --trust-code",
        )
    return code


def _imported(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_taken(name: str, directory: Path) -> bool:
    # By Python, or by a package that is loaded; a file of this directory may be loaded, too.
    file = getattr(sys.modules.get(name), "__file__", None)
    elsewhere = file is not None and Path(file).resolve().parent != directory.resolve()
    return elsewhere or name in sys.stdlib_module_names


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
