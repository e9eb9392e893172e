r"""Where commands print, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from ..reports.tables import show_table
from ..runs.output import Output
from ..runs.task import Task

__all__ = ["console", "print_rows", "print_settings"]


# `FILE.py:NAME:` is no picture of a name.
console = Output(emoji=False)


def print_rows(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    r"""Prints rows as a table, whose columns are those of the first row; numbers are whole at any
    width, see `show_table`."""
    show_table(console, title, rows)


def print_settings(task: Task) -> None:
    r"""Prints the resolved settings of a task, as its run's `config.yaml`."""
    print(yaml.safe_dump(task.to_mapping(), sort_keys=False), end="")
