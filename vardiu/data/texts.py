r"""Prompts of a file: a text file is read by the places of its lines, and never held whole.

Of each line that is not empty the index has the byte at which it begins, eight bytes a prompt. A
prompt is read when it is asked for, from its own place. The index is made in one pass over the
file, in which every byte is seen to be UTF-8; where a folder is given, it is kept there under the
SHA-256 of the file, verified, and mapped into memory.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, overload

import numpy as np

from ..errors import ConfigError, shown
from ..storage.bounded import DAMAGED, open_regular, read_json, read_text
from ..storage.checkpoints import digest_of_file
from ..storage.files import whole_file, write_text_atomic
from ..storage.limits import limit, refuse_beyond
from .tables import TABLES, read_captions

__all__ = ["Lines", "Listed", "Prompts", "open_prompts", "read_prompts"]


# Bytes of a file that are looked at at once, while it is indexed.
BLOCK = 2**20


# The suffixes of files with a prompt a line.
PLAIN = ("", ".txt", ".text", ".prompts", ".md")


INDEX = "index.json"


class Prompts(Sequence[str]):
    r"""The interface: texts by their place.

    Attributes:
        sha256: The digest of their content.
        empty: How many lines were left out as they are empty, and the number of the first.
    """

    sha256: str
    empty: tuple[int, int] = (0, 0)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(i) for i in places]

    def at(self, place: int) -> str:
        r"""Returns the text of a place."""
        raise NotImplementedError

    def place_of(self, text: str) -> int | None:
        r"""Returns the first place that has a text; none where it is nowhere."""
        keys, order = self._keys
        first = int(np.searchsorted(keys, _key(text)))
        while first < len(keys) and keys[first] == _key(text):
            if self.at(int(order[first])) == text:
                return int(order[first])
            first += 1  # another text of the same key
        return None

    @functools.cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        keys = np.fromiter((_key(text) for text in self), np.uint64, len(self))
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def __deepcopy__(self, memo: dict[int, Any]) -> Prompts:
        return self


def _key(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


class Listed(Prompts):
    r"""Prompts in memory: those of a table, or a few that a user types.

    Arguments:
        texts: The prompts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        content = json.dumps(self.texts).encode()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, place: int) -> str:
        return self.texts[place]


class Lines(Prompts):
    r"""The lines of a text file that are not empty, each read when it is asked for.

    Arguments:
        path: The file.
        folder: Where the index is kept, see the module; none keeps it in memory.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, holds no prompt, or one that is too
            long; the message names the line.
    """

    def __init__(self, path: str | Path, folder: str | Path | None = None) -> None:
        self.path = Path(path)
        self._file = open_regular(path)
        self._state = self._stat()
        index = _scanned(self._file, path) if folder is None else self._kept(Path(folder))
        self.sha256, self.empty, self.offsets = index.sha256, index.empty, index.offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def at(self, place: int) -> str:
        begin = int(self.offsets[place])
        size = self._state[0]
        end = int(self.offsets[place + 1]) if place + 1 < len(self.offsets) else size
        if self._stat() != self._state:
            raise ConfigError(
                f"{shown(self.path)} was changed while it is read: start the command again"
            )
        # Empty lines may follow: more than a longest line is none of it.
        data = os.pread(self._file.fileno(), min(end - begin, _longest()), begin)
        return re.split(rb"[\r\n]", data, maxsplit=1)[0].decode().strip()

    def _stat(self) -> tuple[int, int]:
        about = os.fstat(self._file.fileno())
        return about.st_size, about.st_mtime_ns

    def _kept(self, folder: Path) -> Index:
        r"""Returns the index that is kept, or makes it and keeps it."""
        sha256 = digest_of_file(self.path)["sha256"]
        place = folder / f"lines-{sha256[:32]}"
        found = _read(place, sha256)
        if found is None:
            index = _scanned(self._file, self.path)
            place.mkdir(parents=True, exist_ok=True)
            with whole_file(place / "offsets.npy") as partial:
                np.save(partial, index.offsets)
            about = {**digest_of_file(place / "offsets.npy"), "empty": list(index.empty)}
            write_text_atomic(place / INDEX, json.dumps({"file": sha256, **about}, indent=1))
            found = _read(place, index.sha256)
        if found is None:
            raise ConfigError(
                f"{shown(self.path)} was changed while it is read: start the command again"
            )
        return found


class Index(NamedTuple):
    r"""Where the lines of a file begin.

    Arguments:
        sha256: The digest of the file.
        empty: How many lines are empty, and the number of the first.
        offsets: The byte at which each line that is not empty begins, as uint64.
    """

    sha256: str
    empty: tuple[int, int]
    offsets: np.ndarray


def _read(place: Path, sha256: str) -> Index | None:
    r"""Returns the index in a folder, mapped into memory; none where it is not that of a file of
    this digest, whole."""
    try:
        about = read_json(place / INDEX)
        kept = {name: about[name] for name in ("bytes", "sha256")}
        first, second = about["empty"]
        if about["file"] != sha256 or digest_of_file(place / "offsets.npy") != kept:
            return None
        offsets = np.load(place / "offsets.npy", mmap_mode="r", allow_pickle=False)
    except DAMAGED:
        return None
    good = offsets.dtype == np.uint64 and offsets.ndim == 1 and len(offsets)
    return Index(sha256, (int(first), int(second)), offsets) if good else None


def _longest() -> int:
    r"""The most bytes that a line may have, with spaces about the prompt."""
    return 8 * limit("prompt characters")


class _Scan:
    r"""One pass over a text file.

    Arguments:
        path: The file, for messages.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.lines, self.place = path, 0, 0
        self.empty, self.first_empty = 0, 0
        self.found: list[np.ndarray] = []

    def refuse(self, line: int, why: str) -> NoReturn:
        raise ConfigError(f"{shown(self.path)}, line {line:,}: {why}")

    def take(self, data: bytes) -> None:
        r"""Takes whole lines, which follow those that were taken before."""
        codes = np.frombuffer(data, np.uint8)
        returns = codes == 13
        ends = codes == 10
        ends[:-1] |= returns[:-1] & ~ends[1:]
        ends[-1] |= returns[-1]
        last = np.flatnonzero(ends)
        starts = np.concatenate([[0], last[:-1] + 1])
        self._check(data, codes, starts, last)
        # Seen graphs up to each byte: a line with one is not empty, whatever else it has.
        graphs = np.concatenate([[0], np.cumsum((codes > 32) & (codes < 127))])
        full = graphs[last] > graphs[starts]
        for i in np.flatnonzero(~full & (last > starts)):
            full[i] = bool(data[starts[i] : last[i]].decode().strip())
        if not full.all():
            self.first_empty = self.first_empty or self.lines + int(np.argmin(full)) + 1
            self.empty += int((~full).sum())
        self.found.append((starts[full] + self.place).astype(np.uint64))
        refuse_beyond("prompt lines", sum(map(len, self.found)), self.path)
        self.lines, self.place = self.lines + len(last), self.place + len(data)

    def _check(self, data: bytes, codes: np.ndarray, starts: np.ndarray, last: np.ndarray) -> None:
        r"""Refuses what is not UTF-8, null characters, and lines that are too long."""

        def number(byte: int) -> int:
            return self.lines + int(np.searchsorted(last, byte)) + 1

        try:
            data.decode()
        except UnicodeDecodeError as error:
            byte = data[error.start]
            self.refuse(number(error.start), f"byte {byte:#04x} is not UTF-8; save it as UTF-8")
        if (codes == 0).any():
            where = number(int(np.argmax(codes == 0)))
            self.refuse(where, "it is not text: it has a null character; save it as UTF-8")
        for i in np.flatnonzero(last - starts > limit("prompt characters")):
            line = data[starts[i] : last[i]].decode().strip()
            what = f"{shown(self.path)}, line {self.lines + int(i) + 1:,}"
            refuse_beyond("prompt characters", len(line), what)
            if last[i] - starts[i] > _longest():
                self.refuse(self.lines + int(i) + 1, "it has more spaces than are read")


def _scanned(file: IO[bytes], path: str | Path) -> Index:
    r"""Returns the index of a file.

    Raises:
        ConfigError: It is not UTF-8, holds no prompt, or one that is too long.
    """
    scan, digest = _Scan(path), hashlib.sha256()
    rest = b""
    for block in _blocks(file):
        digest.update(block)
        if not scan.place and not rest and block.startswith(codecs.BOM_UTF8):
            block, scan.place = block[3:], 3
        data = rest + block
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        rest = data[end:]
        if end:
            scan.take(data[:end])
        if len(rest) > _longest():
            most = limit("prompt characters")
            scan.refuse(scan.lines + 1, f"it is longer than the {most:,} characters that are read")
    if rest:
        scan.take(rest + b"\n")
    offsets = np.concatenate([np.empty(0, np.uint64), *scan.found])
    if not len(offsets):
        raise ConfigError(f"{shown(path)} holds no prompt")
    return Index(digest.hexdigest(), (scan.empty, scan.first_empty), offsets)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    r"""Yields a file in parts, of which none ends between the two characters of a line's end."""
    file.seek(0)
    while block := file.read(max(BLOCK, len(codecs.BOM_UTF8))):
        while block.endswith(b"\r") and (more := file.read(1)):
            block += more
        yield block


def open_prompts(path: str | Path, folder: str | Path | None = None) -> Prompts:
    r"""Returns the prompts of a file: of a text file by the places of its lines, of a table in
    memory, see `read_prompts`. A text in UTF-16 with its mark is read as a table is.

    Arguments:
        path: The file.
        folder: Where the index of a text file is kept; none keeps it in memory.

    Raises:
        ConfigError: It cannot be read, is of another kind, or holds none.
    """
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if suffix in TABLES:
        return Listed(_held(read_captions(file), path))
    if suffix not in PLAIN:
        kinds = ", ".join([".txt", *TABLES])
        raise ConfigError(f"{shown(path)} is of no kind that prompts are read from: {kinds}")
    with open_regular(file) as stream:
        start = stream.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        # Other marks that Unicode ends a line at stand within captions of the web.
        return Listed(_held(re.split(r"\r\n|\r|\n", read_text(file, "table bytes")), path))
    return Lines(file, folder)


def _held(lines: Sequence[str], path: str | Path) -> list[str]:
    r"""Returns the texts of a file that is held in memory, without those that are empty."""
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{shown(path)} holds no prompt")
    refuse_beyond("table rows", len(found), path)
    refuse_beyond("prompt characters", max(map(len, found)), path)
    return found


def read_prompts(path: str | Path) -> list[str]:
    r"""Returns the prompts of a file as a list, see `open_prompts`."""
    return list(open_prompts(path))
