r"""`vardiu list` and `vardiu cite`."""

from __future__ import annotations

from rich.table import Table

from ..cite import cited
from ..data.densities import DENSITIES
from ..data.sources import BOARD
from ..export import EXPORTS
from ..methods import METHODS
from ..runs.presets import PRESETS, TEACHERS
from ..teachers.readers import READERS
from .console import console
from .folders import existing_run
from .options import Parser, add_code_options, task_of_run
from .tables import needs


def list_(arguments: list[str]) -> None:
    r"""Prints the tables of what there is."""
    Parser(prog="list").parse_args(arguments)
    table = Table("method", "name", "trains", "needs", box=None, title="Methods")
    for name, method in METHODS.items():
        table.add_row(name, method.heading, ", ".join(method.networks), needs(method))
    console.print(table)
    for line in METHODS.broken.values():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table("preset", "method", "about", box=None, title="\nvardiu distill PRESET")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.method, preset.about)
    console.print(table)
    table = Table("preset", "about", box=None, title="\nvardiu teach PRESET")
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
    console.print("\ndensities (--name): " + ", ".join([*DENSITIES, "mixture"]), highlight=False)


def cite(arguments: list[str]) -> None:
    r"""Prints the BibTeX of a run."""
    parser = Parser(prog="cite")
    parser.add_argument("run")
    add_code_options(parser)
    chosen = parser.parse_args(arguments)
    task = task_of_run(existing_run(chosen.run), chosen)
    print("\n\n".join(cited(task.chosen, task.settings, task.problem.name).values()))


COMMANDS = {"list": list_, "cite": cite}
