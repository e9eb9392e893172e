r"""Digests of data, by which a run that is resumed knows them again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from .folders import is_hidden
from .sources import BOARD, expand

__all__ = ["digest_of_data"]


# Of a digest: how many files are read, how many bytes of a file, and how many at each of its ends
# where it is larger.
FILES, WHOLE, END = 1_024, 2**30, 2**26


def digest_of_data(source: str) -> str | None:
    r"""Returns the SHA-256 of the files of a source; `None` of what is on board or on a hub.

    It is of the names and the sizes of all files, and of the bytes of up to 1,024 of them, evenly
    spaced by name. Of a file of more than a gibibyte both ends are read, 64 mebibytes each: the
    index of an archive, with its checksums, is at one of them. Hidden files do not count.
    """
    if source in BOARD or source.startswith("hf://"):
        return None
    files: list[tuple[str, Path]] = []
    for place in map(Path, expand(source)):
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        named = [(str(file.relative_to(place.parent)), file) for file in below if file.is_file()]
        files += [(name, file) for name, file in named if not _is_below_hidden(name)]
    digest = hashlib.sha256()
    every = max(1, math.ceil(len(files) / FILES))
    for i, (name, file) in enumerate(files):
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if i % every == 0:
            for part in ends_of(file, size):
                digest.update(part)
    return digest.hexdigest()


def ends_of(path: Path, size: int) -> Iterator[bytes]:
    r"""Yields the bytes of a file, or those at both ends of a large one."""
    spans = [(0, size)] if size <= WHOLE else [(0, END), (size - END, END)]
    with path.open("rb") as file:
        for start, length in spans:
            file.seek(start)
            for done in range(0, length, 2**20):
                yield file.read(min(2**20, length - done))


def _is_below_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in Path(name).parts if part not in (".", ".."))
