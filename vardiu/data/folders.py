r"""A folder of images, with what people put beside them: class folders, tables, captions."""

from __future__ import annotations

import contextlib
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import ConfigError, amount, shown
from ..storage.bounded import decoded_text, read_bytes, read_json
from ..storage.limits import refuse_beyond
from .images import Corrupt, Item, Records, decode
from .labels import CAPTIONS, LABELS, absent, mapping, natural, numbered, whole
from .left_out import LeftOut
from .tables import read_table

__all__ = ["SUFFIXES", "Folder", "images_in", "is_hidden"]


SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm"),
)


# Tables beside images, as Hugging Face's `imagefolder` has them.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


# What systems leave behind, beside names that begin with a dot.
LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}


def is_hidden(name: str) -> bool:
    r"""Whether a file or a folder of this name is none of the user's own."""
    return name.startswith(".") or name.casefold() in LITTER


def images_in(folder: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    r"""Returns the images below a folder, through links as well, and the tables of `METADATA`.

    Arguments:
        folder: The folder.
        left_out: Receives what is there and is not read.

    Raises:
        ConfigError: A folder cannot be read, or there are too many files or levels.
    """
    images, tables, texts = [], [], []
    for file, is_regular in _walk(folder, left_out):
        suffix = file.suffix.lower()
        if not is_regular:
            left_out.add("that are no regular files", file)
        elif suffix in SUFFIXES:
            images.append(file)
        elif file.name in METADATA:
            tables.append(file)
        elif suffix == ".txt":
            texts.append(file)
        elif file.name != "dataset.json" or file.parent != folder:
            kind = f"of the suffix {shown(suffix)}" if suffix else "without a suffix"
            left_out.add(f"{kind}, which is not read", file)
    captioned = {file.with_suffix("") for file in images} if texts else set()
    for file in texts:
        if file.with_suffix("") not in captioned:
            left_out.add("of the suffix .txt without an image of their name", file)
    return images, tables


def _walk(folder: Path, left_out: LeftOut) -> Iterator[tuple[Path, bool]]:
    r"""Yields files, and whether they are regular ones; each folder is entered once."""
    seen, todo, count = set(), [(folder, 0)], 0
    while todo:
        place, depth = todo.pop()
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            continue
        seen.add(real)
        refuse_beyond("folder depth", depth, folder)
        below = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    count += 1
                    refuse_beyond("folder entries", count, folder)
                    if is_hidden(entry.name):
                        _tell_hidden(entry, left_out)
                    elif _leads_nowhere(entry):
                        yield Path(entry.path), True  # an image that cannot be read
                    elif entry.is_dir():
                        below.append((Path(entry.path), depth + 1))
                    else:
                        yield Path(entry.path), entry.is_file()
        except OSError as error:
            raise ConfigError(f"{shown(place)} cannot be read: {error.strerror}") from error
        # Of two links to one folder the first by name is taken, on every file system.
        todo += sorted(below, reverse=True)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _tell_hidden(entry: os.DirEntry[str], left_out: LeftOut) -> None:
    if entry.is_dir(follow_symlinks=False):
        with contextlib.suppress(PermissionError):  # as of another user's litter
            for name in os.listdir(entry.path):
                if name.lower().endswith(SUFFIXES):
                    left_out.add("hidden images", os.path.join(entry.path, name))
    elif entry.name.lower().endswith(SUFFIXES):
        left_out.add("hidden images", entry.path)


class Folder(Records):
    r"""A folder of images.

    Their classes are stated, the first of these that is there before the others, by `dataset.json`
    of EDM's kind (`{"labels": [[file, class], ...]}`), by `metadata.jsonl`, `.csv` or `.parquet`
    with the columns `file_name` and `label`, or by sub-folders, where every image lies in one of
    them: they are numbered from 0 in natural order (2 before 10). Captions are a column `text`,
    `caption` or `prompt`, or lie beside an image in a `.txt` of its name.

    Arguments:
        folder: The folder.
        files: The images, where not all below the folder are meant.

    Raises:
        ConfigError: There is no image in it, or what states classes is damaged or incomplete.
    """

    def __init__(self, folder: Path, files: Sequence[Path] | None = None) -> None:
        super().__init__()
        self.folder = folder
        found, tables = (files, []) if files else images_in(folder, self.left_out)
        if not found:
            told = "".join(f"; {line}" for line in self.left_out.lines)
            raise ConfigError(f"{shown(folder)} holds no image ({', '.join(SUFFIXES)}){told}")
        self.paths = sorted(found, key=lambda p: p.relative_to(folder).as_posix())
        self.keys = [_key(p.relative_to(folder).as_posix()) for p in self.paths]
        self.classes: list[str] = []
        self.are_folders = False
        self.captions: dict[str, str] = {}
        self.labels: list[int] | None = None
        stated = folder / "dataset.json"
        if stated.is_file() and not files:
            self.labels = self._stated(stated)
        labelled = self._tables(tables)
        if not stated.is_file():
            self.labels = self._folders() if labelled is None else labelled

    # ------------------------------------------------------------------ dataset.json

    def _stated(self, path: Path) -> list[int] | None:
        rows = read_json(path, bound="table bytes").get("labels")
        if rows is None:
            self.no_classes = f"{shown(path)} states none"
            return None
        known: dict[str, object] = {}
        for row in rows if isinstance(rows, list) else [rows]:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
                raise ConfigError(
                    f"{shown(path)}: a label must be [file, class], got {shown(row)}"
                )
            self._state(known, row[0], row[1], path)
        return self._of_all(known, path)

    def _state(self, known: dict[str, object], name: str, value: object, path: Path) -> None:
        key = _key(name)
        before = known.setdefault(key, value)
        if before is not value and before != value:  # one that is not a number differs from itself
            raise ConfigError(f"{shown(path)} states two classes for {shown(name)}")

    def _of_all(self, known: Mapping[str, object], path: Path) -> list[int]:
        missing = next((key for key in self.keys if absent(known.get(key))), None)
        if missing is not None:
            raise ConfigError(f"{shown(path)} states no class for {shown(missing)}")
        there = set(self.keys)
        for key in known:
            if key not in there:
                self.left_out.add(f"rows of {path.name} whose image is not there", key)
        try:
            numbers, self.classes = numbered([known[key] for key in self.keys])
        except ValueError as error:
            raise ConfigError(f"{shown(path)}: {error}") from error
        return [whole(number) for number in numbers]

    # ------------------------------------------------------------------ metadata

    def _tables(self, tables: Sequence[Path]) -> list[int] | None:
        r"""Reads the tables; returns the classes that they state, if they state any."""
        known: dict[str, object] = {}
        texts: dict[str, object] = {}
        for path in sorted(tables):
            table = read_table(path, ("file_name", *LABELS, *CAPTIONS))
            file = table.first(("file_name",))
            if file is None:
                raise ConfigError(
                    f"{shown(path)} has the columns {shown(table.names)}, and must have "
                    "`file_name`, an image's path from the table's folder"
                )
            label, text = table.first(LABELS), table.first(CAPTIONS)
            for name in table.names:
                if name not in (file, label, text):
                    self.left_out.add(f"columns of {path.name} that are not read", name)
            place = path.parent.relative_to(self.folder).as_posix()
            for i, name in enumerate(table.columns[file]):
                if not isinstance(name, str) or not name:
                    raise ConfigError(
                        f"{shown(path)}: file_name must be a text, got {shown(name)}"
                    )
                key = f"{place}/{name}"
                if label is not None:
                    self._state(known, key, table.columns[label][i], path)
                if text is not None and table.columns[text][i] is not None:
                    texts[_key(key)] = table.columns[text][i]
        self.captions = {key: str(text) for key, text in texts.items()}
        return self._of_all(known, sorted(tables)[0]) if known else None

    # ------------------------------------------------------------------ sub-folders

    def _folders(self) -> list[int] | None:
        for path in self.paths:
            if path.parent.parent != self.folder:
                lies = "beside class folders" if path.parent == self.folder else "two folders deep"
                self.no_classes = (
                    f"{shown(path)} lies {lies}, and classes are read from sub-folders where "
                    "every image lies in one of them"
                )
                if all(p.parent == self.folder for p in self.paths):
                    self.no_classes = "its images lie in no sub-folders"
                return None
        self.classes = sorted({path.parent.name for path in self.paths}, key=natural)
        self.are_folders = True
        place = {name: i for i, name in enumerate(self.classes)}
        return [place[path.parent.name] for path in self.paths]

    def doubt_of_classes(self, count: int) -> str | None:
        names = self.classes
        if not self.are_folders or len(names) == count:
            return None
        numbers = {int(name) for name in names if name.isascii() and name.isdigit()}
        if numbers == set(range(len(names))):
            return None  # they are classes 0, 1, ... by number and by order
        found = f"{amount(len(names), 'class folder')} ({mapping(names, 6)})"
        return (
            f"{shown(self.folder)} has {found}, and the teacher has {count:,} classes: which is "
            "which is not known. State them in "
            f"{shown(self.folder / 'metadata.jsonl')}, one line an image: "
            '{"file_name": "...", "label": 0}'
        )

    # ------------------------------------------------------------------ images

    def __len__(self) -> int:
        return len(self.paths)

    def stated_classes(self) -> Sequence[int | None]:
        return [None] * len(self) if self.labels is None else self.labels

    def item(self, index: int) -> Item:
        path, name = self.paths[index], str(self.paths[index])
        label = None if self.labels is None else self.labels[index]
        try:
            image = decode(read_bytes(path, "image bytes"), name)
            return Item(name, image, label, self._caption(path, self.keys[index]))
        except ConfigError as error:
            raise Corrupt(name, str(error).removeprefix(f"{shown(path)} ")) from error

    def _caption(self, path: Path, key: str) -> str | None:
        if self.captions:
            return self.captions.get(key)
        beside = path.with_suffix(".txt")
        if not beside.is_file():
            return None
        return decoded_text(read_bytes(beside), beside).strip()


def _key(name: str) -> str:
    r"""Returns a path below the folder in one form: slashes, no dots, NFC."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))
