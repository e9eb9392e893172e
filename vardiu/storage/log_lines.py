r"""A log of lines that grows, read as far as it has grown, and thinned before it is parsed."""

from __future__ import annotations

import bisect
import os
import threading
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, shown
from .limits import refuse_beyond

__all__ = ["LogLines"]


# Bytes that are read at once.
PART = 2**24


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
        while done < size:
            part = self._bytes(done, min(size, done + PART))
            ends = np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n")) + 1
            if len(ends):
                self._mark(part, ends.tolist())
                self.ends.extend((ends + done).tolist())
                done = self.ends[-1]
            elif done + len(part) < size:  # one line, longer than a part
                part = self._bytes(done, size)
                end = part.find(b"\n") + 1
                if not end:
                    break
                self._mark(part, [end])
                self.ends.append(done + end)
                done += end
            else:
                break
        return first

    def _mark(self, part: bytes, ends: list[int]) -> None:
        r"""Adds the numbers of lines with the mark, of a part and where its lines end."""
        place = part.find(self.mark)
        while 0 <= place < ends[-1]:
            number = bisect.bisect_right(ends, place)
            self.marked.append(len(self.ends) + number)
            place = part.find(self.mark, ends[number])

    def _bytes(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise RunError(f"{shown(self.path)} cannot be read: {error.strerror}") from error

    def lines(self, first: int) -> list[bytes]:
        r"""Returns the lines from one on, each without its end."""
        if first >= len(self.ends):
            return []
        start = self.ends[first - 1] if first else 0
        return self._bytes(start, self.ends[-1] - 1).split(b"\n")

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
