r"""Rows of settings as options of a command: what there is, what was typed, and its help."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from ..errors import ConfigError, known
from .parser import known_option

__all__ = ["Option", "options_of", "parse_rows"]


# Where a help says what a command is about.
MARK = "ABOUT"


# What the parser says of a value that it cannot read, and what it should have been.
MISREAD: Mapping[str, str] = {
    rf": no type matching {{None}}\|{kind} could .*? from \['(?P<value>.*?)'\].*": expected
    for kind, expected in (("INT", "a whole number or none"), ("FLOAT", "a number or none"))
} | {
    r": invalid literal for int\(\) with base 10: '(?P<value>.*?)'.*": "a whole number",
    r": could not convert string to float: '(?P<value>.*?)'.*": "a number",
}


class Option(NamedTuple):
    r"""An option of a row of settings.

    Arguments:
        flag: What is typed.
        choices: What it may be; empty where it is not one of a few.
        optional: Whether it is a number or none; of a text `none` is a text.
    """

    flag: str
    choices: tuple[str, ...] = ()
    optional: bool = False


def options_of(row: Any, prefix: str = "") -> Iterator[Option]:  # noqa: ANN401 (any dataclass)
    r"""Yields the options of a dataclass or of its class, and those of the rows in it.

    Arguments:
        row: The settings, or their class.
        prefix: What stands before their names.
    """
    hints = typing.get_type_hints(row if isinstance(row, type) else type(row))
    for field in dataclasses.fields(row):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        inner = _row_in(hint)
        if inner is not None:
            if type(None) in typing.get_args(hint):
                yield Option(f"--{prefix}{name}")
            yield from options_of(inner, f"{prefix}{name}.")
            continue
        yield Option(f"--{prefix}{name}", _choices(hint), _is_optional_number(hint))
        if hint is bool:
            yield Option(f"--{prefix}no-{name}")


def _row_in(hint: Any) -> type | None:  # noqa: ANN401 (any annotation)
    r"""Returns the dataclass that a field holds, or may hold."""
    for part in (hint, *_parts(hint)):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def _parts(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 (any annotation)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else ()


def _choices(hint: Any) -> tuple[str, ...]:  # noqa: ANN401 (any annotation)
    for part in (hint, *_parts(hint)):
        if typing.get_origin(part) is Literal:
            found = tuple(str(choice) for choice in typing.get_args(part))
            return (*found, "None") if type(None) in _parts(hint) else found
    return ()


def _is_optional_number(hint: Any) -> bool:  # noqa: ANN401 (any annotation)
    parts = set(_parts(hint))
    return type(None) in parts and bool(parts & {int, float})


def parse_rows(
    rows: Mapping[str, Any],
    arguments: Sequence[str],
    program: str,
    about: str,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    r"""Returns rows of settings with what the command line gives.

    A row that may be none, and is, can be given by its fields, and taken away by `none`.

    Arguments:
        rows: The rows by name.
        arguments: The words.
        program: The command, for the help.
        about: What the help says first.
        others: Further options that the command has, to offer them where one is unknown.

    Raises:
        ConfigError: An option is unknown or has a value that it cannot have, in one line.
        SystemExit: The help was asked for, and printed.
    """
    if not arguments:
        return dict(rows)
    import tyro

    words, closed = _closed(_spelled(arguments, rows, program, others), rows)
    opened = {name: _opened(row, closed) for name, row in rows.items()}
    # Without a name of their own the groups' fields are options of the command itself.
    top = tyro.conf.arg(name="")
    table: type[Any] = dataclasses.make_dataclass(
        "Options",
        [
            (name, Annotated[type(row), top], dataclasses.field(default=row))
            for name, row in opened.items()
        ],
        frozen=True,
    )
    told, helped = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(helped):
            found, rest = tyro.cli(
                table,
                config=(tyro.conf.AvoidSubcommands,),
                prog=program,
                description=MARK,
                args=words,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            # The library does not wrap what is said first.
            print(helped.getvalue().replace(MARK, textwrap.fill(about, 79)), end="")
            raise
        raise ConfigError(f"{_told(stop, told.getvalue())}. See {program} --help") from None
    if rest:
        raise ConfigError(f"{' '.join(rest)[:60]!r} belongs to no option. See {program} --help")
    return {name: _settled(row, getattr(found, name), words, closed) for name, row in rows.items()}


def _spelled(
    arguments: Sequence[str], rows: Mapping[str, Any], program: str, others: Sequence[str]
) -> list[str]:
    r"""Returns the words with options, and values that are one of a few, as they are spelled.

    Raises:
        ConfigError: There is no such option or value.
    """
    table = {option.flag: option for row in rows.values() for option in options_of(row)}
    words: list[str] = []
    asked: Option | None = None  # whose value is to come
    for word in arguments:
        if asked is not None and not word.startswith("--"):
            word = _value(asked, word)
        asked = None
        if word.startswith("--") and word not in ("--", "--help"):
            typed, mark, value = word.partition("=")
            option = table[known_option(typed, [*table], program, others)]
            word = f"{option.flag}={_value(option, value)}" if mark else option.flag
            asked = None if mark else option
        words.append(word)
    return words


def _value(option: Option, word: str) -> str:
    r"""Returns a value as the parser spells it, which writes none as Python does."""
    if option.choices:
        return known(word, option.choices, f"value of {option.flag}:")
    return "None" if option.optional and word.lower() == "none" else word


def _optional_rows(row: Any) -> Iterator[tuple[str, str, type]]:  # noqa: ANN401
    r"""Yields the fields that hold a row or none: flag, name and the row's class."""
    hints = typing.get_type_hints(type(row))
    for field in dataclasses.fields(row):
        inner = _row_in(hints[field.name])
        if inner is not None and type(None) in typing.get_args(hints[field.name]):
            yield f"--{field.name.replace('_', '-')}", field.name, inner


def _opened(row: Any, closed: set[str]) -> Any:  # noqa: ANN401 (any dataclass)
    r"""Returns a row whose optional rows are there, so that their fields are options; those that
    are taken away with the values that say nothing."""
    there = {
        name: inner()
        for flag, name, inner in _optional_rows(row)
        if getattr(row, name) is None or flag in closed
    }
    return dataclasses.replace(row, **there)


def _closed(words: list[str], rows: Mapping[str, Any]) -> tuple[list[str], set[str]]:
    r"""Returns the words without those that take a row away, and the flags of these rows."""
    flags = {flag for row in rows.values() for flag, _, _ in _optional_rows(row)}
    kept: list[str] = []
    closed: set[str] = set()
    for word in words:
        if kept and kept[-1] in flags:
            if word.lower() != "none":
                raise ConfigError(f"{kept[-1]} is a group: give {kept[-1]}.FIELD, or none")
            closed.add(kept.pop())
        else:
            kept.append(word)
    return kept, closed


def _settled(row: Any, found: Any, words: Sequence[str], closed: set[str]) -> Any:  # noqa: ANN401
    r"""Returns what was parsed, with no optional row that nobody asked for."""
    gone = {
        name: None
        for flag, name, _ in _optional_rows(row)
        if flag in closed
        or (getattr(row, name) is None and not any(word.startswith(f"{flag}.") for word in words))
    }
    return dataclasses.replace(found, **gone)


def _told(stop: SystemExit, told: str) -> str:
    r"""Returns in a line why the parser stopped: a row's own words where a row refused its
    values, with the row's name if they lack it."""
    line, error = _one_line(told), stop.__context__
    while error is not None and not isinstance(error, ConfigError):
        error = error.__context__
    if error is None:
        return line
    named = re.match(r".*?Error parsing \w+\.([\w.-]+):", line)
    group = "" if named is None else named[1].replace("-", "_")
    return f"{error}" if group in f"{error}" else f"{group}: {error}"


def _one_line(told: str) -> str:
    r"""Returns the message that the parser drew under a heading, in a box or between rules."""
    parts: list[list[str]] = [[]]
    for line in told.splitlines():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ")
        if len(plain) > 3 and set(plain) <= {"─", "-"}:
            parts.append([])
        elif plain and "─" not in plain:  # a box has its heading in its border
            parts[-1].append(plain)
    heading = 0 if "│" in told else 1
    words = " ".join(next((part for part in parts[heading:] if part), []))
    for pattern, expected in MISREAD.items():
        found = re.search(pattern, words)
        if found is not None:
            return f"{words[: found.start()]}: {expected} was expected, got {found['value']!r}"
    return words.rstrip(".") or "it cannot be read"
