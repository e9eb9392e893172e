r"""Tables of points: samples of any shape, out of `.npy`, `.npz`, `.csv`, `.tsv` and `.txt`."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, amount, brief, shown
from ..storage.bounded import DAMAGED, decoded_text, open_regular
from ..storage.limits import refuse_beyond
from .labels import LABELS

__all__ = ["SUFFIXES", "Points", "account", "read_points", "read_table", "refuse_far"]


# What separates the columns of a table.
SEPARATORS: Mapping[str, str | None] = {".csv": ",", ".tsv": "\t", ".txt": None}
CALLED = {",": "commas", "\t": "tabs", None: "spaces"}


# What tables of other kinds have in the place of these.
OTHERS = {";": "semicolons", "\t": "tabs", ",": "commas"}


# What a table of points may end in.
SUFFIXES = (".npy", ".npz", *SEPARATORS)


# The largest mean of a column, in standard deviations. At this distance float32 has steps of a
# thousandth of a standard deviation, and the smallest levels of noise are not much larger.
FARTHEST = 1e4


# What pandas calls the column of an index that has no name.
INDEX = re.compile(r"|index|unnamed: ?[0-9]+")


# How many names of columns a line shows.
NAMED = 12


# The fewest rows whose numbers, in a table without names, are no chance.
ROWS = 10


class Points(NamedTuple):
    r"""What a file holds.

    Attributes:
        x: The points, with shape :math:`(N, *)`.
        cond: `label`, :math:`(N)`, where there are classes.
        names: The names of the coordinates; empty where the file states none.
    """

    x: Tensor
    cond: Mapping[str, Tensor]
    names: tuple[str, ...]


class _Columns(NamedTuple):
    r"""The numbers of a file, its classes, and the names of the columns beside them."""

    x: np.ndarray
    label: np.ndarray | None
    names: tuple[str, ...] = ()


def read_points(
    source: str, shape: Sequence[int] | None = None, classes: int = 0
) -> tuple[Tensor, Mapping[str, Tensor]]:
    r"""Returns the points of a file, and their conditions, see `read_table`."""
    found = read_table(source, shape, classes)
    return found.x, found.cond


def account(x: Tensor, names: Sequence[str] = ()) -> str:
    r"""Returns what was read of points, in one line.

    Example:
        >>> account(torch.zeros(300, 2), ["a", "b"])
        '300 points in 2 dimensions: a, b'
    """
    if x.ndim == 2:
        line = f"{amount(len(x), 'point')} in {amount(x.shape[1], 'dimension')}"
    else:
        line = f"{amount(len(x), 'point')} of shape {tuple(x.shape[1:])}"
    return f"{line}: {some(names)}" if names else line


def some(names: Sequence[str]) -> str:
    r"""Returns names as one line shows them: the first ones where there are many."""
    told = [shown(name) for name in names[:NAMED]]
    return ", ".join([*told, "..."] if len(names) > NAMED else told)


def refuse_far(x: np.ndarray, source: str, names: Sequence[str] = ()) -> None:
    r"""Raises a `ConfigError` where points lie too far from the origin for float32.

    Arguments:
        x: The points as they are stated, with shape :math:`(N, d)`.
        source: Where they are from, for the message.
        names: The names of their coordinates.
    """
    if not len(x):
        return
    low, high = x.min(0), x.max(0)
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    far = ((low < high) & (np.abs(mean) > FARTHEST * std)).nonzero()[0]
    if not len(far):
        return
    first = int(far[0])
    name = repr(shown(names[first])) if names else str(first + 1)
    raise ConfigError(
        f"{source}: column {name} is {mean[first]:.3g} with a spread of {std[first]:.2g}: single "
        "precision cannot tell its points apart; subtract each column's mean"
    )


def read_table(source: str, shape: Sequence[int] | None = None, classes: int = 0) -> Points:
    r"""Returns the points of a file, their conditions, and the names of their coordinates.

    Of `.npy` the array; of `.npz` the array `x`, or the only one beside the classes; of a table of
    text one point a line, with or without a line of names. Classes are an array or a column of a
    name among `LABELS`; beside a column `x`, `y` is a coordinate.

    Arguments:
        source: The file.
        shape: The shape of a point; its numbers may also be in one row. Without it that of the
            file, whose points must be rows of numbers, with no classes beside them.
        classes: The number of classes of the teacher; zero where labels are left aside.

    Raises:
        ConfigError: It cannot be read, is of no kind that is known, or its numbers are not finite,
            of another shape, or not as many as classes need; or a column is the row number.
    """
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"there are no points at {shown(source)}: give a file .npy, .npz, .csv, .tsv or .txt"
        )
    suffix = path.suffix.lower()
    if suffix not in SEPARATORS and suffix in SUFFIXES:
        x, label, names = _arrays(path)
    elif suffix in SEPARATORS:
        x, label, names = _table(path, SEPARATORS[suffix])
    else:
        raise ConfigError(
            f"{shown(path)} is no table of points: give a file .npy, .npz, .csv, .tsv or .txt"
        )
    own = shape is None  # else how far points are is the teacher's
    if shape is None:
        if label is not None:
            raise ConfigError(
                f"{shown(path)} has classes ({', '.join(LABELS)}), which are not used here: leave "
                "them out"
            )
        if x.ndim > 2:
            raise ConfigError(
                f"{shown(path)}: the array has shape {x.shape}, and (N, d) is expected, one point "
                "a row: write x.reshape(len(x), -1)"
            )
        shape = x.shape[1:] if x.ndim == 2 else (1,)
    points = _points(x, shape, path)
    if own:
        refuse_far(x.reshape(len(x), -1), shown(path), names)
    if not classes:
        return Points(points, {}, names)
    return Points(points, {"label": _labels(label, len(points), classes, path)}, names)


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
    refuse_infinite(points, np.isfinite(x).reshape(rows, -1), path)
    return points


def refuse_infinite(points: Tensor, stated: np.ndarray, path: Path) -> None:
    r"""Raises a `ConfigError` if points are not finite in float32.

    Arguments:
        points: The points, with shape :math:`(N, *)`.
        stated: Which of their numbers are finite in the file, with shape :math:`(N, d)`.
        path: The file.
    """
    bad = ~points.flatten(1).isfinite().all(1)
    if not bool(bad.any()):
        return
    infinite = ~torch.from_numpy(stated).all(1)
    if bool(infinite.any()):
        count, first = int(infinite.sum()), int(infinite.nonzero()[0])
        hold, cure = "that are not finite", "take them out"
    else:
        count, first = int(bad.sum()), int(bad.nonzero()[0])
        hold = f"beyond what float32 holds, {torch.finfo(torch.float32).max:.2g}"
        cure = "divide all points by a number"
    found = amount(count, "point holds values", "points hold values")
    raise ConfigError(f"{shown(path)}: {found} {hold}, the first is point {first + 1}: {cure}")


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


def _arrays(path: Path) -> _Columns:
    try:
        if path.suffix.lower() == ".npy":
            # Mapped, an array cannot claim to be longer than its file.
            x = np.load(path, mmap_mode="r", allow_pickle=False)
            refuse_beyond("point values", x.size, path)
            return _Columns(x, None)
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        refuse_beyond("point values", size // 8, path)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except ConfigError:
        raise
    except DAMAGED as error:
        why = shown(str(error) or type(error).__name__).rstrip(".")
        raise ConfigError(
            f"{shown(path)} cannot be read as an array of numbers: {why}. Write one point a row, "
            "with numpy.save and x.astype('float32')"
        ) from error
    named = [name for name in LABELS if name in arrays]
    label = arrays.pop(named[0]) if named else None
    if "x" not in arrays and len(arrays) != 1:
        raise ConfigError(f"{shown(path)} holds {shown(sorted(arrays))}: name the points x")
    return _Columns(arrays.get("x", next(iter(arrays.values()))), label)


def _table(path: Path, separator: str | None) -> _Columns:
    refuse_beyond("point values", path.stat().st_size // 2, path)
    with open_regular(path) as file:
        lines = decoded_text(file.read(), path).splitlines()
    cells: list[list[str]]
    if separator is None:
        cells = [line.split() for line in lines]
    else:
        cells = list(csv.reader(lines, delimiter=separator))
    numbered = [
        (i, row) for i, row in enumerate(cells, start=1) if row and not row[0].startswith("#")
    ]
    head: list[str] = []
    if numbered and not _is_numbers(numbered[0][1]):
        head = [cell.strip() for cell in numbered.pop(0)[1]]
    width = len(numbered[0][1]) if numbered else 0
    rows = [_row(path, i, row, width, CALLED[separator]) for i, row in numbered]
    if not rows:
        raise ConfigError(f"{shown(path)} holds no point")
    x = np.array(rows)
    if x.shape[1] != len(head):
        head = []
    _refuse_row_numbers(x, head, path)
    return _without_classes(x, head, path)


def _without_classes(x: np.ndarray, head: Sequence[str], path: Path) -> _Columns:
    r"""Returns the columns of a table, that of the classes apart."""
    names = [name.lower() for name in head]
    # Beside x the letter y is a place.
    known = [name for name in LABELS if name in names and (name != "y" or "x" not in names)]
    if not known:
        return _Columns(x, None, tuple(head))
    if names.count(known[0]) > 1:
        raise ConfigError(f"{shown(path)} has two columns of the name {known[0]}: keep one")
    place = names.index(known[0])
    others = (*head[:place], *head[place + 1 :])
    return _Columns(np.delete(x, place, axis=1), x[:, place], others)


def _refuse_row_numbers(x: np.ndarray, head: Sequence[str], path: Path) -> None:
    r"""Raises a `ConfigError` where a column of a table numbers its rows.

    Under a name that pandas gives to an index, whole numbers that differ do, in any order. Without
    names the first column does where it counts from 0 or 1.
    """
    cure = "is the row number: leave it out (in pandas, index=False)"
    for i, name in enumerate(head):
        column = x[:, i]
        differ = len(np.unique(column)) == len(x) and bool((column >= 0).all())
        if INDEX.fullmatch(name.lower()) and differ and bool((column == np.floor(column)).all()):
            named = f" ({shown(name)})" if name else ""
            raise ConfigError(f"column {i + 1}{named} of {shown(path)} {cure}")
    if head or x.shape[1] < 2 or len(x) < ROWS:
        return
    if np.array_equal(x[0], np.arange(x.shape[1])):
        raise ConfigError(
            f"the first line of {shown(path)} numbers its columns: leave it out (in pandas, "
            "header=False), or write names there; if it is a point, name the columns above it"
        )
    if any(np.array_equal(x[:, 0], np.arange(first, first + len(x))) for first in (0, 1)):
        raise ConfigError(
            f"column 1 of {shown(path)} {cure}; if it is a coordinate, name the columns in the "
            "first line"
        )


def _is_numbers(row: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in row])
    except ValueError:
        return False


def _row(path: Path, line: int, row: Sequence[str], columns: int, separators: str) -> list[float]:
    place = f"{shown(path)}, line {line}"
    # A cell that is no number is told first: what it holds tells why there are other columns.
    try:
        values = [float(cell) for cell in row]
    except ValueError as error:
        wrong = next(cell for cell in row if not _is_numbers([cell]))
        raise ConfigError(f"{place}: {_no_number(wrong, separators)}") from error
    if len(row) != columns:
        raise ConfigError(
            f"{place}: {amount(len(row), 'column')}, and the first point has {columns}: one point "
            f"a line is expected, its columns separated by {separators}"
        )
    return values


def _no_number(cell: str, separators: str) -> str:
    r"""Returns what is wrong with a cell, what was expected, and the cure."""
    other = next((words for sign, words in OTHERS.items() if sign in cell), None)
    if other is not None and other != separators:
        cure = f"write {separators} for {other}, and decimals with a point"
    else:
        cure = "write a number, or take the line out"
    return (
        f"{brief(cell)!r} is no number; columns are separated by {separators}, decimals have a "
        f"point, and names are in the first line alone: {cure}"
    )
