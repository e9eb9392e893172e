r"""`vardiu export`."""

from __future__ import annotations

import dataclasses

from ..cite import cited
from ..errors import known
from ..export import EXPORTS, card, export
from ..runs.inputs import kept_provenance
from .console import console
from .folders import existing_run, shipped_student
from .options import Parser, add_student_options


def export_(arguments: list[str]) -> None:
    r"""Writes a student in another form; says done when it was loaded again and compared."""
    parser = Parser(prog="export")
    parser.add_argument("run")
    parser.add_argument("--to", required=True, help=f"one of: {', '.join(EXPORTS)}")
    parser.add_argument("--out", help="the folder to write; RUN/export-FORM by default")
    add_student_options(parser)
    chosen = parser.parse_args(arguments)
    folder = existing_run(chosen.run)
    chosen.to = known(chosen.to, EXPORTS, "form")
    student, problem, task = shipped_student(folder, chosen)
    origin = problem.origin
    if chosen.to == "lora" and origin is not None and folder.file("adapter").is_dir():
        parts = {**origin.parts, "adapter": folder.file("adapter")}
        origin = dataclasses.replace(origin, parts=parts)
    about = card.About(
        task.preset,
        task.chosen.heading,
        folder.result() or {},
        kept_provenance(folder),
        "\n\n".join(cited(task.chosen, task.settings, task.problem.name).values()),
        folder.file("samples.png"),
        getattr(task.problem, "data", None) or task.problem.name,
    )
    out = chosen.out or folder.file(f"export-{chosen.to}")
    done = export(student, chosen.to, out, origin=origin, about=about)
    console.print(
        f"written and compared: {done.folder} (largest difference {done.difference:.1e})",
        highlight=False,
        soft_wrap=True,
    )


COMMANDS = {"export": export_}
