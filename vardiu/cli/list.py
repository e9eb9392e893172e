r"""`vardiu list` and `vardiu cite`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from ..cite import GUIDING, SOLVED_BY, cited, restoring
from ..data.densities import DENSITIES
from ..data.sources import BOARD
from ..errors import known
from ..export import EXPORTS
from ..methods import METHODS
from ..runs.presets import PRESETS, TEACHERS, PresetRow
from ..teachers.readers import READERS
from .console import console
from .folders import existing_run
from .guiding import was_guided
from .options import Parser, add_code_options, task_of_run
from .tables import needs


def list_(arguments: list[str]) -> None:
    r"""Prints the tables of what there is."""
    parser = Parser(prog="list")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    if parser.parse_args(arguments).json:
        print(json.dumps(there_is(), indent=2))
        return
    table = Table("method", "name", "trains", "needs", box=None, title="Methods")
    for name, method in METHODS.items():
        table.add_row(name, method.heading, ", ".join(method.networks), needs(method))
    console.print(table)
    for line in METHODS.broken.values():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(whole("preset"), "method", "about", box=None, title="\nvardiu distill PRESET")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.method, preset.about)
    console.print(table)
    table = Table(whole("preset"), "about", box=None, title="\nvardiu teach PRESET")
    for name, preset in TEACHERS.items():
        table.add_row(name, preset.about)
    console.print(table)
    table = Table("form", "about", box=None, title="\nvardiu export RUN --to FORM")
    for name, exporter in EXPORTS.items():
        table.add_row(name, exporter.about)
    console.print(table)
    console.print("\nteachers (--teacher):", highlight=False)
    for plugin in READERS.values():
        console.print(f"  {plugin.about}", highlight=False, markup=False)
    data = f"\ndata (--data): {', '.join(BOARD)}, or a folder, .npz, shards, hf://name"
    console.print(data, highlight=False)
    console.print("\ndensities (presets, too): " + ", ".join(DENSITIES), highlight=False)


def whole(heading: str) -> Column:
    r"""Returns a column whose words are not broken: they are typed again."""
    return Column(heading, no_wrap=True)


def there_is() -> dict[str, Any]:
    r"""Returns what there is, for programs: rows by name."""

    def presets(table: Mapping[str, PresetRow]) -> dict[str, dict[str, str]]:
        return {
            name: {"method": row.method, "problem": row.problem.name, "about": row.about}
            for name, row in table.items()
        }

    return {
        "methods": {
            name: {
                "title": method.title,
                "year": method.year,
                "address": method.address,
                "trains": list(method.networks),
                "needs": dataclasses.asdict(method.needs),
            }
            for name, method in METHODS.items()
        },
        "broken methods": dict(METHODS.broken),
        "distill": presets(PRESETS),
        "teach": presets(TEACHERS),
        "densities": list(DENSITIES),
        "teachers": {name: reader.about for name, reader in READERS.items()},
        "data": list(BOARD),
        "exports": {name: exporter.about for name, exporter in EXPORTS.items()},
    }


def cite(arguments: list[str]) -> None:
    r"""Prints the BibTeX of a run."""
    parser = Parser(prog="cite")
    parser.add_argument("run")
    add_code_options(parser)
    chosen = parser.parse_args(arguments)
    folder = existing_run(chosen.run)
    config = folder.config()
    if config.get("command") == "restore":
        projection = config.get("projection")
        kind = projection.get("kind") if isinstance(projection, Mapping) else projection
        solver = known(str(config.get("solver")), SOLVED_BY, "solver")
        print("\n\n".join(restoring(solver, str(kind)).values()))
        return
    task = task_of_run(folder, chosen)
    entries = cited(task.chosen, task.settings, task.problem.name)
    if was_guided(folder):
        entries |= GUIDING
    print("\n\n".join(entries.values()))


COMMANDS = {"list": list_, "cite": cite}
