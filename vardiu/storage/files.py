r"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, shown

__all__ = [
    "LEAVINGS",
    "append_line",
    "claim",
    "clear_leavings",
    "is_left_behind",
    "naming",
    "new_file",
    "open_unlinked",
    "partial_of",
    "partial_suffix",
    "refuse_odd_name",
    "refuse_unwritable",
    "whole_file",
    "write_bytes_atomic",
    "write_text_atomic",
]


# What the files of this process are allowed; its mask is asked for once, as to ask is to set.
UMASK = os.umask(0o077)
os.umask(UMASK)
MODE = 0o666 & ~UMASK


# Names of what is not finished yet.
LEAVINGS = ".*.tmp-*"


def open_unlinked(path: str | Path, flags: int) -> int:
    r"""Opens a file of a run, made if it is not there, and never through a link.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    r"""Has an error of the system say which file it is of, where it does not: what is written to a
    full disk fails without a name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def append_line(path: str | Path, line: str) -> None:
    r"""Appends a line to a file, never through a link."""
    with naming(path), os.fdopen(open_unlinked(path, os.O_WRONLY | os.O_APPEND), "w") as file:
        file.write(line + "\n")


def refuse_odd_name(path: str | Path) -> None:
    r"""Raises a `ConfigError` if a path is no text, as readers of weights need: bytes that are no
    UTF-8, or a name that was read in another encoding."""
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the name {shown(path)} is no text in UTF-8, and weights in it could not be read: "
            "give another folder, or rename this one; in a terminal of another encoding set "
            "LC_ALL=C.UTF-8"
        ) from error


def new_file(path: str | Path, option: str = "--out") -> Path:
    r"""Returns a path where nothing is yet, not even a link to nothing.

    Raises:
        ConfigError: Something is there.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise ConfigError(
            f"{shown(path)} exists, and is not written over; give another with {option}"
        )
    return path


def refuse_unwritable(folder: Path) -> None:
    r"""Raises a `ConfigError` if nothing can be written into a folder, before there is anything to
    write; it is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{shown(folder)} cannot be written ({error.strerror}), and what is made would be "
            "lost: have it be written to, free some space, or copy it to where there is some"
        ) from error


def partial_suffix() -> str:
    r"""Returns how the names of this process's unfinished files and folders go on."""
    return f"tmp-{os.getpid()}-{platform.node() or 'here'}"


def is_left_behind(partial: Path) -> bool:
    r"""Whether something unfinished is of a process that has died: what is of another machine is
    taken to be of one that lives."""
    pid, _, rest = partial.name.rpartition(".tmp-")[2].partition("-")
    here = rest.partition("~")[0] in ("", platform.node() or "here")
    if not (here and pid.isascii() and pid.isdigit()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return int(pid) == os.getpid()


def clear_leavings(found: Iterable[Path], besides: Path | None = None) -> None:
    r"""Removes what processes that were killed have left unfinished.

    Arguments:
        found: What has a name as `LEAVINGS`.
        besides: One of them that is left as it is.
    """
    for partial in list(found):
        if partial == besides or not is_left_behind(partial):
            continue
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                partial.unlink()


def partial_of(path: Path, suffix: str = "") -> tuple[int, str]:
    r"""Opens a file beside the place of another, named after it, cut where it is long; an error
    names the other."""
    # No name of a host has a tilde.
    prefix = f".{path.name.removesuffix(suffix)[:80]}.{partial_suffix()}~"
    try:
        return tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_file(path: str | Path, *, fresh: bool = False) -> Iterator[Path]:
    r"""Gives a path to write to, of the same suffix; what was written there gets its name.

    A link in the file's place is replaced, and none is followed. Nothing is left of a failure.

    Arguments:
        path: The file.
        fresh: Whether a file that is there by then, of another process too, is left as it is.

    Raises:
        ConfigError: It is there.
    """
    path = Path(path)
    descriptor, partial = partial_of(path, path.suffix)
    os.close(descriptor)
    try:
        with naming(path):
            yield Path(partial)
        os.chmod(partial, MODE)
        if fresh:
            claim(path)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def claim(path: str | Path) -> None:
    r"""Makes an empty file, which nobody else can make after.

    Raises:
        ConfigError: Something is there.
    """
    try:
        with naming(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        new_file(path)
        raise


def write_text_atomic(path: str | Path, text: str) -> Path:
    r"""Writes a file whole or not at all: beside it, flushed, renamed."""
    write_bytes_atomic(path, text.encode())
    return Path(path)


def write_bytes_atomic(path: str | Path, data: bytes) -> dict[str, Any]:
    r"""Writes a file whole or not at all; a link in its place is replaced, not followed.

    Returns:
        The number of bytes, and their SHA-256 in hexadecimal digits.
    """
    path = Path(path)
    descriptor, partial = partial_of(path)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, MODE)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
