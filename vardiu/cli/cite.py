r"""`vardiu cite`."""

from __future__ import annotations

from collections.abc import Mapping

from ..cite import GUIDING, SOLVED_BY, cited, restoring
from ..errors import known
from .folders import existing_run
from .guiding import was_guided
from .options import add_code_options, task_of_run
from .parser import Parser


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


COMMANDS = {"cite": cite}
