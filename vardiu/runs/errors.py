r"""What ends a command: one clear message and an exit status."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ..errors import CheckpointError, ConfigError, Diverged, ExportError, Interrupted, RunError

errors = Console(stderr=True, emoji=False)


def command_line(arguments: Sequence[str]) -> str:
    r"""Returns a command as it can be typed."""
    return shlex.join(["vardiu", *arguments])


@contextlib.contextmanager
def short_warnings() -> Iterator[None]:
    r"""Has the warnings of this package be one line, without the code that they come from."""
    full, own = warnings.formatwarning, str(Path(__file__).parent.parent)

    def form(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if filename.startswith(own):
            return f"warning: {message}\n"
        return full(message, category, filename, lineno, line)

    warnings.formatwarning = form
    try:
        yield
    finally:
        warnings.formatwarning = full


def guarded(
    function: Callable[[list[str]], None],
    name: str,
    arguments: list[str],
    errors: Console = errors,
) -> int:
    r"""Runs a command; what a user can cure ends in one clear message."""
    try:
        with short_warnings():
            function(arguments)
    except Interrupted as error:
        again = command_line([name, *arguments])
        errors.print(f"{error}, and saved. To go on: {again}", highlight=False, soft_wrap=True)
        return 130
    except (ConfigError, RunError, CheckpointError, ValueError, FileNotFoundError) as error:
        errors.print(f"vardiu {name}: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except (Diverged, ExportError, OSError) as error:
        errors.print(f"vardiu {name}: {error}", highlight=False, markup=False, soft_wrap=True)
        return 1
    return 0
