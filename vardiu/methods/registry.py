r"""The table of methods: those of this package, of installed distributions, and of files.

A module of `vardiu.methods` is in the table if it has an object `METHOD`; a distribution adds its
own by an entry point of the group `vardiu.methods`. A file's method is never in the table: it
stands for the one command whose `--method FILE.py:NAME` names it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..storage.code import CODE_ERRORS, load_object
from .base import Method

__all__ = ["METHODS", "Code", "Methods", "load_method", "recognised"]


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
        if shared and other.needs.teacher == method.needs.teacher:
            raise ConfigError(
                f"{where} has a preset {shared[0]!r}, as the method {other.name!r} has: "
                "rename one of them"
            )


@dataclass(frozen=True)
class Code:
    r"""A method from a file, and what identifies the file.

    Arguments:
        source: `FILE.py:NAME` or `MODULE:NAME`, as it was typed.
        sha256: The SHA-256 of the file: that of the run's beginning, where a run is gone on with.
        method: The method.
        executed: The SHA-256 of the bytes that were executed.
    """

    source: str
    sha256: str
    method: Method = field(compare=False, repr=False)
    executed: str = field(compare=False, repr=False)

    def to_mapping(self) -> dict[str, str]:
        r"""Returns what a run keeps of it."""
        return {"source": self.source, "sha256": self.sha256}


def load_method(source: str) -> Code:
    r"""Returns the method that a name in the user's own code stands for.

    Raises:
        ConfigError: There is no such file or name, it is no method, or it has the name of another.
    """
    found, sha256 = load_object(source)
    method = checked(found, source)
    refuse_shared_names(METHODS, method, source)
    return Code(source, sha256, method, sha256)


def recognised(
    kept: Mapping[str, Any], codes: Sequence[Code], where: str, *, accept_changed: bool = False
) -> Code:
    r"""Returns the code that a run was begun with, out of what the command line names.

    Arguments:
        kept: What the run keeps, see `Code.to_mapping`.
        codes: The methods from files that the command line names.
        where: Whose code it is, for messages.
        accept_changed: Whether a file that was changed since may be taken.

    Raises:
        ConfigError: The command line does not name it, or the file was changed since.
    """
    if not isinstance(kept, Mapping) or set(kept) != {"source", "sha256"}:
        raise ConfigError(f"{where}: its group `code` must hold source and sha256, got {kept!r}")
    source, sha256 = str(kept["source"]), str(kept["sha256"])
    name = source.rpartition(":")[2]
    same = [code for code in codes if code.source.rpartition(":")[2] == name]
    if not same:
        raise ConfigError(
            f"{where} is by a method of the file {source}, and a folder names no code to execute: "
            f"repeat --method {source}"
        )
    exact = [code for code in same if code.executed == sha256]
    if not exact and not accept_changed:
        raise ConfigError(
            f"{same[0].source} was changed since {where} (SHA-256 {sha256[:12]} then, "
            f"{same[0].executed[:12]} now): --accept-changed-code takes it as it is"
        )
    found = (exact or same)[0]
    return Code(source, sha256, found.method, found.executed)


METHODS = Methods()
