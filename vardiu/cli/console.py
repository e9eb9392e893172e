r"""Where commands print, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml
from rich.console import Console
from rich.table import Table

from ..runs.task import Task

__all__ = ["console", "print_rows", "print_settings"]


# `FILE.py:NAME:` is no picture of a name.
console = Console(emoji=False)


def print_rows(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    r"""Prints rows as a table, whose columns are those of the first row."""
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in rows[0]))
    # A wide table is better cut by the terminal than folded into columns of single letters.
    console.print(table, width=max(console.width, 160), crop=False)


def print_settings(task: Task) -> None:
    r"""Prints the resolved settings of a task, as its run's `config.yaml`."""
    print(yaml.safe_dump(task.to_mapping(), sort_keys=False), end="")
