r"""The parser of a command, which needs neither torch nor the methods."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import NoReturn

from ..errors import ConfigError, brief, known, meant
from .main import COMMANDS

__all__ = ["Collected", "Parser", "collecting", "known_option", "sentence"]


# Whether parsers hand themselves over in place of parsing, see `parser_of`.
COLLECTING: ContextVar[bool] = ContextVar("COLLECTING", default=False)


# Argparse's words of a value that is none, whose kind they name as Python does.
INVALID = re.compile(r"argument (\S+): invalid (int|float) value: (.*)", re.DOTALL)
KINDS = {"int": "a whole number", "float": "a number"}


class Collected(Exception):  # noqa: N818 (no error: a parser on its way)
    r"""Carries a command's parser out of it.

    Arguments:
        parser: The parser.
    """

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


class Parser(argparse.ArgumentParser):
    r"""Argparse, with errors of the library's kind, and what a command does in its help.

    Arguments:
        prog: The name of the command.
        add_help: Whether it has a help of its own.
    """

    def __init__(self, prog: str, *, add_help: bool = True) -> None:
        about = COMMANDS[prog].about if prog in COMMANDS else ""
        super().__init__(
            prog=f"vardiu {prog}",
            description=sentence(about),
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, width=79),
        )

    def error(self, message: str) -> NoReturn:
        if found := INVALID.fullmatch(message):
            option, kind, value = found.groups()
            message = f"{option}: {KINDS[kind]} was expected, got {brief(value)}"
        raise ConfigError(f"{message}. See {self.prog} --help")

    def parse_args(  # type: ignore[override]  # there is one kind of namespace here
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        r"""Returns what was typed; an unknown option is refused with the nearest one."""
        if COLLECTING.get():
            raise Collected(self)
        found, rest = self.parse_known_args(args, namespace)
        self.refuse(rest)
        return found

    def refuse(self, rest: Sequence[str]) -> None:
        r"""Raises a `ConfigError` if words are left, with the nearest option to the first one."""
        if rest:
            flags = list(self._option_string_actions)
            wrong = next((word for word in rest if word.startswith("-")), None)
            if wrong is not None:
                known_option(wrong.partition("=")[0], flags, self.prog, ())
            self.error(f"{' '.join(rest)[:60]!r} belongs to no option")


@contextlib.contextmanager
def collecting() -> Iterator[None]:
    r"""Has commands that are called hand over their parsers: see `Collected`."""
    token = COLLECTING.set(True)
    try:
        yield
    finally:
        COLLECTING.reset(token)


def known_option(typed: str, flags: Sequence[str], program: str, others: Sequence[str]) -> str:
    r"""Returns an option as it is spelled.

    Raises:
        ConfigError: There is none of this name; the message offers the nearest of them and of
            `others`.
    """
    try:
        return known(typed, flags, "option")
    except ConfigError:
        shown = brief(typed)
        offer = meant(shown, [*flags, *others])
        offer = f"; {offer}" if offer else "."
        raise ConfigError(f"unknown option {shown}{offer} See {program} --help") from None


def sentence(about: str) -> str:
    r"""Returns what a command does as a sentence."""
    return f"{about[:1].upper()}{about[1:]}{'' if about.endswith('?') else '.'}"
