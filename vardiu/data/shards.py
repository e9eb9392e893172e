r"""Shards of images: tar archives and parquet files.

Nothing is unpacked to disk. Shards are indexed by their headers alone: to go on in the middle of
a hundred of them, no image before the place is read again.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import ConfigError, require, shown
from ..storage.bounded import DAMAGED, decoded_text, parsed_json
from ..storage.limits import limit, refuse_beyond
from .folders import SUFFIXES, is_hidden
from .images import Corrupt, Item, Records, decode
from .labels import CAPTIONS, IMAGES, LABELS, numbered, whole
from .tables import parquet_file

__all__ = ["Parquet", "Tar"]


# What may lie beside an image: its class, its caption, or both.
BESIDE = (".cls", ".txt", ".json")


Parts = dict[str, tuple[int, int]]


class _Headers:
    r"""A file that gives out no more at once than a header of an archive may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        refuse_beyond("tar header bytes", size, "a header", tarfile.ReadError)
        return self.file.read(size)


class Tar(Records):
    r"""WebDataset shards: an image and what belongs to it share a name up to the first dot.

    Beside an image may lie `.cls` (its class), `.txt` (its caption) or `.json` (both, under
    `label` and `caption`, or the other names of columns). Of a name with dots that begins like no
    image's (`22.05.png`), only the last part is the suffix.

    Raises:
        ConfigError: A file is no tar archive, or none holds an image.
    """

    ordered = True

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__()
        self.rows: list[tuple[Path, str, Parts]] = []
        for file in files:
            self._scan(file)
        if not self.rows:
            told = "".join(f"; {line}" for line in self.left_out.lines)
            names = shown(", ".join(map(str, files)))
            raise ConfigError(f"{names} hold no image ({', '.join(SUFFIXES)}){told}")
        self._numbers: list[int | None] | None = None

    def _scan(self, file: Path) -> None:
        if not file.is_file():
            raise ConfigError(f"{shown(file)} is no regular file")
        members: dict[str, tuple[int, int]] = {}
        try:
            with file.open("rb") as stream:
                # Of the file's own type tarfile asks no more than these three methods.
                source: Any = _Headers(stream)
                with tarfile.open(fileobj=source, mode="r:") as archive:
                    for count, member in enumerate(archive, start=1):
                        refuse_beyond("tar members", count, file)
                        self._note(member, file, members)
                    end = archive.offset
            _refuse_rest(file, end)
        except ConfigError:
            raise
        except DAMAGED as error:
            why = shown(str(error) or type(error).__name__)
            raise ConfigError(
                f"{shown(file)} is not an uncompressed tar archive, or is cut short: {why}"
            ) from error
        self._group(file, members)

    def _note(self, member: tarfile.TarInfo, file: Path, members: Parts) -> None:
        name = f"{file}:{member.name}"
        if member.isdir():
            return
        if any(is_hidden(part) for part in member.name.split("/") if part not in ("", ".", "..")):
            if member.name.lower().endswith(SUFFIXES):
                self.left_out.add("hidden images", name)
        elif not member.isreg() or member.issparse():
            self.left_out.add("members that are links, devices or sparse", name)
        else:
            if member.name in members:
                self.left_out.add("members that come again later in their shard", name)
            members[member.name] = (member.offset_data, member.size)

    def _group(self, file: Path, members: Parts) -> None:
        groups: dict[str, Parts] = {}
        later = []
        for member, place in members.items():
            key, suffix = _parted(member, first=True)
            if suffix in SUFFIXES or suffix in BESIDE:
                groups.setdefault(key, {})[suffix] = place
            else:
                later.append((member, place))
        for member, place in later:
            whose, suffix = _parted(member, first=True)
            key, last = _parted(member, first=False)
            is_part = any(s in SUFFIXES for s in groups.get(whose, ()))
            if (last in SUFFIXES or last in BESIDE) and not is_part:
                groups.setdefault(key, {})[last] = place
            else:
                kind = f"of the suffix {shown(suffix)}" if suffix else "without a suffix"
                self.left_out.add(f"members {kind}, which is not read", f"{file}:{member}")
        for key, parts in groups.items():
            images = [suffix for suffix in parts if suffix in SUFFIXES]
            if not images:
                self.left_out.add("members without an image of their name", f"{file}:{key}")
                continue
            if len(images) > 1:
                chosen = next(s for s in SUFFIXES if s in images)
                reason = f"images whose place one of the same name and {chosen} has"
                self.left_out.add(reason, f"{file}:{key}", len(images) - 1)
            self.rows.append((file, key, parts))

    def __len__(self) -> int:
        return len(self.rows)

    def stated_classes(self) -> Sequence[int | None]:
        if self._numbers is None:
            self._numbers = [self._stated(index) for index in range(len(self))]
        return self._numbers

    def _stated(self, index: int) -> int | None:
        r"""Returns the class of an image; none where what states it is damaged, as `item` says."""
        file, key, parts = self.rows[index]
        if not parts.keys() & {".cls", ".json"}:
            return None
        try:
            with file.open("rb") as stream:
                return _beside(stream, key, {k: v for k, v in parts.items() if k != ".txt"})[0]
        except (Corrupt, OSError):
            return None

    def item(self, index: int) -> Item:
        file, key, parts = self.rows[index]
        suffix = next(s for s in SUFFIXES if s in parts)
        name = f"{file}:{key.lstrip('/')}{suffix}"
        try:
            with file.open("rb") as stream:
                image = decode(_part(stream, name, parts[suffix], "image bytes"), name)
                label, caption = _beside(stream, name, parts)
        except OSError as error:
            raise Corrupt(name, str(error.strerror)) from error
        return Item(name, image, label, caption)


def _parted(member: str, first: bool) -> tuple[str, str]:
    r"""Returns the name of a member up to the first dot of its file's name, or up to the last
    one, and the rest in small letters."""
    folder, _, base = member.rpartition("/")
    dot = base.find(".") if first else base.rfind(".")
    dot = len(base) if dot < 0 else dot
    return f"{folder}/{base[:dot]}", base[dot:].lower()


def _refuse_rest(file: Path, end: int) -> None:
    r"""Raises a `ConfigError` if anything but zeros follows the place where headers ended, or it
    lies beyond the file: tarfile takes a damaged header, and a missing one, for the end."""
    if file.stat().st_size < end:
        raise ConfigError(f"{shown(file)} is cut short by {end - file.stat().st_size:,} bytes")
    with file.open("rb") as stream:
        stream.seek(end)
        while block := stream.read(2**20):
            if block.strip(b"\0"):
                raise ConfigError(
                    f"{shown(file)} is damaged at byte {end:,}: what follows is not read. Make "
                    "the shard again"
                )


def _part(stream: IO[bytes], name: str, place: tuple[int, int], bound: str) -> bytes:
    offset, size = place
    if size > limit(bound):
        raise Corrupt(name, f"it has {size:,} bytes, and at most {limit(bound):,} are read")
    stream.seek(offset)
    data = stream.read(size)
    if len(data) < size:
        raise Corrupt(name, f"its shard ends {size - len(data)} bytes early")
    return data


def _beside(stream: IO[bytes], name: str, parts: Parts) -> tuple[int | None, str | None]:
    r"""Returns the class and the caption that lie beside an image."""
    texts = {}
    try:
        for suffix in BESIDE:
            if suffix in parts:
                data = _part(stream, name, parts[suffix], "settings bytes")
                texts[suffix] = decoded_text(data, suffix)
        about = parsed_json(texts[".json"], ".json") if ".json" in texts else {}
        if not isinstance(about, dict):
            raise ValueError(f".json must hold a mapping, got {shown(about)}")
        label = next((about[key] for key in LABELS if key in about), None)
        caption = next((about[key] for key in CAPTIONS if key in about), None)
        stated = texts.get(".cls", label)
        number = None if stated is None else whole(stated)
        # A word in the one and a number in the other may well be the same class.
        if isinstance(label, int) and label != number:
            raise ValueError(f".cls states the class {number} and .json {shown(label)}")
    except Corrupt:
        raise
    except ValueError as error:
        raise Corrupt(name, f"what lies beside it cannot be read: {error}") from error
    caption = texts[".txt"].strip() if ".txt" in texts else caption
    return number, None if caption is None else str(caption)


class Parquet(Records):
    r"""Parquet shards with a column of images, as bytes or as Hugging Face's `{bytes, path}`.

    The column is `image` (or another of `labels.IMAGES`); a column `label` (or another of
    `labels.LABELS`) holds classes, `text`, `caption` or `prompt` captions. Other columns are not
    read. A row group is read at a time.

    Raises:
        ConfigError: A file is no parquet file, or has no such column.
    """

    ordered = True

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__()
        self.groups: list[tuple[Path, int]] = []
        self.ends: list[int] = []
        self.columns: dict[Path, dict[str, str]] = {}
        for file in files:
            about = parquet_file(file)
            self.columns[file] = self._columns(file, about.schema_arrow)
            for group in range(about.num_row_groups):
                rows = about.metadata.row_group(group).num_rows
                self.groups.append((file, group))
                self.ends.append((self.ends[-1] if self.ends else 0) + rows)
        if not self.ends or not self.ends[-1]:
            raise ConfigError(f"{shown(', '.join(map(str, files)))} hold no row")
        self._numbers: Sequence[int | None] | None = None
        self._read: tuple[int, Any] = (-1, None)

    def _columns(self, file: Path, schema: Any) -> dict[str, str]:  # noqa: ANN401 (pyarrow's)
        r"""Returns the names of the columns that are read, by what they hold."""
        names = list(schema.names)
        found: dict[str, str] = {}
        for what, wanted in (("image", IMAGES), ("label", LABELS), ("caption", CAPTIONS)):
            name = next((n for n in wanted if n in names), None)
            found |= {} if name is None else {what: name}
        for name in names:
            if name not in found.values():
                self.left_out.add("columns that are not read", f"{file}: {name}")
        if "image" not in found:
            raise ConfigError(
                f"{shown(file)} has the columns {shown(names)}, none of {', '.join(IMAGES)}"
            )
        kind = str(schema.field(found["image"]).type)
        if not (kind.endswith("binary") or (kind.startswith("struct<") and "bytes:" in kind)):
            raise ConfigError(
                f"{shown(file)}: the column {found['image']} is of {shown(kind)}, and must be of "
                "bytes, or of {bytes, path}"
            )
        kind = str(schema.field(found["label"]).type) if "label" in found else "int64"
        if not kind.startswith(("int", "uint", "float", "double", "string", "large_string")):
            raise ConfigError(
                f"{shown(file)}: the column {found['label']} is of {shown(kind)}, and must be of "
                "numbers or of text"
            )
        return found

    def stated_classes(self) -> Sequence[int | None]:
        if self._numbers is None:
            values = [value for file, of in self.columns.items() for value in _labels(file, of)]
            if len(values) != len(self):
                raise ConfigError(
                    f"{shown(next(iter(self.columns)))} is damaged: it has {len(values):,} "
                    f"classes and {len(self):,} rows"
                )
            try:
                self._numbers, self.classes = numbered(values)
            except ValueError as error:
                raise ConfigError(f"{shown(next(iter(self.columns)))}: {error}") from error
        return self._numbers

    def __len__(self) -> int:
        return self.ends[-1]

    def _row(self, index: int) -> dict[str, Any]:
        group = int(np.searchsorted(self.ends, index, side="right"))
        file, number = self.groups[group]
        columns = self.columns[file]
        wanted = [columns[key] for key in ("image", "caption") if key in columns]
        if self._read[0] != group:
            self._read = (group, _table_of_group(file, number, wanted))
        place = index - (self.ends[group - 1] if group else 0)
        row = self._read[1].slice(place, 1).to_pylist()[0]
        return {key: row.get(name) for key, name in columns.items()}

    def item(self, index: int) -> Item:
        group = int(np.searchsorted(self.ends, index, side="right"))
        name = f"{self.groups[group][0]}[{index}]"
        try:
            row = self._row(index)
        except ConfigError:
            raise
        except DAMAGED as error:
            raise Corrupt(name, f"its row cannot be read: {error}") from error
        image, caption = row["image"], row.get("caption")
        data = image.get("bytes") if isinstance(image, dict) else image
        if data is None and isinstance(image, dict) and image.get("path"):
            raise Corrupt(name, f"it has no bytes, only the path {image['path']}")
        label = self.stated_classes()[index]
        caption = None if caption is None else str(caption)
        return Item(name, decode(data or b"", name), label, caption)


def _table_of_group(file: Path, number: int, wanted: Sequence[str]) -> Any:  # noqa: ANN401
    r"""Returns some columns of a row group.

    What a damaged footer says of the sizes of columns is not asked for: pyarrow aborts the process
    where that is missing.
    """
    arrow = require("pyarrow", "data")
    parts, size = [], 0
    about = parquet_file(file)
    for part in about.iter_batches(batch_size=64, row_groups=[number], columns=wanted):
        parts.append(part)
        size += part.nbytes
        refuse_beyond("row group bytes", size, f"{file}, row group {number}")
    return arrow.Table.from_batches(parts)


def _labels(file: Path, columns: Mapping[str, str]) -> Iterator[Any]:
    about = parquet_file(file)
    if "label" not in columns:
        yield from [None] * about.metadata.num_rows
        return
    try:
        yield from about.read(columns=[columns["label"]]).column(0).to_pylist()
    except DAMAGED as error:
        raise ConfigError(
            f"{shown(file)}: the column {columns['label']} cannot be read: {shown(str(error))}"
        ) from error
