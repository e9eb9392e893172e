r"""Tables on a console: numbers are never cut."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import with_error

__all__ = ["show_table", "value_with_error"]


# More columns of characters than any table has.
UNBOUNDED = 100_000


def value_with_error(value: float, error: float | None) -> str:
    r"""Returns a measured value with its standard error."""
    return f"{value:.4g} (no error)" if error is None else with_error(value, error, digits=1)


def show_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    r"""Prints rows as a table, whose columns are those of the first row.

    A table that is wider than the terminal is printed as a block a row, with a name and a value in
    each line. What is no terminal has no width: there the table is as wide as it is.

    Arguments:
        console: Where to print.
        title: The heading; none where it is empty.
        rows: The rows, at least one.
    """
    names = list(rows[0])
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(names):
        numbers = all(is_number(line[place]) for line in cells)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    width = console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum
    if title:
        console.print(Text(title, style="italic"), soft_wrap=True)
    if width <= console.width and console.is_terminal:
        console.print(table)
        return
    if not console.is_terminal:
        # Rich cuts at the console's width, of a pipe too, whatever it is told.
        wide = Console(file=io.StringIO(), width=width, color_system=None)
        with wide.capture() as captured:
            wide.print(table)
        for text in captured.get().splitlines():
            console.print(Text(text.rstrip()), soft_wrap=True)
        return
    for line in cells:
        console.print(Text(line[0], style="bold"), soft_wrap=True)
        for name, cell in zip(names[1:], line[1:], strict=True):
            console.print(Padding(Text(f"{name}: {cell}"), (0, 0, 0, 2)))


def is_number(text: str) -> bool:
    r"""Whether a cell is empty or begins with a number."""
    return not text or text.lstrip("+-")[:1].isdigit() or text in ("nan", "–")
