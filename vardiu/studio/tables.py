r"""What commands print as JSON, as tables of the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ..reports.estimates import duration, networks, totals
from ..runs.console import probe_table
from ..teachers.probe import Probe

__all__ = ["TABLED", "tables_of"]


# The commands whose numbers are shown as tables.
TABLED = ("probe", "estimate")


def tables_of(words: Sequence[str], printed: str) -> list[dict[str, Any]]:
    r"""Returns tables of what a command printed with `--json`, each with `title`, `head`, `rows`
    and `note`; none where it printed nothing.

    Arguments:
        words: The words of the command.
        printed: What it printed.

    Raises:
        ValueError: It is not JSON.
    """
    if words[0] not in TABLED or not printed.strip():
        return []
    found = json.loads(printed)
    if words[0] == "probe":
        rows = probe_table([Probe(**row) for row in found["levels"]])
        return [table_of(rows, "The teacher's denoising error by level", found["verdict"])]
    stages = [
        table_of(
            networks(stage),
            f"{stage['name']}: memory by network",
            f"{stage['steps']:,} steps of {duration(stage['step'])}: {duration(stage['seconds'])}",
        )
        for stage in found["stages"]
    ]
    return [table_of(totals(found), "In all", ""), *stages]


def table_of(table: Table, title: str, note: str) -> dict[str, Any]:
    r"""Returns a table of the terminal as one of the page."""
    head = [str(column.header) for column in table.columns] if table.show_header else []
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    body = [list(row) for row in zip(*columns, strict=True)]
    return {"title": title, "head": head, "rows": body, "note": note}
