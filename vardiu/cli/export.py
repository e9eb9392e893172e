r"""`vardiu export`."""

from __future__ import annotations

import torch

from ..cite import cited
from ..errors import known
from ..export import EXPORTS, card, export, in_single_precision
from ..export.onnx import conditions
from ..export.peft import with_adapter
from ..runs.execute import device_of
from ..runs.inputs import kept_provenance
from ..students.base import Generator
from ..teachers.origin import Origin
from .console import console
from .folders import existing_run, shipped_student
from .options import add_student_options
from .parser import Parser


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
    if chosen.to == "lora":
        origin = with_adapter(origin, folder.file("adapter"))
    about = card.About(
        task.preset,
        task.chosen.heading,
        folder.result() or {},
        kept_provenance(folder),
        "\n\n".join(cited(task.chosen, task.settings, task.problem.name).values()),
        folder.file("samples.png"),
        getattr(task.problem, "data", None) or task.problem.name,
    )
    device = device_of(chosen.device)
    out = chosen.out or folder.file(f"export-{chosen.to}")
    done = export(student, chosen.to, out, origin=origin, about=about)
    console.print(
        f"written and compared: {done.folder} (largest difference {done.difference:.1e})",
        highlight=False,
        soft_wrap=True,
    )
    if device.type != "cpu":
        difference = apart(student, device, origin)
        told = f"on {device} the student's samples differ from these by {difference:.1e}"
        console.print(told, highlight=False, soft_wrap=True)


@torch.no_grad()
def apart(student: Generator, device: torch.device, origin: Origin | None) -> float:
    r"""Returns by how much a student's samples on a device differ from those on the CPU in single
    precision, as every export is compared."""
    n = 4
    z, cond = student.tried_on(n, torch.Generator().manual_seed(0)), conditions(student, n, origin)
    expected = in_single_precision(student)(z, **cond)
    there = {name: value.to(device) for name, value in cond.items()}
    found = student.to(device)(z.to(device), **there)
    return float((found.cpu() - expected).abs().max())


COMMANDS = {"export": export_}
