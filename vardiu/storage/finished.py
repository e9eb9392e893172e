r"""Batches of things that are made one after another, and gone on with by the same command.

What is finished is known by its description, a JSON file that is written last. It says what the
thing was made of: the same is skipped, and another is refused and left as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import RunError, shown
from .bounded import read_json
from .files import LEAVINGS, clear_leavings, write_text_atomic

__all__ = [
    "describe",
    "is_finished",
    "refuse_foreign",
    "refuse_place",
    "sole_writer",
    "whole_folder",
]


def is_finished(description: Path, of: Mapping[str, Any], place: Path | None = None) -> bool:
    r"""Whether a thing was made before, of the same as is asked for.

    Arguments:
        description: Its description.
        of: What of a description must be as it is now, by the names that messages have.
        place: What messages call it; the description itself by default.

    Raises:
        RunError: It was made of something else, or the description is damaged.
    """
    if not description.is_file():
        return False
    found = read_json(description, error=RunError)
    for key, value in of.items():
        if found.get(key) != value:
            raise RunError(
                f"{shown(place or description)} is of another {key} and is not written over: give "
                "another folder with --out"
            )
    return True


def describe(description: Path, row: Mapping[str, Any]) -> None:
    r"""Writes a description, by which what it is of is finished."""
    write_text_atomic(description, json.dumps(row, indent=2) + "\n")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    r"""Gives a folder beside another's place; it gets its name when all in it was written.

    Nothing of it stays of a failure, and what a process left that was killed is removed.
    """
    work = folder.with_name(f".{folder.name[:40]}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def refuse_foreign(folder: Path, what: str, mark: str, own: Sequence[str] = ()) -> None:
    r"""Raises a `RunError` if a folder holds something, and nothing that was made before by what
    is to work in it.

    Arguments:
        folder: The folder; it may not be there.
        what: What would be there, for the message.
        mark: The file by which it is known.
        own: Patterns of what else may be there, without the mark.
    """
    if not os.path.isdir(folder) or os.path.isfile(folder / mark):
        return
    if any(not any(fnmatch(name, each) for each in own) for name in os.listdir(folder)):
        raise RunError(
            f"{shown(folder)} is not empty and holds no {what} (no {mark}). Give another folder "
            "with --out"
        )


def refuse_place(folder: Path) -> None:
    r"""Raises a `RunError` if a folder cannot be written or made, as far as that can be told
    without making it."""
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long
        raise _unwritable(folder, error.strerror) from error
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise _unwritable(folder, "Not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, "Permission denied")


def _unwritable(folder: Path, why: str | None) -> RunError:
    return RunError(
        f"{shown(folder)} cannot be written ({why}): give a folder that can with --out"
    )


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    r"""Makes this process the only one that writes into a folder, which is made if it is not
    there; the system lifts the lock if the process dies. What processes that were killed have left
    unfinished in it is removed.

    Raises:
        RunError: Another process writes to it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process writes to {shown(folder)}: wait for it, stop it, or give "
                "another folder with --out"
            ) from error
        clear_leavings(folder.glob(LEAVINGS))
        yield
    finally:
        os.close(descriptor)
