r"""A log of lines that grows, read as far as it has grown, and thinned before it is parsed."""

from __future__ import annotations

import os
import re
import threading
from array import array
from pathlib import Path
from typing import Any

from ..errors import RunError, shown
from .limits import refuse_beyond

__all__ = ["LogLines"]


class LogLines:
    r"""The lines of a file, by the places where they end: a hundred thousand take a megabyte.

    Arguments:
        path: The file; it may not be there yet, or be replaced.
        mark: Lines with these bytes are the ones to keep where the log is thinned.
    """

    def __init__(self, path: Path, mark: bytes) -> None:
        self.path, self.mark = path, mark
        self.ends, self.marked = array("Q"), array("Q")
        self.identity: tuple[int, int] = (0, 0)
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ends)

    def read(self) -> int:
        r"""Reads what was added; returns the number of the first new line, which is zero where the
        file was replaced or cut. A last line without its end is left for later.

        Raises:
            RunError: The file is longer than the limit, or cannot be read.
        """
        try:
            about = os.stat(self.path)
        except OSError:
            about = None
        size = 0 if about is None else about.st_size
        refuse_beyond("log bytes", size, self.path, RunError)
        identity = (0, 0) if about is None else (about.st_dev, about.st_ino)
        done = self.ends[-1] if self.ends else 0
        if identity != self.identity or size < done:
            self.ends, self.marked, done = array("Q"), array("Q"), 0
            self.identity = identity
        first = len(self.ends)
        data = self._bytes(done, size)
        start = 0
        for found in re.finditer(b"\n", data):
            if data.find(self.mark, start, found.start()) >= 0:
                self.marked.append(len(self.ends))
            start = found.end()
            self.ends.append(done + start)
        return first

    def _bytes(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise RunError(f"{shown(self.path)} cannot be read: {error.strerror}") from error

    def line(self, index: int) -> bytes:
        r"""Returns a line without its end."""
        start = self.ends[index - 1] if index else 0
        return self._bytes(start, self.ends[index] - 1)

    def thinned(self, most: int) -> list[int]:
        r"""Returns the numbers of at most about `most` lines: evenly spaced ones of those that
        are marked and of all, the first and the last among them."""
        chosen = {*spaced(self.marked, most // 2), *spaced(range(len(self.ends)), most // 2)}
        return sorted(chosen)


def spaced(items: Any, most: int) -> list[int]:  # noqa: ANN401 (an array or a range)
    r"""Returns at most so many of some items, evenly spaced from the first to the last."""
    count = len(items)
    if count <= most:
        return list(items)
    return [items[round(i * (count - 1) / (most - 1))] for i in range(most)]
