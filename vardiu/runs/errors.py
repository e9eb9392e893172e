r"""What ends a command: one clear message and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ..errors import (
    CheckpointError,
    ConfigError,
    Diverged,
    ExportError,
    Interrupted,
    ProcessLost,
    RunError,
    shown,
)
from ..storage.launch import are_launched, is_first_to_tell
from .output import Output, drop

errors = Output(stderr=True, emoji=False)


# Commands that several processes may share.
SHARED = ("distill", "teach")


# Of a disk that is full, of a user who may fill no more of it, of one that is read only, of a file
# that may not be larger.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def command_line(arguments: Sequence[str]) -> str:
    r"""Returns a command as it can be typed."""
    if are_launched():
        return "the same torchrun ... " + shlex.join(["-m", "vardiu", *arguments])
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
    r"""Runs a command; what a user can cure ends in one clear message, that of one process."""
    try:
        refuse_processes(name)
        with short_warnings(), joined():
            function(arguments)
    except Interrupted as error:
        again = command_line([name, *arguments])
        return told(errors, f"{error}, and saved. To go on: {again}", 130)
    except KeyboardInterrupt:
        again = command_line([name, *arguments])
        return told(errors, f"stopped. What was saved before is kept. To go on: {again}", 130)
    except (ConfigError, RunError, CheckpointError, ValueError, FileNotFoundError) as error:
        return told(errors, f"vardiu {name}: {error}", 2)
    except BrokenPipeError:  # by `print`, of a command that only tells
        drop(sys.stdout)
        return 1
    except OSError as error:
        return told(errors, f"vardiu {name}: {of_disk(error)}", 1)
    except (Diverged, ExportError, ProcessLost) as error:
        return told(errors, f"vardiu {name}: {error}", 1)
    except memory_errors() as error:
        return told(errors, f"vardiu {name}: {of_memory(error, name)}", 1)
    except Exception as error:
        if is_first_to_tell(repr(error)):
            raise
        return 1
    return 0


def memory_errors() -> tuple[type[Exception], ...]:
    r"""Returns what is raised where a device has too little memory. Who has not imported torch
    has no such error, and does not wait for the import here."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.OutOfMemoryError,)


def of_memory(error: Exception, name: str) -> str:
    r"""Returns what a device without memory left says, with the cure."""
    first = shown((str(error).splitlines() or ["out of memory"])[0])
    if name not in SHARED:
        return f"the device has too little memory ({first}): free some of it, or take --device cpu"
    return (
        f"the device has too little memory ({first}). What was saved before is kept, and the same "
        "command goes on from it once there is more. Or begin anew with less, in another folder "
        "(--out): --accumulate 2, --economy.checkpoint all, --precision bfloat16, or a smaller "
        "--batch"
    )


def of_disk(error: OSError) -> str:
    r"""Returns what an error of the system says; of a disk that takes nothing more, with the
    cure."""
    if error.errno not in UNWRITABLE:
        return str(error)
    return (
        f"{shown(str(error.filename or 'a file'))} cannot be written ({error.strerror}). What was "
        "written before is kept. Free some space or have the place be written to, then run the "
        "same command again"
    )


def told(errors: Console, message: str, status: int) -> int:
    r"""Prints a message, if no other process of this run has told why it ends; returns the
    status."""
    if is_first_to_tell(message):
        print_plainly(errors, message)
    return status


def joined() -> contextlib.AbstractContextManager[None]:
    r"""Has this process take part in the run that `torchrun` started it for."""
    if not are_launched():
        return contextlib.nullcontext()
    from ..storage import processes  # imports torch, which takes seconds

    return processes.joined()


def refuse_processes(name: str) -> None:
    r"""Raises a `ConfigError` if several processes were started for a command that is one's."""
    if are_launched() and name not in SHARED:
        world = os.environ["WORLD_SIZE"]
        raise ConfigError(
            f"torchrun has started {world} processes, and this command is the work of one: leave "
            f"torchrun away. Those that share work are {' and '.join(SHARED)}"
        )
