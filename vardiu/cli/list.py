r"""`vardiu list`, which reads the inventory and imports no method."""

from __future__ import annotations

import json

from rich.table import Column, Table

from ..runs.output import Output
from .inventory import inventory
from .parser import Parser


def list_(arguments: list[str]) -> None:
    r"""Prints the tables of what there is."""
    parser = Parser(prog="list")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    as_json = parser.parse_args(arguments).json
    there_is = inventory()["there is"]
    if as_json:
        print(json.dumps(there_is, indent=2))
        return
    console = Output(emoji=False)
    table = Table("method", "name", "trains", "needs", box=None, title="Methods")
    for name, row in there_is["methods"].items():
        table.add_row(name, row["heading"], ", ".join(row["trains"]), row["needs in words"])
    console.print(table)
    for line in there_is["broken methods"].values():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(whole("preset"), "method", "about", box=None, title="\nvardiu distill PRESET")
    for name, row in there_is["distill"].items():
        table.add_row(name, row["method"], row["about"])
    console.print(table)
    for title, heading, rows in (
        ("vardiu teach PRESET", whole("preset"), _abouts(there_is["teach"])),
        ("vardiu export RUN --to FORM", Column("form"), there_is["exports"]),
    ):
        table = Table(heading, "about", box=None, title=f"\n{title}")
        for name, about in rows.items():
            table.add_row(name, about)
        console.print(table)
    console.print("\nteachers (--teacher):", highlight=False)
    for about in there_is["teachers"].values():
        console.print(f"  {about}", highlight=False, markup=False)
    data = f"\ndata (--data): {', '.join(there_is['data'])}, or a folder, .npz, shards, hf://name"
    console.print(data, highlight=False)
    densities = ", ".join(there_is["densities"])
    console.print(f"\ndensities (presets, too): {densities}", highlight=False)


def whole(heading: str) -> Column:
    r"""Returns a column whose words are not broken: they are typed again."""
    return Column(heading, no_wrap=True)


def _abouts(rows: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: row["about"] for name, row in rows.items()}


COMMANDS = {"list": list_}
