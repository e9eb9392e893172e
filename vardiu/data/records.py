r"""Images in folders, arrays, tar shards and parquet shards, each in a fixed order.

Nothing is unpacked to disk and nothing is unpickled. Shards are indexed by their headers alone: to
go on in the middle of a hundred of them, no image before the place is read again.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, require
from .images import Corrupt, Item, Records, decode

__all__ = ["Arrays", "Folder", "Hub", "Parquet", "Tar", "Tensors"]


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Tensors(Records):
    r"""Images in memory, in [-1, 1], with shape `(N, C, H, W)`."""

    def __init__(self, x: Tensor, label: Tensor | None = None, name: str = "image") -> None:
        self.x, self.label, self.name = x, label, name

    def __len__(self) -> int:
        return len(self.x)

    def item(self, index: int) -> Item:
        label = None if self.label is None else int(self.label[index])
        return Item(f"{self.name} {index}", self.x[index], label)


class Folder(Records):
    r"""A folder of images; sub-folders are classes where every image lies in one of them.

    A `dataset.json` of EDM's kind, `{"labels": [[file, class], ...]}`, is read as well.

    Raises:
        ConfigError: There is no image in it, or `dataset.json` does not name one of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = [p for p in walk(folder) if p.suffix.lower() in SUFFIXES]
        if not found:
            raise ConfigError(f"{folder} holds no image ({', '.join(SUFFIXES)})")
        self.paths = sorted(found, key=lambda p: p.relative_to(folder).as_posix())
        self.classes: list[str] = []
        self.labels = self._stated() or self._folders()

    def _stated(self) -> list[int] | None:
        path = self.folder / "dataset.json"
        if not path.is_file():
            return None
        rows = json.loads(path.read_text()).get("labels")
        if rows is None:
            return None
        known = {str(name).replace("\\", "/"): int(label) for name, label in rows}
        names = [p.relative_to(self.folder).as_posix() for p in self.paths]
        missing = [name for name in names if name not in known]
        if missing:
            raise ConfigError(f"{path} states no class for {missing[0]}")
        return [known[name] for name in names]

    def _folders(self) -> list[int] | None:
        parents = [p.parent for p in self.paths]
        if any(parent == self.folder or parent.parent != self.folder for parent in parents):
            return None
        self.classes = sorted({parent.name for parent in parents})
        return [self.classes.index(parent.name) for parent in parents]

    def __len__(self) -> int:
        return len(self.paths)

    def item(self, index: int) -> Item:
        path = self.paths[index]
        label = None if self.labels is None else self.labels[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Corrupt(str(path), str(error)) from error
        return Item(str(path), decode(data, str(path)), label)


def walk(folder: Path) -> Iterator[Path]:
    r"""Yields the files below a folder, through links as well, each folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in files)


class Arrays(Records):
    r"""An `.npz` or `.npy` file: bytes, or floats in [-1, 1], as NCHW or NHWC.

    The images are under `x`, `images` or `arr_0`, their classes under `label`, `labels` or `y`.

    Raises:
        ConfigError: The arrays are of another kind, shape or length.
    """

    def __init__(self, path: Path) -> None:
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as an array: {error}") from error
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        self.x = _images(_first(arrays, ("x", "images", "arr_0"), path), path)
        label = next((arrays[key] for key in ("label", "labels", "y") if key in arrays), None)
        if label is not None and label.shape != (len(self.x),):
            raise ConfigError(
                f"{path}: the classes must have shape ({len(self.x)},), got {label.shape}"
            )
        self.path, self.label = path, label

    def __len__(self) -> int:
        return len(self.x)

    def item(self, index: int) -> Item:
        name = f"{self.path}[{index}]"
        x = torch.from_numpy(np.ascontiguousarray(self.x[index]))
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
        if not bool(x.isfinite().all()):
            raise Corrupt(name, "values are not finite")
        return Item(name, x, None if self.label is None else int(self.label[index]))


def _first(arrays: Mapping[str, np.ndarray], keys: Sequence[str], path: Path) -> np.ndarray:
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise ConfigError(f"{path} holds {sorted(arrays)}; images are looked for in {list(keys)}")


def _images(x: np.ndarray, path: Path) -> np.ndarray:
    r"""Returns images as NCHW.

    Raises:
        ConfigError: They are of another shape or type, or beyond [-1, 1].
    """
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4:
        raise ConfigError(f"{path}: images must have three or four axes, got shape {x.shape}")
    if x.shape[1] in (1, 3) and x.shape[3] in (1, 3):
        raise ConfigError(
            f"{path}: shape {x.shape} may be NCHW or NHWC; save images of more than three pixels "
            "a side, or grey ones as (N, H, W)"
        )
    if x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.shape[1] not in (1, 3):
        raise ConfigError(f"{path}: images must have one channel or three, got shape {x.shape}")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ConfigError(f"{path}: images must be bytes or floats, got {x.dtype}")
    if x.dtype != np.uint8 and np.nanmax(np.abs(x)) > 1.5:
        raise ConfigError(
            f"{path}: floats must be in [-1, 1], got up to {np.nanmax(np.abs(x)):g}; bytes are "
            "scaled here"
        )
    if x.dtype != np.uint8 and x.size and 0 <= x.min() and 0.5 < x.max() <= 1:
        raise ConfigError(
            f"{path}: floats are in [0, 1], and must be in [-1, 1]: save 2 * x - 1, or bytes"
        )
    return x


class Tar(Records):
    r"""WebDataset shards: an image and what belongs to it share a name up to the first dot.

    Beside an image may lie `.cls` (its class), `.txt` (its caption) or `.json` (both, under
    `label` or `cls`, and `caption` or `text`).

    Raises:
        ConfigError: A file is no tar archive, or none holds an image.
    """

    ordered = True

    def __init__(self, files: Sequence[Path]) -> None:
        self.rows: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for file in files:
            self._scan(file)
        if not self.rows:
            raise ConfigError(f"{', '.join(map(str, files))} hold no image")

    def _scan(self, file: Path) -> None:
        groups: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    folder, _, base = member.name.rpartition("/")
                    stem, dot, suffix = base.partition(".")
                    if member.isreg() and dot:
                        place = (member.offset_data, member.size)
                        groups.setdefault(f"{folder}/{stem}", {})[f".{suffix.lower()}"] = place
                _whole(file, archive.offset)
        except (OSError, tarfile.TarError) as error:
            raise ConfigError(
                f"{file} is not an uncompressed tar archive, or is cut short: {error}"
            ) from error
        for name, parts in groups.items():
            if any(suffix in SUFFIXES for suffix in parts):
                self.rows.append((file, name.lstrip("/"), parts))

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Item:
        file, stem, parts = self.rows[index]
        suffix = next(s for s in SUFFIXES if s in parts)
        name = f"{file}:{stem}{suffix}"
        with file.open("rb") as stream:

            def read(key: str) -> bytes:
                offset, size = parts[key]
                stream.seek(offset)
                data = stream.read(size)
                if len(data) < size:
                    raise Corrupt(name, f"its shard ends {size - len(data)} bytes early")
                return data

            image = decode(read(suffix), name)
            try:
                label, caption = _beside({k: read(k) for k in parts if k in BESIDE})
            except ValueError as error:
                raise Corrupt(name, f"what lies beside it cannot be read: {error}") from error
        return Item(name, image, label, caption)


def _whole(file: Path, end: int) -> None:
    r"""Raises a `ConfigError` if anything but zeros follows the place where headers ended, or it
    lies beyond the file: tarfile takes a damaged header, and a missing one, for the end."""
    if file.stat().st_size < end:
        raise ConfigError(f"{file} is cut short by {end - file.stat().st_size:,} bytes")
    with file.open("rb") as stream:
        stream.seek(end)
        while block := stream.read(2**20):
            if block.strip(b"\0"):
                raise ConfigError(
                    f"{file} is damaged at byte {end:,}: what follows is not read. Make the shard "
                    "again"
                )


BESIDE = (".cls", ".txt", ".json")


def _beside(parts: Mapping[str, bytes]) -> tuple[int | None, str | None]:
    about: dict[str, Any] = json.loads(parts[".json"]) if ".json" in parts else {}
    label = about.get("label", about.get("cls"))
    caption = about.get("caption", about.get("text"))
    if ".cls" in parts:
        label = int(parts[".cls"].decode())
    if ".txt" in parts:
        caption = parts[".txt"].decode().strip()
    return None if label is None else int(label), caption


class Parquet(Records):
    r"""Parquet shards with a column `image`, of bytes or of Hugging Face's `{bytes, path}`.

    A column `label` holds classes, `text` or `caption` captions. A row group is read at a time.

    Raises:
        ConfigError: A file is no parquet file, or has no such column.
    """

    ordered = True

    def __init__(self, files: Sequence[Path]) -> None:
        parquet = require("pyarrow.parquet", "data")
        self.groups: list[tuple[Path, int]] = []
        self.ends: list[int] = []
        for file in files:
            try:
                about = parquet.ParquetFile(file)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{file} is not a parquet file: {error}") from error
            if "image" not in about.schema_arrow.names:
                raise ConfigError(f"{file} has columns {about.schema_arrow.names}, none `image`")
            for group in range(about.num_row_groups):
                rows = about.metadata.row_group(group).num_rows
                self.groups.append((file, group))
                self.ends.append((self.ends[-1] if self.ends else 0) + rows)
        if not self.ends or not self.ends[-1]:
            raise ConfigError(f"{', '.join(map(str, files))} hold no row")
        self._read: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return self.ends[-1]

    def item(self, index: int) -> Item:
        group = int(np.searchsorted(self.ends, index, side="right"))
        if self._read[0] != group:
            file, number = self.groups[group]
            parquet = require("pyarrow.parquet", "data")
            table = parquet.ParquetFile(file).read_row_group(number)
            self._read = (group, table.to_pylist())
        place = index - (self.ends[group - 1] if group else 0)
        row = self._read[1][place]
        name = f"{self.groups[group][0]}[{index}]"
        image = row["image"]
        data = image.get("bytes") if isinstance(image, dict) else image
        label, caption = row.get("label"), row.get("text", row.get("caption"))
        return Item(
            name, decode(data or b"", name), None if label is None else int(label), caption
        )


class Hub(Records):
    r"""A data set of Hugging Face: `hf://name`, `hf://name:split`."""

    def __init__(self, name: str, split: str) -> None:
        datasets = require("datasets", "datasets")
        self.name, self.rows = name, datasets.load_dataset(name, split=split)
        names = self.rows.column_names
        self.image = next((n for n in ("image", "img") if n in names), "")
        if not self.image:
            raise ConfigError(f"{name} has columns {names}, none `image` or `img`")

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Item:
        name = f"{self.name}[{index}]"
        try:
            row = self.rows[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise Corrupt(name, str(error)) from error
        label, caption = row.get("label"), row.get("text", row.get("caption"))
        return Item(name, row[self.image], None if label is None else int(label), caption)
