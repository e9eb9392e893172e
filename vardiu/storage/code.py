r"""Objects in the user's own code: `FILE.py:NAME` or `MODULE:NAME`.

Own code is executed only where the user names it on this command line, or in a program of their
own. A file of settings (`--config`, a run's `config.yaml` or `model.json`) may say which code was
used and what its SHA-256 was; it never has code executed.

A file is read once: the bytes that are hashed are the bytes that are executed.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib
import inspect
import re
import sys
import traceback
import types
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import nn

from ..errors import ConfigError, shown

__all__ = [
    "CODE_ERRORS",
    "OwnCode",
    "is_source",
    "load_code",
    "load_object",
    "not_named",
    "recognised",
]


# What somebody else's module raises where it is at fault: errors of any library that it calls.
CODE_ERRORS = (Exception,)


@dataclass(frozen=True)
class OwnCode:
    r"""An object of the user's own code, and what identifies the file.

    Arguments:
        source: `FILE.py:NAME` or `MODULE:NAME`, as it was typed.
        sha256: The SHA-256 of the file: that of the run's beginning, where a run is gone on with.
        value: The object.
        executed: The SHA-256 of the bytes that were executed.
    """

    source: str
    sha256: str
    value: Any = field(compare=False, repr=False)
    executed: str = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        r"""The name of the object in its file."""
        return self.source.rpartition(":")[2]

    def same_name(self, kept: Any) -> bool:  # noqa: ANN401 (what a file holds)
        r"""Whether what a run keeps of own code is of an object of the same name."""
        source = kept.get("source") if isinstance(kept, Mapping) else None
        return str(source).rpartition(":")[2] == self.name

    def to_mapping(self) -> dict[str, str]:
        r"""Returns what a run keeps of it."""
        return {"source": self.source, "sha256": self.sha256}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a student that starts from a teacher shares the code that made it

    def made(self) -> Any:  # noqa: ANN401 (what the user's code makes)
        r"""Returns what the object makes: of a function without arguments what it returns, of any
        other object a copy, so that whoever asks has weights of their own.

        Raises:
            ConfigError: The function takes arguments, or calling it fails.
        """
        if isinstance(self.value, nn.Module) or not callable(self.value):
            return copy.deepcopy(self.value)
        needed = [
            p.name
            for p in inspect.signature(self.value).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if needed:
            raise ConfigError(
                f"{self.source} takes {', '.join(needed)}: name a function without arguments"
            )
        try:
            return self.value()
        except CODE_ERRORS as error:
            raise self.failure(error) from error

    def failure(self, error: Exception, what: str = "") -> ConfigError:
        r"""Returns the error to raise where the code fails: one line, with the line of its file.

        Arguments:
            error: What the code raised.
            what: What was asked of it.
        """
        path = self.source.rpartition(":")[0]
        where = f"{what} failed, " if what else ""
        return ConfigError(f"{self.source}{_line(error, path)}: {where}{_words(error)}")


# The SHA-256 of modules that own code imported by their plain names. A file that is named later on
# is not executed a second time: its classes would be other ones.
NEIGHBOURS: weakref.WeakKeyDictionary[types.ModuleType, str] = weakref.WeakKeyDictionary()


def load_code(source: str) -> OwnCode:
    r"""Returns an object of own code and what identifies its file; executes the file.

    Call it for what the user names on this command line or in a program, and never for what a
    file of settings holds.

    Raises:
        ConfigError: There is no such file, module or name, or executing it fails.
    """
    value, sha256 = load_object(source)
    return OwnCode(source, sha256, value, sha256)


def not_named(source: str, option: str, where: str = "this run") -> str:
    r"""Returns the message for code that a file of settings names, and the command line does not.

    Arguments:
        source: The code.
        option: The option that names it.
        where: Who names it.
    """
    return (
        f"{where} names own code, {shown(source)}, and a file names no code to execute: "
        f"repeat {option} {shown(source)}"
    )


C = TypeVar("C", bound=OwnCode)


def recognised(
    kept: Any,  # noqa: ANN401 (what a file holds)
    codes: Sequence[C],
    where: str,
    option: str = "--method",
    *,
    accept_changed: bool = False,
) -> C:
    r"""Returns the code that a run was begun with, out of what the command line names.

    Arguments:
        kept: What the run keeps, see `OwnCode.to_mapping`.
        codes: The code that the command line names.
        where: Whose code it is, for messages.
        option: The option that names it.
        accept_changed: Whether a file that was changed since may be taken.

    Raises:
        ConfigError: The command line does not name it, or the file was changed since.
    """
    if not isinstance(kept, Mapping) or set(kept) != {"source", "sha256"}:
        raise ConfigError(f"{where}: its group `code` must hold source and sha256 of each file")
    source, sha256 = str(kept["source"]), str(kept["sha256"])
    same = [code for code in codes if code.name == source.rpartition(":")[2]]
    exact = [code for code in codes if code.executed == sha256]
    if not same and not exact:
        raise ConfigError(not_named(source, option, where))
    if not exact and not accept_changed:
        raise ConfigError(
            f"{same[0].source} was changed since {where} (SHA-256 {sha256[:12]} then, "
            f"{same[0].executed[:12]} now): --accept-changed-code takes it as it is"
        )
    both = [code for code in exact if code in same]
    found = (both or exact or same)[0]
    return dataclasses.replace(found, source=source, sha256=sha256)


def is_source(text: str) -> bool:
    r"""Whether a text names an object in code: `FILE.py:NAME` or `MODULE:NAME`.

    Example:
        >>> is_source("mine/method.py:METHOD"), is_source("mine.method:METHOD")
        (True, True)
        >>> is_source("vardiu")
        False
    """
    return re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*", text) is not None


def load_object(source: str) -> tuple[Any, str]:
    r"""Executes a file, or imports a module, and returns one of its objects.

    A file may import its neighbours: its folder comes last on the path.

    Arguments:
        source: `FILE.py:NAME` or `MODULE:NAME`.

    Returns:
        The object, and the SHA-256 of the file in hexadecimal digits.

    Raises:
        ConfigError: There is no such file, module or name, or executing it fails.
    """
    if not is_source(source):
        raise ConfigError(f"{source!r} names no code: give FILE.py:NAME or MODULE:NAME")
    where, _, name = source.rpartition(":")
    if where.endswith(".py"):
        module, sha256 = _execute(Path(where))
    else:
        module, sha256 = _import(where)
    if not hasattr(module, name):
        raise ConfigError(f"{where} has no {name!r}")
    return getattr(module, name), sha256


def _execute(path: Path) -> tuple[types.ModuleType, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    # Two objects of one file belong together: the same bytes are executed once in a process.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    name = f"{path.stem}_{place[:8]}_{sha256[:12]}"
    known = _neighbour(path.resolve(), sha256) or sys.modules.get(name)
    if known is not None:
        return known, sha256
    module = types.ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses look up the types of their fields in the module of this name.
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except CODE_ERRORS as error:
        del sys.modules[name]
        raise ConfigError(f"{path}{_line(error, str(path))}: {_words(error)}") from error
    _note_neighbours(path.resolve().parent)
    return module, sha256


def _note_neighbours(folder: Path) -> None:
    r"""Keeps which files of a folder have been imported by their plain names."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not name.isidentifier() or not isinstance(file, str) or module in NEIGHBOURS:
            continue
        if Path(file).parent == folder and Path(file).is_file():
            NEIGHBOURS[module] = hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _neighbour(path: Path, sha256: str) -> types.ModuleType | None:
    r"""Returns the module that own code imported of this file, if its bytes are the same."""
    for module, executed in NEIGHBOURS.items():
        same = executed == sha256 and Path(str(module.__file__)).resolve() == path
        if same and sys.modules.get(module.__name__) is module:
            return module
    return None


def _import(name: str) -> tuple[types.ModuleType, str]:
    here = str(Path.cwd())
    if here not in sys.path:  # `vardiu` is a script: its own folder is first on the path
        sys.path.append(here)
    try:
        module = importlib.import_module(name)
    except CODE_ERRORS as error:
        raise ConfigError(f"the module {name} cannot be imported: {_words(error)}") from error
    if module.__file__ is None:
        raise ConfigError(f"the module {name} has no file: give FILE.py:NAME")
    return module, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(' '.join(str(error).split()))}"


def _line(error: BaseException, path: str) -> str:
    r"""Returns the line of a file at which an error arose."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f", line {frames[-1].lineno}" if frames else ""
