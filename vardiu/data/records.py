r"""Images in memory, in arrays, and in data sets of Hugging Face, each in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, require, shown
from ..storage.bounded import DAMAGED, read_bytes
from ..storage.limits import refuse_beyond
from .images import Corrupt, Item, Records, decode
from .labels import CAPTIONS, IMAGES, LABELS, numbered

__all__ = ["Arrays", "Hub", "Tensors"]


class Tensors(Records):
    r"""Images in memory, in [-1, 1], with shape `(N, C, H, W)`."""

    def __init__(self, x: Tensor, label: Tensor | None = None, name: str = "image") -> None:
        super().__init__()
        self.x, self.label, self.name = x, label, name

    def __len__(self) -> int:
        return len(self.x)

    def stated_classes(self) -> Sequence[int | None]:
        return [None] * len(self) if self.label is None else self.label.tolist()

    def item(self, index: int) -> Item:
        label = None if self.label is None else int(self.label[index])
        return Item(f"{self.name} {index}", self.x[index], label)


ARRAYS = ("x", "images", "image", "arr_0", "data", "x_train")


LABEL_ARRAYS = (*LABELS, "classes", "targets", "y_train")


# Rows of an array that are looked at at once.
ROWS = 1024


class Arrays(Records):
    r"""An `.npz` or `.npy` file: bytes, or floats in [-1, 1], as NCHW or NHWC.

    The images are under `x`, `images` or `arr_0` (see `ARRAYS`), their classes under `label`,
    `labels`, `y` (see `LABEL_ARRAYS`), or `arr_1` beside `arr_0`, as guided-diffusion has it. A
    `.npy` stays on the disk and is read row by row.

    Raises:
        ConfigError: The arrays are damaged, or of another kind, shape or length.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        arrays = self._load(path)
        self.x = _images(arrays["x"], path)
        if not len(self.x):
            raise ConfigError(f"{shown(path)} holds no image: its array has shape {self.x.shape}")
        self.path, self.label = path, arrays.get("label")
        self._numbers: Sequence[int | None] = [None] * len(self.x)
        if self.label is None:
            return
        if self.label.shape != (len(self.x),):
            raise ConfigError(
                f"{shown(path)}: the classes must have shape ({len(self.x)},), got "
                f"{self.label.shape}"
            )
        try:
            self._numbers, self.classes = numbered(self.label.tolist())
        except ValueError as error:
            raise ConfigError(f"{shown(path)}: {error}") from error

    def _load(self, path: Path) -> dict[str, np.ndarray]:
        r"""Returns the array of images, and that of classes if there is one."""
        if not path.is_file():
            raise ConfigError(f"{shown(path)} is no regular file")
        try:
            alone = path.suffix.lower() == ".npy"
            loaded = np.load(path, allow_pickle=False, mmap_mode="r" if alone else None)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            with loaded:
                names = {"x": _first(loaded.files, ARRAYS, path)}
                label = next((key for key in LABEL_ARRAYS if key in loaded.files), None)
                if label is None and names["x"] == "arr_0" and "arr_1" in loaded.files:
                    label = "arr_1"
                names |= {} if label is None else {"label": label}
                for key in loaded.files:
                    if key not in names.values():
                        self.left_out.add("arrays that are not read", f"{path}: {key}")
                sizes = {info.filename: info.file_size for info in loaded.zip.infolist()}
                for key in names.values():
                    size = sizes.get(f"{key}.npy", sizes.get(key, 0))
                    refuse_beyond("array bytes", size, f"{path}: {key}")
                return {name: loaded[key] for name, key in names.items()}
        except ConfigError:
            raise
        except DAMAGED as error:
            why = shown(str(error) or type(error).__name__)
            raise ConfigError(f"{shown(path)} cannot be read as an array: {why}") from error

    def __len__(self) -> int:
        return len(self.x)

    def stated_classes(self) -> Sequence[int | None]:
        return self._numbers

    def item(self, index: int) -> Item:
        name = f"{self.path}[{index}]"
        x = torch.from_numpy(np.array(self.x[index]))
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
        if not bool(x.isfinite().all()):
            raise Corrupt(name, "values are not finite")
        return Item(name, x, self._numbers[index])


def _first(names: Sequence[str], keys: Sequence[str], path: Path) -> str:
    for key in keys:
        if key in names:
            return key
    raise ConfigError(
        f"{shown(path)} holds {shown(sorted(names))}; images are looked for in {list(keys)}"
    )


def _images(x: np.ndarray, path: Path) -> np.ndarray:
    r"""Returns images as NCHW.

    Raises:
        ConfigError: They are of another shape or type, or beyond [-1, 1].
    """
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4:
        raise ConfigError(
            f"{shown(path)}: images must have three or four axes, got shape {x.shape}"
        )
    if x.shape[1] in (1, 3) and x.shape[3] in (1, 3):
        raise ConfigError(
            f"{shown(path)}: shape {x.shape} may be NCHW or NHWC; save images of "
            "more than three pixels a side, or grey ones as (N, H, W)"
        )
    if x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.shape[1] not in (1, 3):
        raise ConfigError(
            f"{shown(path)}: images must have one channel or three, got shape {x.shape}"
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ConfigError(f"{shown(path)}: images must be bytes or floats, got {x.dtype}")
    if x.dtype != np.uint8:
        _refuse_range(x, path)
    return x


def _refuse_range(x: np.ndarray, path: Path) -> None:
    r"""Raises a `ConfigError` if floats are not in [-1, 1]; what is not finite is left to them
    who ask for it."""
    low, high = np.inf, -np.inf
    for begin in range(0, len(x), ROWS):
        part = np.asarray(x[begin : begin + ROWS])
        part = part[np.isfinite(part)]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if max(abs(low), abs(high)) > 1.5 and np.isfinite(low):
        raise ConfigError(
            f"{shown(path)}: floats must be in [-1, 1], got up to {max(abs(low), abs(high)):g}; "
            "bytes are scaled here"
        )
    if low >= 0 and 0.5 < high <= 1:
        raise ConfigError(
            f"{shown(path)}: floats are in [0, 1], and must be in [-1, 1]: save 2 * x - 1, or "
            "bytes"
        )


class Hub(Records):
    r"""A data set of Hugging Face: `hf://name`, `hf://name:split`."""

    def __init__(self, name: str, split: str) -> None:
        super().__init__()
        datasets = require("datasets")
        self.name, self.rows = name, datasets.load_dataset(name, split=split)
        names = self.rows.column_names
        self.image = next((n for n in IMAGES if n in names), "")
        if not self.image:
            raise ConfigError(
                f"{shown(name)} has the columns {shown(names)}, none of {', '.join(IMAGES)}"
            )
        # The bytes: which formats are decoded is said in one place.
        self.rows = self.rows.cast_column(self.image, datasets.Image(decode=False))
        self.label = next((n for n in LABELS if n in names), None)
        self.text = next((n for n in CAPTIONS if n in names), None)
        for other in names:
            if other not in (self.image, self.label, self.text):
                self.left_out.add("columns that are not read", other)
        if self.label is not None:
            feature = self.rows.features[self.label]
            self._numbers, self.classes = numbered(list(self.rows[self.label]))
            self.classes = list(getattr(feature, "names", self.classes))

    def __len__(self) -> int:
        return len(self.rows)

    def stated_classes(self) -> Sequence[int | None]:
        return [None] * len(self) if self.label is None else self._numbers

    def item(self, index: int) -> Item:
        name = f"{self.name}[{index}]"
        row = self.rows[index]
        image = row[self.image] or {}
        data = image.get("bytes")
        if data is None and image.get("path"):
            data = read_bytes(image["path"], "image bytes")
        caption = None if self.text is None else row[self.text]
        return Item(name, decode(data or b"", name), self.stated_classes()[index], caption)
