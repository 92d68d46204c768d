"""Kinds of a thing that register themselves: optimizers, loggers, readers, roles, diagnoses.

A kind is one file in a package. Its class or function carries `@REGISTRY.register("name")`, and
from then on the name works wherever one is asked for. A package installed beside minitx adds its
own by an entry point in the registry's group, for example `minitx.optimizers`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from importlib import metadata
from typing import Any, Generic, TypeVar

from minitx.errors import BadInputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of the kinds of one thing, in the order in which they registered.

    Args:
        what: the thing in the singular, for messages, for example ``optimizer``.
        package: whose modules are imported when a name is first looked up, so that those in it
            register; also the group of entry points, with a plural (``minitx.optimizers``).
    """

    def __init__(self, what: str, package: str) -> None:
        self.what = what
        self._package = package
        self._group = f"minitx.{what.replace(' ', '_')}s"
        self._kinds: dict[str, T] = {}
        self._is_loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function, to be known by `name`.

        Raises:
            ValueError: another one has that name.
        """

        def keep(kind: T) -> T:
            known = self._kinds.setdefault(name, kind)
            if known is not kind:
                raise ValueError(f"there is already a {self.what} called {name!r}")
            return kind

        return keep

    def names(self) -> tuple[str, ...]:
        """All names, those of minitx first."""
        self._load()
        return tuple(self._kinds)

    def get(self, name: str) -> T:
        """What registered under a name.

        Raises:
            BadInputError: nothing did.
        """
        self._load()
        if name not in self._kinds:
            raise BadInputError(
                f"{self.what} is {name!r}", f"Choose one of {', '.join(self._kinds)}"
            )
        return self._kinds[name]

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for entry in _entry_points().select(group=self._group):
            entry.load()


@functools.cache
def _entry_points() -> Any:
    # Once for all registries: every package that is installed is looked through. What is given
    # back has another class before Python 3.12, with the same `select`.
    return metadata.entry_points()
