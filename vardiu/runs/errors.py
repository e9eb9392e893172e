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


def print_plainly(console: Console, text: str) -> None:
    r"""Prints a message as it is: on lines as they are, and with control characters, which a
    terminal would obey, written out."""
    safe = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    console.print(safe, highlight=False, markup=False, soft_wrap=True)


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
        print_plainly(errors, f"{error}, and saved. To go on: {again}")
        return 130
    except KeyboardInterrupt:
        again = command_line([name, *arguments])
        print_plainly(errors, f"stopped. What was saved before is kept. To go on: {again}")
        return 130
    except (ConfigError, RunError, CheckpointError, ValueError, FileNotFoundError) as error:
        print_plainly(errors, f"vardiu {name}: {error}")
        return 2
    except (Diverged, ExportError, OSError) as error:
        print_plainly(errors, f"vardiu {name}: {error}")
        return 1
    return 0
