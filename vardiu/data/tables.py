r"""Tables that people write beside their images: CSV, TSV, JSON lines, JSON and parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, nearest, require, shown
from ..storage.bounded import DAMAGED, parsed_json, read_text
from ..storage.limits import refuse_beyond
from .labels import CAPTIONS
from .left_out import LeftOut

__all__ = ["TABLES", "Table", "parquet_file", "read_captions", "read_table"]


class Table(NamedTuple):
    r"""Some columns of a table.

    Arguments:
        names: The names of all its columns.
        columns: Those that were asked for and are there, each with one value a row.
        rows: The number of rows.
    """

    names: list[str]
    columns: dict[str, list[Any]]
    rows: int

    def first(self, wanted: Sequence[str]) -> str | None:
        r"""Returns the first of some names that is a column's, in any case of letters."""
        folded = {name.casefold(): name for name in reversed(self.names)}
        return next((folded[name] for name in wanted if name in folded), None)


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    r"""Returns the wanted columns of a table.

    Arguments:
        path: The file, `.csv`, `.tsv`, `.jsonl`, `.json` or `.parquet`.
        wanted: The names of columns, in small letters.

    Raises:
        ConfigError: It cannot be read, or is of another kind; the message names file and line.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ConfigError(f"{shown(path)} is no table; {nearest(suffix, TABLES)}")
    table = TABLES[suffix](path, wanted)
    refuse_beyond("table rows", table.rows, path)
    twice = next((n for n in table.columns if table.names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"{shown(path)} has two columns of the name {shown(twice)}: keep one")
    return table


def _separated(path: Path, wanted: Sequence[str]) -> Table:
    text = read_text(path, "table bytes")
    head = text[:10_000].split("\n", 1)[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else ","
    mark = ";" if mark == "," and "," not in head and ";" in head else mark
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
    except csv.Error as error:
        raise ConfigError(f"{shown(path)} is no table in CSV: {error}") from error
    if not rows:
        raise ConfigError(f"{shown(path)} is empty")
    names, *rest = rows
    names = [name.strip() for name in names]
    for number, row in enumerate(rest, start=2):
        if len(row) != len(names):
            raise ConfigError(
                f"{shown(path)}, row {number:,} has {len(row):,} fields, and the first one, which "
                f"names the columns, has {len(names):,}"
            )
    places = {i: name for i, name in enumerate(names) if name.casefold() in wanted}
    return Table(names, {n: [row[i] for row in rest] for i, n in places.items()}, len(rest))


def _lines(path: Path, wanted: Sequence[str]) -> Table:
    rows = []
    for number, line in enumerate(read_text(path, "table bytes").split("\n"), start=1):
        if line.strip():
            rows.append(parsed_json(line, f"{path}, line {number:,}"))
    return _objects(path, rows, wanted)


def _json(path: Path, wanted: Sequence[str]) -> Table:
    rows = parsed_json(read_text(path, "table bytes"), path)
    if not isinstance(rows, list):
        raise ConfigError(f"{shown(path)} must hold a list of rows, got {shown(rows)}")
    return _objects(path, rows, wanted)


def _objects(path: Path, rows: Sequence[Any], wanted: Sequence[str]) -> Table:
    r"""Returns the table of mappings; texts alone are a column `text`."""
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    for row in rows:
        if not isinstance(row, dict):
            raise ConfigError(f"{shown(path)}: a row must be a mapping, got {shown(row)}")
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    chosen = [name for name in names if name.casefold() in wanted]
    return Table(names, {n: [row.get(n) for row in rows] for n in chosen}, len(rows))


def parquet_file(path: Path) -> Any:  # noqa: ANN401 (pyarrow's)
    r"""Returns a parquet file, of which only the footer is read.

    Raises:
        ConfigError: It is none, or has too many columns; or `pyarrow` is not installed.
    """
    parquet = require("pyarrow.parquet", "data")
    if not path.is_file():
        raise ConfigError(f"{shown(path)} is no regular file")
    try:
        file = parquet.ParquetFile(path)
        columns = len(file.schema_arrow.names)
    except DAMAGED as error:
        raise ConfigError(f"{shown(path)} is not a parquet file: {shown(str(error))}") from error
    refuse_beyond("table columns", columns, path)
    return file


def _parquet(path: Path, wanted: Sequence[str]) -> Table:
    file = parquet_file(path)
    names = list(file.schema_arrow.names)
    chosen = [name for name in names if name.casefold() in wanted]
    refuse_beyond("table rows", file.metadata.num_rows, path)
    try:
        columns = file.read(columns=chosen).to_pydict() if chosen else {}
    except DAMAGED as error:
        raise ConfigError(f"{shown(path)} cannot be read: {shown(str(error))}") from error
    return Table(names, columns, file.metadata.num_rows)


TABLES: Mapping[str, Callable[[Path, Sequence[str]], Table]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".parquet": _parquet,
}


def read_captions(file: Path) -> list[str]:
    r"""Returns the texts of a table's column `text`, `caption` or `prompt`; rows without are left
    out with a warning.

    Raises:
        ConfigError: It cannot be read, has no such column, or one of other values.
    """
    table = read_table(file, CAPTIONS)
    name = table.first(CAPTIONS)
    if name is None:
        raise ConfigError(
            f"{shown(file)} has the columns {shown(table.names)}; prompts are read from one of "
            f"{', '.join(CAPTIONS)}"
        )
    lines = table.columns[name]
    _tell_rows_without(lines, file)
    bad = next((v for v in lines if v is not None and not isinstance(v, str)), None)
    if bad is not None:
        raise ConfigError(f"{shown(file)}: a prompt must be a text, got {shown(bad)}")
    return [line for line in lines if line]


def _tell_rows_without(lines: Sequence[Any], file: Path) -> None:
    left_out = LeftOut()
    for number, line in enumerate(lines, start=1):
        if line is None or isinstance(line, str) and not line.strip():
            left_out.add("rows without a prompt", f"row {number:,}")
    left_out.warn(file)
