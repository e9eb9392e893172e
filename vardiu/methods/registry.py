r"""The table of methods: those of this package, of installed distributions, and of files.

A module of `vardiu.methods` is in the table if it has an object `METHOD`; a distribution adds its
own by an entry point of the group `vardiu.methods`. A file's method is never in the table: it
stands for the one command whose `--method FILE.py:NAME` names it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..storage.code import CODE_ERRORS, OwnCode, load_object
from .base import Method

__all__ = ["METHODS", "Code", "Methods", "load_method"]


GROUP = "vardiu.methods"


class Methods(Mapping[str, Method]):
    r"""Methods by name, the newest paper first. They are looked for at the first question.

    A distribution's method that cannot be loaded is left out of the table and named in `broken`.

    Raises:
        ConfigError: Two modules of the package share a name.
    """

    def __init__(self) -> None:
        self._found: dict[str, Method] | None = None
        self._broken: dict[str, str] = {}

    def __getitem__(self, name: str) -> Method:
        return self._table()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

    @property
    def broken(self) -> Mapping[str, str]:
        r"""By the name of an entry point, why its method cannot be used."""
        self._table()
        return self._broken

    def _table(self) -> dict[str, Method]:
        if self._found is None:
            self._found = newest_first(own_methods())
            self._broken = {}
            for point in sorted(importlib.metadata.entry_points(group=GROUP)):
                self._add(point)
            self._found = newest_first(self._found)
        return self._found

    def _add(self, point: importlib.metadata.EntryPoint) -> None:
        r"""Adds a distribution's method, or the reason why it cannot be used."""
        assert self._found is not None
        who = "an unknown distribution" if point.dist is None else point.dist.name
        try:
            method = point.load()
            checked(method, point.value)
            refuse_shared_names({**self._found}, method, point.value)
        except CODE_ERRORS as error:
            words = " ".join(str(error).split())
            self._broken[point.name] = (
                f"the method {point.name!r} of the distribution {who} cannot be used "
                f"({type(error).__name__}: {words}): update it, or pip uninstall {who}"
            )
            return
        self._found[method.name] = method


def own_methods() -> dict[str, Method]:
    r"""Returns the methods of this package by name.

    Raises:
        ConfigError: Two modules share the name of a method or of a preset.
    """
    package = importlib.import_module(__package__ or "")
    found: dict[str, Method] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f".{name}", __package__)
        if hasattr(module, "METHOD"):
            method = checked(module.METHOD, module.__name__)
            refuse_shared_names(found, method, module.__name__)
            found[method.name] = method
    return found


def newest_first(methods: Mapping[str, Method]) -> dict[str, Method]:
    r"""Returns methods by descending year of their paper, then by name."""
    return {m.name: m for m in sorted(methods.values(), key=lambda m: (-m.year, m.name))}


def checked(method: Any, where: str) -> Method:  # noqa: ANN401 (what a module holds)
    r"""Returns an object, which must be a method.

    Raises:
        ConfigError: It is no method.
    """
    if not isinstance(method, Method):
        raise ConfigError(f"{where} must be a vardiu.methods.Method, got {type(method).__name__}")
    return method


def refuse_shared_names(known: Mapping[str, Method], method: Method, where: str) -> None:
    r"""Raises a `ConfigError` if a method's name, or one of its presets', is taken."""
    if method.name in known:
        raise ConfigError(f"{where} has the name {method.name!r} of another method: rename one")
    for other in known.values():
        shared = sorted(set(other.presets) & set(method.presets))
        if shared and other.teaches == method.teaches:
            raise ConfigError(
                f"{where} has a preset {shared[0]!r}, as the method {other.name!r} has: "
                "rename one of them"
            )


class Code(OwnCode):
    r"""A method from a file, and what identifies the file."""

    @property
    def method(self) -> Method:
        r"""The method."""
        method: Method = self.value
        return method


def load_method(source: str) -> Code:
    r"""Returns the method that a name in the user's own code stands for.

    Raises:
        ConfigError: There is no such file or name, it is no method, or it has the name of another.
    """
    found, sha256 = load_object(source)
    method = checked(found, source)
    refuse_shared_names(METHODS, method, source)
    return Code(source, sha256, method, sha256)


METHODS = Methods()
