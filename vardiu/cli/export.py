r"""`vardiu export`."""

from __future__ import annotations

import filecmp
import re
from pathlib import Path
from typing import Any

import torch

from ..cite import cited
from ..errors import ConfigError, RunError, known, shown
from ..export import EXPORTS, card, export, in_single_precision
from ..export.onnx import conditions
from ..export.peft import with_adapter
from ..runs.execute import device_of
from ..runs.inputs import kept_provenance
from ..settings.ranges import RANGES
from ..storage.bounded import read_json
from ..storage.run_folder import RunFolder, is_metric
from ..students.base import Generator
from ..teachers.origin import Origin
from .by_calls import STUDENT
from .console import console
from .folders import asked, existing_run, shipped_student
from .options import add_student_options
from .parser import Parser
from .sample import add_calls_option, of_calls


def export_(arguments: list[str]) -> None:
    r"""Writes a student in another form; says done when it was loaded again and compared."""
    parser = Parser(prog="export")
    parser.add_argument("run")
    parser.add_argument("--to", required=True, help=f"one of: {', '.join(EXPORTS)}")
    parser.add_argument("--out", help="the folder to write; RUN/export-FORM by default")
    add_calls_option(parser)
    add_student_options(parser)
    chosen = parser.parse_args(arguments)
    folder = existing_run(chosen.run)
    chosen.to = known(chosen.to, EXPORTS, "form")
    refusal = None if chosen.calls is None else RANGES["calls"].refusal(chosen.calls)
    if refusal is not None:
        raise ConfigError(f"--calls must {refusal}, got {chosen.calls:,}")
    student, problem, task = shipped_student(folder, chosen)
    student, of = (
        asked(student, chosen.calls, chosen.guidance),
        of_calls(chosen.calls, chosen.guidance),
    )
    origin = problem.origin
    if chosen.to == "lora":
        refuse_other_adapter(folder, chosen.calls)
        origin = with_adapter(origin, folder.file("adapter"))
    about = card.About(
        task.preset,
        task.chosen.heading,
        told_of(folder, chosen.calls, chosen.guidance),
        kept_provenance(folder),
        "\n\n".join(cited(task.chosen, task.settings, task.problem.name).values()),
        None if of else folder.file("samples.png"),
        getattr(task.problem, "data", None) or task.problem.name,
    )
    device = device_of(chosen.device)
    out = chosen.out or folder.file(f"export-{chosen.to}{of}")
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


def told_of(folder: RunFolder, calls: int | None, guidance: float | None) -> dict[str, Any]:
    r"""Returns what a run's card tells of the student that is exported: of one of other calls or
    another scale than the run's own, what `vardiu evaluate` measured of the most samples."""
    result = folder.result() or {}
    if calls is None and guidance is None:
        return result
    alone = re.compile(rf"-seed\d+{re.escape(of_calls(calls, guidance))}")
    beside = re.compile(rf"-seed\d+-calls[\d-]+{re.escape(of_calls(None, guidance))}")
    found = list[list[dict[str, Any]]]()
    for path in sorted(folder.path.glob("evaluation-*.json")):
        place = path.stem.find("-seed")
        if alone.fullmatch(path.stem, place):
            found.append(measured_rows(path, read_json(path).get("metrics")))
        elif beside.fullmatch(path.stem, place):
            rows = read_json(path).get("rows")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise RunError(f"{shown(path)} is damaged: it must hold rows{MEASURE_AGAIN}")
            found += [
                measured_rows(path, row.get("metrics"))
                for row in rows
                if (row.get("who"), row.get("calls")) == (STUDENT, calls)
            ]
    return {**result, "metrics": max(found, key=lambda rows: rows[0]["n"], default=[])}


MEASURE_AGAIN = "; move it away, and measure again with vardiu evaluate"


def measured_rows(path: Path, rows: object) -> list[dict[str, Any]]:
    r"""Returns the metrics that a file of a measurement holds.

    Raises:
        RunError: They are none.
    """
    if not isinstance(rows, list) or not rows or not all(map(is_metric, rows)):
        raise RunError(f"{shown(path)} is damaged: it must hold metrics{MEASURE_AGAIN}")
    return rows


def refuse_other_adapter(folder: RunFolder, calls: int | None) -> None:
    r"""Raises a `ConfigError` if the student of so many calls is not the one whose adapter the run
    keeps, which is its last."""
    own, last = folder.student_of(calls), folder.file("student")
    weights = "model.safetensors"
    if own != last and not filecmp.cmp(own / weights, last / weights, shallow=False):
        raise ConfigError(
            f"--calls: the adapter that the run keeps is that of its last student, not of the one "
            f"of {calls}: export it --to diffusers, with the adapter merged"
        )


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
