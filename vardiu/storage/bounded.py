r"""Files that somebody else wrote, read within limits: bytes, text, JSON and YAML."""

from __future__ import annotations

import codecs
import json
import os
import stat
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from ..errors import ConfigError, shown
from .limits import limit, refuse_beyond

__all__ = [
    "DAMAGED",
    "decoded_text",
    "open_regular",
    "parsed_json",
    "read_bytes",
    "read_json",
    "read_text",
    "read_yaml",
]


# What parsers that are not ours raise, led by damaged bytes: the caller says which file it was.
DAMAGED: tuple[type[Exception], ...] = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tarfile.TarError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


# What JSON and YAML make of groups and lists. To ask for any mapping takes five times as long.
HOLDERS = (dict, list)


KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bytes(
    path: str | Path, bound: str = "settings bytes", error: type[ValueError] = ConfigError
) -> bytes:
    r"""Returns the bytes of a regular file.

    Arguments:
        path: The file.
        bound: The limit of its bytes, a name of `LIMITS`.
        error: The type of the error.

    Raises:
        ValueError: The file is missing, cannot be read, is no regular file, or is beyond the
            limit; of the type that was asked for.
    """
    with open_regular(path, error) as file:
        refuse_beyond(bound, os.fstat(file.fileno()).st_size, path, error)
        try:
            data = file.read(limit(bound) + 1)
        except OSError as problem:
            raise error(f"{shown(path)} cannot be read: {problem.strerror}") from problem
    refuse_beyond(bound, len(data), path, error)  # it may grow, or state no size
    return data


def open_regular(path: str | Path, error: type[ValueError] = ConfigError) -> BinaryIO:
    r"""Opens a regular file to read its bytes.

    Raises:
        ValueError: It is missing, cannot be opened, or is no regular file; of the type that was
            asked for.
    """
    try:
        # To open a device or a FIFO may already have an effect, or wait for ever.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb", opener=_without_waiting)
    except (OSError, ValueError) as problem:  # a name with a null byte is a ValueError
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{shown(path)} cannot be read: {why}") from problem
    kind = next((name for test, name in KINDS if test(mode)), "no file")
    raise error(f"{shown(path)} is {kind}, and a regular file is needed")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def decoded_text(data: bytes, name: object, error: type[ValueError] = ConfigError) -> str:
    r"""Returns bytes as text: UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        ValueError: They are neither; the message names the first byte that is not.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{shown(name)} is not text in UTF-8 (byte {problem.start:,}); save it as UTF-8"
        ) from problem
    if "\0" in text:  # UTF-16 without a mark is UTF-8 with a null after each letter
        raise error(
            f"{shown(name)} is not text: it has a null character (number "
            f"{text.index(chr(0)):,}); save it as UTF-8"
        )
    return text


def read_text(
    path: str | Path, bound: str = "settings bytes", error: type[ValueError] = ConfigError
) -> str:
    r"""Returns the text of a file, see `read_bytes` and `decoded_text`."""
    return decoded_text(read_bytes(path, bound, error), path, error)


def parsed_json(text: str, name: object, error: type[ValueError] = ConfigError) -> Any:  # noqa: ANN401
    r"""Returns what a text is in JSON.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as problem:
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        empty = "it is empty" if not text.strip() else why
        raise error(f"{shown(name)} is not JSON: {empty}") from problem
    _refuse_depth(value, name, error)
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    r"""Returns the mapping of pairs, and refuses a key that comes twice: which one is meant?"""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"it states {shown(_twice(key for key, _ in pairs))} twice")
    return found


def _twice(keys: Iterable[Hashable]) -> Hashable:
    return next(key for key, count in Counter(keys).items() if count > 1)


def read_json(
    path: str | Path,
    kind: type = dict,
    bound: str = "settings bytes",
    error: type[ValueError] = ConfigError,
) -> Any:  # noqa: ANN401 (JSON)
    r"""Returns what is in a JSON file.

    Arguments:
        path: The file.
        kind: What it must hold: `dict`, `list`, or `object` for anything.
        bound: The limit of its bytes.
        error: The type of the error.

    Raises:
        ValueError: It cannot be read, is not JSON, or holds something else.
    """
    value = parsed_json(read_text(path, bound, error), path, error)
    return _of_kind(value, kind, path, error)


class _Loader(yaml.SafeLoader):
    r"""YAML of plain values, whose aliases are counted before they are followed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.aliases, self.depth = 0, 0

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401 (yaml's)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            raise ValueError(f"it states {shown(_twice(keys))} twice")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 (yaml's own)
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            refuse_beyond("settings aliases", self.aliases, "it")
        self.depth += 1
        refuse_beyond("settings depth", self.depth, "it")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(path: str | Path, kind: type = dict, error: type[ValueError] = ConfigError) -> Any:  # noqa: ANN401 (YAML)
    r"""Returns what is in a YAML file of plain values, see `read_json`.

    Raises:
        ValueError: It cannot be read, is not YAML, or holds something else.
    """
    text = read_text(path, error=error)
    loader = None
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as problem:
        why = " ".join(str(problem).split())
        raise error(f"{shown(path)} is not YAML: {shown(why)}") from problem
    finally:
        if loader is not None:
            loader.dispose()
    _refuse_depth(value, path, error)  # an alias of what holds it has no end
    return _of_kind(value, kind, path, error)


def _of_kind(value: Any, kind: type, path: object, error: type[ValueError]) -> Any:  # noqa: ANN401
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "a mapping", list: "a list"}
        found = "nothing" if value is None else shown(value)
        raise error(f"{shown(path)} must hold {names.get(kind, kind.__name__)}, got {found}")
    return value


def _refuse_depth(value: Any, name: object, error: type[ValueError]) -> None:  # noqa: ANN401
    # Of each level every list and mapping once: aliases may name one a thousand million times.
    level: list[Any] = [value]
    for depth in range(limit("settings depth") + 2):
        refuse_beyond("settings depth", depth, name, error)
        below: dict[int, Any] = {}
        for item in level:
            parts = item.values() if isinstance(item, dict) else item
            if isinstance(item, HOLDERS):
                below |= {id(part): part for part in parts if isinstance(part, HOLDERS)}
        if not below:
            return
        level = list(below.values())
