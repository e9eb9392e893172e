r"""PNG files that are written row by row: an image of any size in the memory of some rows.

References:
    | Portable Network Graphics Specification (Third Edition), https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import IO, Self

import numpy as np

__all__ = ["PNGRows"]


SIGNATURE = b"\x89PNG\r\n\x1a\n"


# Each row is filtered by what is left of a pixel, which suits photographs.
SUB = 1


class PNGRows:
    r"""Writes an image of eight bits, grey or of three colours, as its rows come.

    Arguments:
        file: Open for writing bytes.
        width: The width in pixels.
        height: The height.
        channels: 1 or 3.
    """

    def __init__(self, file: IO[bytes], width: int, height: int, channels: int) -> None:
        self.file, self.shape, self.left = file, (width, channels), height
        self.packer = zlib.compressobj(4)
        file.write(SIGNATURE)
        kind = {1: 0, 3: 2}[channels]
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))

    def write(self, rows: np.ndarray) -> None:
        r"""Writes further rows, `(h, width, channels)`, of bytes.

        Raises:
            ValueError: They are of another shape or type, or more than there are.
        """
        if rows.dtype != np.uint8 or rows.shape[1:] != self.shape or len(rows) > self.left:
            raise ValueError(
                f"rows must be bytes of shape (at most {self.left}, {self.shape[0]}, "
                f"{self.shape[1]}), got {rows.dtype} {rows.shape}"
            )
        self.left -= len(rows)
        before = np.concatenate([np.zeros_like(rows[:, :1]), rows[:, :-1]], axis=1)
        filtered = (rows - before).reshape(len(rows), -1)
        lines = np.insert(filtered, 0, SUB, axis=1).astype(np.uint8)
        self._chunk(b"IDAT", self.packer.compress(lines.tobytes()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self.left:
                raise ValueError(f"{self.left:,} rows of the image are missing")
            self._chunk(b"IDAT", self.packer.flush())
            self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        if data or name != b"IDAT":
            self.file.write(struct.pack(">I", len(data)) + name + data)
            self.file.write(struct.pack(">I", zlib.crc32(name + data)))
