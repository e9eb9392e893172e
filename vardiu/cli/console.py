r"""Where commands print, and how."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import yaml
from rich.console import Console

from ..reports.tables import show_table
from ..runs.task import Task

__all__ = ["Output", "console", "print_rows", "print_settings"]


class Output(Console):
    r"""A console that nobody may read any more, as after `| head`: what is printed is dropped
    then, and the work goes on. It is told once, on the error output."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("nothing reads the output any more; the command goes on", file=sys.stderr)


# `FILE.py:NAME:` is no picture of a name.
console = Output(emoji=False)


def print_rows(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    r"""Prints rows as a table, whose columns are those of the first row; numbers are whole at any
    width, see `show_table`."""
    show_table(console, title, rows)


def print_settings(task: Task) -> None:
    r"""Prints the resolved settings of a task, as its run's `config.yaml`."""
    print(yaml.safe_dump(task.to_mapping(), sort_keys=False), end="")
