r"""Tables of points: samples of any shape, out of `.npy`, `.npz`, `.csv`, `.tsv` and `.txt`."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, shown
from ..storage.bounded import DAMAGED
from ..storage.limits import refuse_beyond
from .labels import LABELS

__all__ = ["SUFFIXES", "read_points"]


# What separates the columns of a table.
SEPARATORS: Mapping[str, str | None] = {".csv": ",", ".tsv": "\t", ".txt": None}


# What a table of points may end in.
SUFFIXES = (".npy", ".npz", *SEPARATORS)


def read_points(
    source: str, shape: Sequence[int] | None = None, classes: int = 0
) -> tuple[Tensor, Mapping[str, Tensor]]:
    r"""Returns the points of a file, and their conditions.

    Of `.npy` the array; of `.npz` the array `x`, or the only one beside the classes; of a table of
    text one point a line, with or without a line of names. Classes are an array or a column named
    `label`, `labels`, `class` or `y`; beside a column `x`, `y` is a coordinate.

    Arguments:
        source: The file.
        shape: The shape of a point; its numbers may also be in one row. Without it that of the
            file, whose points must be rows of numbers, with no classes beside them.
        classes: The number of classes of the teacher; zero where labels are left aside.

    Returns:
        The points, with shape :math:`(N, *)`, and `label`, :math:`(N)`, where there are classes.

    Raises:
        ConfigError: It cannot be read, is of no kind that is known, or its numbers are not finite,
            of another shape, or not as many as classes need.
    """
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"there are no points at {shown(source)}: give a file .npy, .npz, .csv, .tsv or .txt"
        )
    suffix = path.suffix.lower()
    if suffix not in SEPARATORS and suffix in SUFFIXES:
        x, label = _arrays(path)
    elif suffix in SEPARATORS:
        x, label = _table(path, SEPARATORS[suffix])
    else:
        raise ConfigError(
            f"{shown(path)} is no table of points: give a file .npy, .npz, .csv, .tsv or .txt"
        )
    if shape is None:
        if label is not None:
            raise ConfigError(
                f"{shown(path)} has classes ({', '.join(LABELS)}), which are not used here: leave "
                "them out"
            )
        shape = x.shape[1:] if x.ndim == 2 else (1,)
    points = _points(x, shape, path)
    if not classes:
        return points, {}
    return points, {"label": _labels(label, len(points), classes, path)}


def _points(x: np.ndarray, shape: Sequence[int], path: Path) -> Tensor:
    if x.dtype.kind not in "iuf":
        raise ConfigError(f"{shown(path)}: points must be numbers, got type {x.dtype}")
    if x.ndim == 1 and math.prod(shape) == 1:
        x = x[:, None]
    rows = x.shape[0] if x.ndim else 0
    if not rows or tuple(x.shape[1:]) not in (tuple(shape), (math.prod(shape),)):
        raise ConfigError(
            f"{shown(path)}: points of the teacher have shape {tuple(shape)}, the array has "
            f"shape {x.shape}; one point a row is expected"
        )
    with np.errstate(over="ignore"):  # what float32 does not hold is not finite below
        # A copy: torch warns of memory that cannot be written, as that of a file is.
        points = torch.from_numpy(np.array(x, np.float32, order="C")).reshape(rows, *shape)
    bad = ~points.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ConfigError(
            f"{shown(path)}: {int(bad.sum())} points hold values that are not finite, the first "
            f"is point {first + 1}: take them out"
        )
    return points


def _labels(label: np.ndarray | None, n: int, classes: int, path: Path) -> Tensor:
    if label is None:
        raise ConfigError(
            f"{shown(path)}: the teacher has {classes} classes, and the file none: add an array "
            "or a column named label"
        )
    if label.shape != (n,) or not np.array_equal(label, label.astype(np.int64)):
        raise ConfigError(f"{shown(path)}: label must be one whole number a point, {n}")
    found = torch.from_numpy(label.astype(np.int64))
    if int(found.min()) < 0 or int(found.max()) >= classes:
        raise ConfigError(
            f"{shown(path)}: labels must be within 0 and {classes - 1}, the teacher's classes, "
            f"got {int(found.min())} to {int(found.max())}"
        )
    return found


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        if path.suffix.lower() == ".npy":
            # Mapped, an array cannot claim to be longer than its file.
            x = np.load(path, mmap_mode="r", allow_pickle=False)
            refuse_beyond("point values", x.size, path)
            return x, None
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        refuse_beyond("point values", size // 8, path)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except ConfigError:
        raise
    except DAMAGED as error:
        why = shown(str(error) or type(error).__name__)
        raise ConfigError(f"{shown(path)} cannot be read as an array of numbers: {why}") from error
    named = [name for name in LABELS if name in arrays]
    label = arrays.pop(named[0]) if named else None
    if "x" not in arrays and len(arrays) != 1:
        raise ConfigError(f"{shown(path)} holds {shown(sorted(arrays))}: name the points x")
    return arrays.get("x", next(iter(arrays.values()))), label


def _table(path: Path, separator: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    refuse_beyond("point values", path.stat().st_size // 2, path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)} cannot be read as text: {error}") from error
    cells: list[list[str]]
    if separator is None:
        cells = [line.split() for line in lines]
    else:
        cells = list(csv.reader(lines, delimiter=separator))
    numbered = [
        (i, row) for i, row in enumerate(cells, start=1) if row and not row[0].startswith("#")
    ]
    names: list[str] = []
    if numbered and not _is_numbers(numbered[0][1]):
        names = [cell.strip().lower() for cell in numbered.pop(0)[1]]
    rows = [_row(path, i, row, len(numbered[0][1])) for i, row in numbered]
    if not rows:
        raise ConfigError(f"{shown(path)} holds no point")
    x = np.array(rows)
    if x.shape[1] != len(names):
        return x, None
    # Beside x the letter y is a place.
    known = [name for name in LABELS if name in names and (name != "y" or "x" not in names)]
    if not known:
        return x, None
    if names.count(known[0]) > 1:
        raise ConfigError(f"{shown(path)} has two columns of the name {known[0]}: keep one")
    place = names.index(known[0])
    return np.delete(x, place, axis=1), x[:, place]


def _is_numbers(row: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in row])
    except ValueError:
        return False


def _row(path: Path, line: int, row: Sequence[str], columns: int) -> list[float]:
    if len(row) != columns:
        raise ConfigError(
            f"{shown(path)}, line {line}: {len(row)} columns, and the first point has {columns}"
        )
    try:
        return [float(cell) for cell in row]
    except ValueError as error:
        raise ConfigError(f"{shown(path)}, line {line}: {shown(str(error))}") from error
