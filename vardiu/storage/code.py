r"""Objects in the user's own code: `FILE.py:NAME` or `MODULE:NAME`.

A file is read once: the bytes that are hashed are the bytes that are executed.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["CODE_ERRORS", "is_source", "load_object"]


# What executing somebody else's module raises where the module is at fault.
CODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


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
    if name in sys.modules:
        return sys.modules[name], sha256
    module = types.ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses look up the types of their fields in the module of this name.
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except CODE_ERRORS as error:
        del sys.modules[name]
        raise ConfigError(f"{path}{_line(error, str(path))}: {_words(error)}") from error
    return module, sha256


def _import(name: str) -> tuple[types.ModuleType, str]:
    try:
        module = importlib.import_module(name)
    except CODE_ERRORS as error:
        raise ConfigError(f"the module {name} cannot be imported: {_words(error)}") from error
    if module.__file__ is None:
        raise ConfigError(f"the module {name} has no file: give FILE.py:NAME")
    return module, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _line(error: BaseException, path: str) -> str:
    r"""Returns the line of a file at which an error arose."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f", line {frames[-1].lineno}" if frames else ""
