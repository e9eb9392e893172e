r"""What ends a command: one clear message and an exit status."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from rich.console import Console

from ..errors import CheckpointError, ConfigError, Diverged, ExportError, Interrupted, RunError

errors = Console(stderr=True, emoji=False)


def command_line(arguments: Sequence[str]) -> str:
    r"""Returns a command as it can be typed."""
    return shlex.join(["vardiu", *arguments])


def guarded(
    function: Callable[[list[str]], None],
    name: str,
    arguments: list[str],
    errors: Console = errors,
) -> int:
    r"""Runs a command; what a user can cure ends in one clear message."""
    try:
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
