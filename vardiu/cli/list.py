r"""`vardiu list`, `vardiu cite` and `vardiu probe`."""

from __future__ import annotations

from rich.table import Table

from .. import cite as papers
from ..data.densities import DENSITIES
from ..data.sources import BOARD
from ..export import EXPORTS
from ..methods import METHODS
from ..runs.presets import PRESETS, TEACHERS
from ..runs.task import Task, load_task, method_of, problem_of
from ..teachers.probe import checked
from ..teachers.readers import READERS
from .console import console
from .options import Parser, _resolve
from .sample import _run

# ---------------------------------------------------------------- list, cite, probe


def list_(arguments: list[str]) -> None:
    r"""Prints the tables of what there is."""
    Parser(prog="list").parse_args(arguments)
    table = Table("method", "name", "trains", "needs data", box=None, title="Methods")
    for name, method in METHODS.items():
        table.add_row(name, method.title, method.networks, "yes" if method.data else "no")
    console.print(table)
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
    task = load_task(_run(parser.parse_args(arguments).run).file("config.yaml"))
    print(papers.bibtex(_citations(task)))


def _citations(task: Task) -> list[str]:
    r"""Returns the keys of what a run used."""
    method = method_of(task.command, task.method)
    keys = [*method.cite, *method.also.get(getattr(task.settings, "posterior", ""), ())]
    keys += ["digits"] if task.problem.name == "digits" else []
    keys += ["edm"] if task.problem.name == "digits" or task.command == "teach" else []
    return [*keys, "vardiu_software"]


def probe(arguments: list[str]) -> None:
    r"""Measures the denoising error of a preset's teacher."""
    task, _, _ = _resolve("distill", arguments)
    problem = problem_of(task)
    rows = checked(problem.data.unguided, *problem.data.reference(512), problem.data.resample)
    table = Table("sigma", "squared error", "a linear denoiser's", box=None)
    for row in rows:
        error = f"{row.error:.4g} ± {row.deviation:.2g}"
        table.add_row(f"{row.sigma:.3g}", error, f"{row.linear:.4g}")
    console.print(table)
    console.print("it denoises.")


COMMANDS = {"list": list_, "cite": cite, "probe": probe}
